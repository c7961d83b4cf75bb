"""Whether a child that lives also works: asked again and again, beside the parent, which must never wait for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from portal.embedded.processes import Child

#: seconds between two questions
EVERY = 2.0


class Watch:
    """Ends a child that has not answered for `silence` seconds; its parent then starts it again like a dead one.

    A child whose program has no `healthy` question is left alone: above all the supervisor, whose sessions die with it.
    """

    def __init__(self, child: Child, silence: float) -> None:
        self._child, self._silence = child, silence
        self._well_at = time.monotonic()  # nobody asked before, so nothing was left unanswered
        self._over = threading.Event()
        if child.program.healthy is not None:
            asking = (child.program.healthy,)
            threading.Thread(target=self._ask, args=asking, name=f"watch-{child.name}", daemon=True).start()

    def _ask(self, healthy: Callable[[], bool]) -> None:
        while not self._over.wait(EVERY):
            with suppress(Exception):  # no answer
                if healthy():
                    self._well_at = time.monotonic()

    def end(self) -> None:
        self._over.set()

    def check(self, say: Callable[[str], None]) -> None:
        """End the child when it has been silent for too long since it started or last answered."""
        child = self._child
        if child.program.healthy is None or child.again_at is not None or not child.alive():
            return
        silent = time.monotonic() - max(self._well_at, child.since)
        if silent > self._silence:
            say(f"{child.name} has not answered for {silent:.0f} s; it is ended. Its log: {child.log}")
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
