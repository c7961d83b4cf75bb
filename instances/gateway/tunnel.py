"""An upgraded connection: bytes both ways, unread, until one side ends."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import select
import socket
import time
from collections.abc import Callable

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: set in a frame's first byte: close, ping or pong (RFC 6455 §5.5)
_CONTROL = 0x08


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


def vanished(transport: asyncio.Transport) -> bool:
    """Whether the other side has closed, although we do not read from it and so were not told."""
    return _polled(transport, select.POLLRDHUP)


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether bytes, or the end, have come that we have not read yet."""
    return _polled(transport, select.POLLIN)


def _polled(transport: asyncio.Transport, event: int) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None:  # closed meanwhile
        return False
    poll = select.poll()
    poll.register(sock.fileno(), event)
    return bool(poll.poll(0))


class End(asyncio.Protocol):
    """One side of a tunnel: what it receives is written to the other."""

    __slots__ = ("count", "peer", "stalled", "transport", "tunnel", "write")

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.peer = peer
        self.write = peer.write
        self.count = 0
        #: since when it does not take what is for it
        self.stalled = 0.0

    def data_received(self, data: bytes) -> None:
        self.write(data)
        self.count += len(data)

    def pause_writing(self) -> None:
        self.stalled = time.monotonic()
        self.peer.pause_reading()

    def resume_writing(self) -> None:
        self.stalled = 0.0
        self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer.close() if exc is None else self.peer.abort()
        self.tunnel.ended()
        del self.tunnel  # without this circle its memory is free at once


class Front(End):
    """The client's side, which also tells whether more came than its browser's answers to pings."""

    __slots__ = ("_acted",)

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport, peer: asyncio.Transport) -> None:
        super().__init__(tunnel, transport, peer)
        self._acted = False

    def data_received(self, data: bytes) -> None:
        self.write(data)
        self.count += len(data)
        # what comes is a frame, or several: the first one's opcode says enough, wherever it was cut
        if not data[0] & _CONTROL:
            self._acted = True

    def has_acted(self) -> bool:
        """Tell whether messages came since the last call: keys that were pressed, code to run."""
        acted, self._acted = self._acted, False
        return acted


class Tunnel:
    """Two ends, their byte counts, and since when nothing has passed."""

    __slots__ = ("_before", "_half", "_on_end", "_since", "back", "front", "started")

    def __init__(self, front: asyncio.Transport, back: asyncio.Transport, on_end: Callable[[Tunnel], None]) -> None:
        self.front = Front(self, front, back)  # receives from the client
        self.back = End(self, back, front)  # receives from the back end
        self._on_end = on_end
        #: since when one end is closed and the other still has to take the last bytes
        self._half = 0.0
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

    def stuck(self, now: float) -> float:
        """Return for how long an end has not taken what is for it."""
        since = [start for start in (self.front.stalled, self.back.stalled, self._half) if start]
        return now - min(since) if since else 0.0

    def abort(self) -> None:
        self.front.transport.abort()
        self.back.transport.abort()

    def ended(self) -> None:
        """One end is closed. Until the other is as well the tunnel can be withdrawn."""
        if self._half:
            self._on_end(self)
        else:
            self._half = time.monotonic()
