"""Everything open, by session and by instance, so that a withdrawal finds it at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instances.gateway.connection import Client
    from instances.gateway.session import Session


class Registry:
    """A connection belongs to the session it last showed; idle ones too, so nothing survives a withdrawal."""

    def __init__(self) -> None:
        self._by_session: dict[str, set[Client]] = {}
        self._by_instance: dict[str, set[Client]] = {}

    def bind(self, client: Client, session: Session) -> tuple[int, int]:
        """Note whose connection it is; returns how many connections the session and the instance have."""
        self.release(client)
        client.session = session
        of_session = self._by_session.setdefault(session.sid, set())
        of_session.add(client)
        of_instance = self._by_instance.setdefault(session.instance, set())
        of_instance.add(client)
        return len(of_session), len(of_instance)

    def release(self, client: Client) -> None:
        session, client.session = client.session, None
        if session is not None:
            _discard(self._by_session, session.sid, client)
            _discard(self._by_instance, session.instance, client)

    def holds(self, sid: str) -> bool:
        return sid in self._by_session

    def of_session(self, sid: str) -> Iterator[Client]:
        return iter(tuple(self._by_session.get(sid, ())))

    def of_instance(self, instance: str) -> Iterator[Client]:
        return iter(tuple(self._by_instance.get(instance, ())))


def _discard(index: dict[str, set[Client]], key: str, client: Client) -> None:
    clients = index.get(key)
    if clients is not None:
        clients.discard(client)
        if not clients:
            del index[key]
