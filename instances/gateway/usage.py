"""What passed through, per session, until the portal has it."""

from __future__ import annotations

import uuid
from typing import Any


class Counts:
    __slots__ = ("received", "requests", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.requests = 0


class Usage:
    """Counts go out in numbered reports. One is sent until it is confirmed, always with the same number and contents,
    so that the portal, which applies each number once, counts nothing twice and misses nothing.
    """

    def __init__(self) -> None:
        self._gateway = str(uuid.uuid4())
        self._counts: dict[str, Counts] = {}
        self._number = 0
        self._report: dict[str, Any] | None = None

    def add(self, sid: str, received: int, sent: int, requests: int) -> None:
        counts = self._counts.get(sid)
        if counts is None:
            counts = self._counts[sid] = Counts()
        counts.received += received
        counts.sent += sent
        counts.requests += requests

    def report(self) -> dict[str, Any] | None:
        """Return the report that is due, None when nothing has passed."""
        if self._report is None and self._counts:
            counts, self._counts = self._counts, {}
            self._number += 1
            rows = [
                {"sid": sid, "received": one.received, "sent": one.sent, "requests": one.requests}
                for sid, one in counts.items()
            ]
            self._report = {"gateway": self._gateway, "number": self._number, "sessions": rows}
        return self._report

    def confirm(self) -> None:
        """The portal has the report."""
        self._report = None
