"""What every template may use."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest


@cache
def version() -> str:
    """The version that pyproject.toml names."""
    project = tomllib.loads((settings.BASE_DIR / "pyproject.toml").read_text())
    return str(project["project"]["version"])


def portal(request: HttpRequest) -> dict[str, Any]:
    return {"demo": settings.DEMO, "version": version(), "request_id": getattr(request, "request_id", "")}
