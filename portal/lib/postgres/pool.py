"""Connections that are used again, and the memory of an outage: one of each in a process."""

from __future__ import annotations

import select
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors, pq

from portal.lib.postgres import PAUSE, limits

#: how much longer than the server's own limit of a statement a client waits for its answer
GRACE = 1.0
#: how many times as long as for an answer one waits for a connection of one's own
QUEUE = 4


class Connection(psycopg.Connection[Any]):
    """One that gives up on a server which does not answer; it is closed then, as nobody knows what it is doing."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is None and limits.patience is not None:
            timeout = limits.patience + GRACE
        try:
            return super().wait(gen, interval, timeout)
        except errors._WaitTimeout as error:
            self.pgconn.finish()
            outage.began()
            raise errors.OperationalError("the server does not answer") from error


class Outage:
    """Whether the database was away a moment ago: then one asks each second, and the others hear it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self.known = False

    def check(self) -> None:
        """Raise what the last one heard, unless it is time to ask again; then the caller is the one who asks."""
        if not self.known:
            return
        with self._lock:
            now = time.monotonic()
            if now < self._until:
                raise errors.OperationalError("the database is away")
            self._until = now + (limits.patience or 0) + GRACE

    def began(self) -> None:
        with self._lock:
            self.known, self._until = True, time.monotonic() + PAUSE
        pool.clear()

    def ended(self) -> None:
        self.known = False


class Pool:
    """At most `limits.connections` at a time. The one used last is handed out first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        #: weak, so that what a thread lost without giving it back counts no more
        self._used: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._making = 0

    @property
    def in_use(self) -> int:
        return len(self._used)

    def take(self, make: Callable[[], Connection]) -> Connection:
        """Return an idle connection or a new one; wait for one to come back when there are as many as may be."""
        with self._changed:
            if not self._has_room():
                self._wait()
            if (kept := self._pop()) is not None:
                self._used.add(kept)
                return kept
            self._making += 1
        made = None
        try:
            made = make()
        finally:
            with self._changed:
                self._making -= 1
                if made is not None:
                    self._used.add(made)
                self._changed.notify()
        return made

    def _wait(self) -> None:
        """Wait for room, longer than for an answer: the server may be well and only much asked. Not in an outage."""
        longest = None if limits.patience is None else limits.patience * QUEUE
        if not self._changed.wait_for(lambda: outage.known or self._has_room(), longest):
            raise errors.OperationalError("no connection is free")
        if outage.known:
            raise errors.OperationalError("the database is away")

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next one, unless something is unfinished in it or the server is in doubt."""
        clean = not connection.closed and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        keep = clean and not outage.known
        if not keep:
            connection.close()
        with self._changed:
            self._used.discard(connection)
            if keep:
                self._idle.append(connection)
            self._changed.notify()

    def clear(self) -> None:
        """Close what is idle."""
        with self._changed:
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for connection in idle:
            connection.close()

    def _has_room(self) -> bool:
        return self.in_use + self._making < limits.connections

    def _pop(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not _spoken(connection):
                return connection
            connection.close()
        return None


def _spoken(connection: Connection) -> bool:
    """Whether the server said something on an idle connection: that is goodbye, or the end of the stream."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


pool = Pool()
outage = Outage()
