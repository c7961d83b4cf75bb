"""Remembers, outside the checkout, for which files the labs have passed: CI need not run them twice for the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from portal.embedded import environments
from tests.bench.peers.setup import CACHE
from tests.labs.setup import java

ROOT = Path(__file__).resolve().parent.parent.parent
#: all that a journey runs through, and what starts it
DEPENDS_ON = (
    *("auth", "experiments", "instances", "portal", "deploy/identity", "frontend", "requirements", "tests"),
    *("manage.py", "pyproject.toml", "Makefile", ".ci"),
)


def marker() -> Path:
    """Return the file that exists once the labs have passed for exactly these files, this Python and this Java."""
    return marker_of(DEPENDS_ON, subprocess.run([java(), "-version"], capture_output=True).stderr)


def marker_of(paths: Sequence[str], *versions: bytes) -> Path:
    """Return the file that stands for these paths as they are now, this Python and these versions of others."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    names = sorted(name.decode() for name in set(listed) if name)
    contents = [(name, (ROOT / name).read_bytes()) for name in names if (ROOT / name).is_file()]
    parts = [part for pair in contents for part in pair]
    return CACHE / "green" / environments.fingerprint(sys.version, *versions, *parts)


def record(mark: Path) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n")
