"""What passed through, per instance, until the next report."""

from __future__ import annotations


class Counts:
    __slots__ = ("received", "requests", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.requests = 0


class Usage:
    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}

    def add(self, instance: str, received: int, sent: int, requests: int) -> None:
        counts = self._counts.get(instance)
        if counts is None:
            counts = self._counts[instance] = Counts()
        counts.received += received
        counts.sent += sent
        counts.requests += requests

    def take(self, instance: str) -> Counts:
        """Return what has gathered for an instance, and begin anew."""
        return self._counts.pop(instance, None) or Counts()
