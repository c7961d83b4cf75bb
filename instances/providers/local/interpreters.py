"""Which Python an image may be built on: one that the plain uid of a session can run.

Below a 0700 folder it cannot be run at all, and one that finds its library by a path of its builder may silently
load the system's instead; so every candidate is tried as that uid and asked who it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: first of the uids that homes get when root runs the supervisor and nobody says otherwise
FIRST_UID = 200_000
OLDEST = (3, 11)
SYSTEM = "/usr/bin/python3"

_ASK = "import ssl, sys; print(sys.base_prefix, *sys.version_info[:3])"


class NoInterpreter(Exception):
    """No Python that a session could run; the text says what to do."""


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


def usable(interpreter: Path) -> str:
    """Return the interpreter's version when a session's uid can run it and it is itself there, else nothing."""
    ours = _answer(interpreter, None)
    if not ours or _version(ours) < OLDEST:
        return ""
    if os.geteuid() == 0 and _answer(interpreter, FIRST_UID) != ours:
        return ""
    return ".".join(str(part) for part in _version(ours))


def choose(wanted: str = "") -> tuple[Path, str]:
    """Return the real path and version of `wanted`, else of the first that fits: our own, then the system's."""
    candidates = [wanted] if wanted else [sys.executable, SYSTEM]
    for candidate in candidates:
        path = Path(candidate).resolve()
        version = usable(path)
        if version:
            return path, version
    raise NoInterpreter(
        f"No Python ≥ {OLDEST[0]}.{OLDEST[1]} that a session's uid can run (tried {', '.join(candidates)}). Install the "
        f"system's python3, or start the portal with one that lies where every user can read it."
    )
