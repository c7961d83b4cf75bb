"""A process that works says so by touching a file, and who watches over it sees how old the last word is.

Standard library only. `python -m portal.lib.beat FILE` ends with 0 while the beat is fresh, for systemd and probes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

#: older than this is no beat any more, in seconds
FRESH = 15.0


class Beat:
    """The beat of this process; the file holds its pid, and its time is that of the last word."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fresh = True

    def give(self) -> None:
        """Say that all is well. After the first time nothing is written, so that a full disk is no silence."""
        if self._fresh or not self._path.exists():
            self._path.write_text(f"{os.getpid()}\n")
            self._fresh = False
        os.utime(self._path)

    def end(self) -> None:
        """Take the word back, unless another process has taken the file over."""
        if not self._fresh and giver(self._path) == os.getpid():
            self._path.unlink(missing_ok=True)


def giver(path: Path) -> int | None:
    """Return the pid that gave the beat; None when there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def beats(path: Path, within: float = FRESH) -> bool:
    """Whether the file was touched within the last so many seconds; a clock that was set back counts as age too."""
    try:
        return abs(time.time() - path.stat().st_mtime) <= within
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if beats(Path(sys.argv[1])) else 1)
