"""Settings come from the environment; a wrong value stops the start with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from portal.lib import variables


def text(name: str, default: str | None = None, made: Path | None = None) -> str:
    """Return the variable, or what the file named by `<name>_FILE` or lying in `made` holds; no default: it must be."""
    try:
        found = variables.read(name, os.environ, made)
    except variables.BadVariable as error:
        raise ImproperlyConfigured(str(error)) from error
    if found is not None:
        return found
    if default is None:
        raise ImproperlyConfigured(f"{name} is not set. Set it, or {name}_FILE with the path of a file that holds it.")
    return default


def flag(name: str, default: bool = False) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in ("", None):
        return default
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}.")


def number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        return int(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value!r}.") from error


def words(name: str, default: str = "") -> list[str]:
    """Return a comma-separated variable as a list."""
    return [part.strip() for part in os.environ.get(name, default).split(",") if part.strip()]
