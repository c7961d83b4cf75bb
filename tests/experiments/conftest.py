"""A Python with EXtra-data, as instances have it; and the people of the tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def reader(settings: Any) -> Path:
    """The analysis image's interpreter. `make test` builds it; a lone pytest may name one by EXTRA_DATA_PYTHON."""
    images = os.environ.get("BEAMPORT_TEST_IMAGES")
    named = os.environ.get("EXTRA_DATA_PYTHON") or (f"{images}/jupyter/bin/python" if images else "")
    if not named or not os.access(named, os.X_OK):
        reason = "needs the analysis image: run `make test`, or set EXTRA_DATA_PYTHON"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    settings.EXTRA_DATA_PYTHON = named
    return Path(named)
