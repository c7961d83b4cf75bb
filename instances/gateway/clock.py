"""The portal's time, as its heartbeats tell it: cookies expire by PostgreSQL's clock, not by this machine's."""

from __future__ import annotations

import time


class Clock:
    """`now()` in seconds since the epoch; steady between heartbeats whatever happens to the machine's clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset

    def set(self, portal_now: float) -> None:
        self._offset = portal_now - time.monotonic()
