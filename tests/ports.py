"""Ports for programs that tests start, which may take a minute before they listen."""

from __future__ import annotations

import itertools
import os
import random
import socket
from contextlib import ExitStack

#: below the ports that the kernel gives to connections by itself; each process of the suite has a share of its own
_FIRST, _SHARE, _SHARES = 20_000, 1_000, 10
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw")) + 1
_turns = itertools.count(random.randrange(_SHARE))


def free_port(count: int = 1) -> int:
    """Return the first of `count` free ports in a row; nobody is given one again before all others had their turn.

    OSError when none are free.
    """
    first = _FIRST + _WORKER % _SHARES * _SHARE
    for _ in range(_SHARE):
        at = [first + next(_turns) % _SHARE for _ in range(count)]
        if at[-1] - at[0] == count - 1 and _are_free(at):
            return at[0]
    raise OSError(f"no {count} free ports in a row from {first} on")


def free_ports(count: int) -> list[int]:
    """Return ports one by one."""
    return [free_port() for _ in range(count)]


def _are_free(ports: list[int]) -> bool:
    with ExitStack() as held:
        try:
            for port in ports:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
