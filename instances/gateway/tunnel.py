"""An upgraded connection: bytes both ways, unread, until one side ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import time
from collections.abc import Callable

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def watch(transport: asyncio.Transport) -> None:
    """Have the kernel notice a peer that has vanished; a tunnel may be silent for hours."""
    sock = transport.get_extra_info("socket")
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)


class End(asyncio.Protocol):
    """One side of a tunnel: what it receives is written to the other."""

    __slots__ = ("count", "peer", "transport", "tunnel", "write")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.peer = peer
        self.write = peer.write
        self.count = 0

    def data_received(self, data: bytes) -> None:
        self.write(data)
        self.count += len(data)

    def pause_writing(self) -> None:
        self.peer.pause_reading()

    def resume_writing(self) -> None:
        self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer.close() if exc is None else self.peer.abort()
        self.tunnel.ended()


class Tunnel:
    """Two ends, their byte counts, and since when nothing has passed."""

    __slots__ = ("_before", "_on_end", "_since", "back", "front", "started")

    def __init__(self, front: asyncio.Transport, back: asyncio.Transport, on_end: Callable[[Tunnel], None]) -> None:
        self.front = End(self, front, back)  # receives from the client
        self.back = End(self, back, front)  # receives from the back end
        self._on_end: Callable[[Tunnel], None] | None = on_end
        self.started = self._since = time.monotonic()
        self._before = (0, 0)
        watch(front)
        watch(back)
        front.set_protocol(self.front)
        back.set_protocol(self.back)

    def moved(self, now: float) -> tuple[int, int]:
        """Return the bytes from client and from back end since the last call."""
        before, self._before = self._before, (self.front.count, self.back.count)
        moved = self._before[0] - before[0], self._before[1] - before[1]
        if moved != (0, 0):
            self._since = now
        return moved

    def idle(self, now: float) -> float:
        return now - self._since

    def abort(self) -> None:
        self.front.transport.abort()
        self.back.transport.abort()

    def ended(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
