"""Listening sockets: bound once, accepted from at a measured pace, given up without losing who waits in the queue."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from instances.gateway.config import CannotStart, Config
from instances.gateway.log import Log
from instances.gateway.metrics import Metrics

_BACKLOG = 1024
_AT_ONCE = 64
#: how long nothing is accepted when the machine has no descriptors or no memory left
_BACK_OFF = 0.5
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

Take = Callable[[socket.socket, str], None]


@dataclass(frozen=True)
class Door:
    """A bound socket; `redirects` answers everything with the way to https."""

    sock: socket.socket
    redirects: bool = False

    @property
    def port(self) -> int:
        port: int = self.sock.getsockname()[1]
        return port


def bind(config: Config, *, shared: bool = False) -> list[Door]:
    """Listen on all addresses; raises CannotStart. `shared` lets further sockets of ours bind the same ones."""
    doors: list[Door] = []
    for redirects, addresses in ((False, config.listen), (True, config.redirect_listen)):
        for host, port in addresses:
            try:
                doors.append(Door(_bound(host, port, shared), redirects))
            except OSError as error:
                if ":" in host and doors and error.errno in _NO_IPV6:
                    continue  # a machine without IPv6
                raise CannotStart(
                    f"Port {port} on {host} is taken or not allowed ({os.strerror(error.errno or 0)}). "
                    "Stop what uses it, or choose another with PORT."
                ) from error
    return doors


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)
    sock.setblocking(False)
    return sock


class Listener:
    """Accepts from one socket and hands each connection to `take`."""

    def __init__(self, door: Door, take: Take, log: Log, metrics: Metrics) -> None:
        self.door = door
        self._take = take
        self._log = log
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._pause = None
        self._loop.add_reader(self.door.sock, self._accept)

    def stop(self) -> None:
        """Accept no more. The socket stays open: another process may go on with the same queue."""
        self._loop.remove_reader(self.door.sock)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def close(self) -> None:
        self.stop()
        self.door.sock.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, peer = self.door.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                continue  # this one connection broke before we took it
            sock.setblocking(False)
            self._take(sock, peer[0])

    def _back_off(self, error: OSError) -> None:
        """Who waits stays in the kernel's queue; asking at once again would only burn the processor."""
        self._log.event("warning", "cannot accept", error=error.strerror, seconds=_BACK_OFF)
        self._metrics.pauses += 1
        self._loop.remove_reader(self.door.sock)
        self._pause = self._loop.call_later(_BACK_OFF, self.start)
