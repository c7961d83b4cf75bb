"""A variable of the environment, or the file that `<NAME>_FILE` names: one rule for every process (no Django)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path


class BadVariable(ValueError):
    """A variable cannot be used; the text names it and says what to do."""


def read(name: str, environment: Mapping[str, str] = os.environ, made: Path | None = None) -> str | None:
    """Return `<NAME>`, what the file `<NAME>_FILE` holds, or what lies in the folder `made`; None: none of them."""
    path = environment.get(f"{name}_FILE")
    if path is not None:
        if name in environment:
            raise BadVariable(f"{name} and {name}_FILE are both set. Unset one of them: they may differ.")
        return secret_file(f"{name}_FILE", Path(path))
    if name in environment:
        return environment[name]
    if made is not None and (made / name.lower()).is_file():
        return secret_file(name, made / name.lower())
    return None


def secret_file(name: str, path: Path) -> str:
    """Return a file's text; one that is no secret any more, or never was one, is refused."""
    try:
        with path.open() as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise BadVariable(f"{name} names {path}, which everybody on this machine can read: chmod o-r {path}")
            text = file.read().strip()
    except OSError as error:
        raise BadVariable(f"{name} names {path}, which cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadVariable(f"{name} names {path}, which is no text.") from error
    if not text:
        raise BadVariable(f"{name} names {path}, which is empty.")
    return text
