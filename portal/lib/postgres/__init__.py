"""Django's PostgreSQL backend for processes that serve: bounded in time, in connections, and in what an outage costs.

Every request of Django's ASGI handler has a thread of its own, and a connection belongs to a thread. Without a pool
each request would make one, and the old ones would stay open until the garbage collector came by. And libpq waits
for an answer for ever: a server that hangs (or a host that is gone) would hold every thread that asks.

Commands and tests are not bounded; `serve()` is for processes that answer somebody or look after something.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import close_old_connections

#: after a failure nobody but one asks for so long; the others hear at once that the database is away
PAUSE = 1.0


@dataclass
class Limits:
    """What holds in this process."""

    #: seconds for one statement; None = no end
    patience: float | None = None
    #: connections at a time, kept and used again; 0 = one for each thread, closed when the thread is done with it
    connections: int = 0


limits = Limits()


def serve(*, patience: float, connections: int = 0) -> None:
    """Bound this process; before its first connection."""
    limits.patience, limits.connections = patience, connections


def hand_back() -> None:
    """Give this thread's connection back to the pool, if there is one, for others to use."""
    if limits.connections:
        close_old_connections()
