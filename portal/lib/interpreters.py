"""Which Python other users of this machine can run (standard library only: used before anything is installed).

Below a 0700 folder an interpreter cannot be run by a plain uid at all, and one that finds its library by a path of
its builder may silently load the system's instead; so every candidate is tried as that uid and asked who it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

OLDEST = (3, 11)
NEWEST = (3, 14)
SYSTEM = "/usr/bin/python3"

_ASK = "import ssl, sys; print(sys.base_prefix, *sys.version_info[:3])"


class NoInterpreter(Exception):
    """No Python that the uid could run; the text says what to do."""


def _answer(interpreter: Path, uid: int | None) -> str:
    """What the interpreter says of itself, run as `uid` (None = as ourselves); empty when it does not run."""
    ids = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    try:
        done = subprocess.run(
            [str(interpreter), "-I", "-c", _ASK],
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            timeout=30,
            capture_output=True,
            text=True,
            **ids,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return str(done.stdout).strip() if done.returncode == 0 else ""


def _version(answer: str) -> tuple[int, ...]:
    return tuple(int(part) for part in answer.split()[-3:])


def usable(interpreter: Path, uid: int) -> str:
    """Return the interpreter's version when `uid` can run it and it is itself there, else nothing.

    Only root can try another uid; anybody else runs everything as himself.
    """
    ours = _answer(interpreter, None)
    if not ours or _version(ours)[:2] < OLDEST:
        return ""
    if os.geteuid() == 0 and _answer(interpreter, uid) != ours:
        return ""
    return ".".join(str(part) for part in _version(ours))


def candidates() -> list[str]:
    """Our own interpreter first, then the system's, then every version that lies on the PATH."""
    named = (f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1))
    found = [shutil.which(name) for name in named]
    return [sys.executable, SYSTEM, *(path for path in found if path)]


def choose(uid: int, among: Iterable[str] | None = None) -> tuple[Path, str]:
    """Return the real path and the version of the first candidate that `uid` can run."""
    tried = list(candidates() if among is None else among)
    for candidate in tried:
        path = Path(candidate).resolve()
        version = usable(path, uid)
        if version:
            return path, version
    raise NoInterpreter(
        f"No Python ≥ {OLDEST[0]}.{OLDEST[1]} that every user of this machine can run (tried {', '.join(tried)}). "
        f"Install the system's python3, or start with one that lies where every user can read it: "
        f"make run PYTHON=/usr/bin/python3"
    )
