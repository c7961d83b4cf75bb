"""Connections to back ends: unix sockets checked before and after connecting, TCP, and the pool of idle ones."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

CONNECT_TIMEOUT = 2.0
#: below the keep-alive of the back ends (uvicorn 5 s, tornado 3,600 s)
IDLE_LIMIT = 4.0
IDLE_PER_KEY = 64
WRITE_LIMIT = 128 * 1024


class NotConnected(OSError):
    """The back end cannot be reached, or is not who it should be."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A unix socket's path, or an address and whose it is: one that is another's by now is another endpoint."""

    path: str = ""
    host: str = ""
    port: int = 0
    uid: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> Endpoint:
        return cls(row["path"]) if row.get("path") else cls("", row["host"], int(row["port"]), row.get("uid", ""))

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `unix:<path>`, `unix://<path>`, `http://host:port` or `host:port`."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            return cls("/" + path.lstrip("/") if path.startswith("//") else path)
        host, _, port = text.removeprefix("http://").rstrip("/").rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"{text} is neither unix:<path> nor host:port")
        return cls("", host.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class Target:
    """A back end: its key in the pool, where it is, our own header lines for it, whether it may be hostile."""

    key: Hashable
    endpoint: Endpoint
    ours: bytes
    guarded: bool


class User(Protocol):
    """Who uses a connection: an exchange."""

    def from_upstream(self, data: bytes) -> None: ...
    def upstream_lost(self, error: Exception | None) -> None: ...
    def pause_client(self) -> None: ...
    def resume_client(self) -> None: ...


class Upstream(asyncio.Protocol):
    """One connection to a back end; idle in the pool or used by one exchange."""

    __slots__ = ("fresh", "idle_since", "key", "pool", "transport", "user")
    transport: asyncio.Transport

    def __init__(self, pool: Pool, key: Hashable) -> None:
        self.pool = pool
        self.key = key
        self.user: User | None = None
        self.fresh = True
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def data_received(self, data: bytes) -> None:
        if self.user is None:  # nobody asked for anything
            self.pool.forget(self)
            self.transport.abort()
        else:
            self.user.from_upstream(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.forget(self)
        user, self.user = self.user, None
        if user is not None:
            user.upstream_lost(exc)

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.pause_client()

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.resume_client()

    def close(self) -> None:
        self.user = None
        self.transport.abort()


class Pool:
    """Idle connections by target, last in first out, and the way to make new ones."""

    def __init__(self, may_serve: Callable[[int], bool]) -> None:
        self._may_serve = may_serve
        self._idle: dict[Hashable, deque[Upstream]] = {}

    def take(self, key: Hashable) -> Upstream | None:
        idle = self._idle.get(key)
        while idle:
            upstream = idle.pop()
            if not upstream.transport.is_closing():
                upstream.fresh = False
                return upstream
        return None

    def give_back(self, upstream: Upstream) -> None:
        upstream.user = None
        idle = self._idle.get(upstream.key)
        if idle is None:
            idle = self._idle[upstream.key] = deque()
        if upstream.transport.is_closing() or len(idle) >= IDLE_PER_KEY:
            upstream.close()
            return
        upstream.idle_since = time.monotonic()
        idle.append(upstream)

    def forget(self, upstream: Upstream) -> None:
        idle = self._idle.get(upstream.key)
        if idle is not None:
            if upstream in idle:
                idle.remove(upstream)
            if not idle:
                del self._idle[upstream.key]

    def drop(self, instance: str) -> None:
        """Close the idle connections to an instance."""
        for key in [key for key in self._idle if isinstance(key, tuple) and key[0] == instance]:
            for upstream in self._idle.pop(key):
                upstream.close()

    def expire(self) -> None:
        limit = time.monotonic() - IDLE_LIMIT
        for idle in list(self._idle.values()):
            for upstream in [one for one in idle if one.idle_since < limit]:
                upstream.transport.close()
                self.forget(upstream)

    async def connect(self, target: Target) -> Upstream:
        """Make a new connection; raises NotConnected.

        Once there is one, nothing more is waited for but our own loop: that it was late is no fault of the back end.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                sock = await open_socket(target.endpoint, self._may_serve if target.guarded else None)
            try:
                make = loop.create_unix_connection if target.endpoint.path else loop.create_connection
                _, upstream = await make(lambda: Upstream(self, target.key), sock=sock)
            except BaseException:
                sock.close()
                raise
        except TimeoutError:
            raise NotConnected("no connection in time") from None
        except NotConnected:
            raise
        except OSError as error:
            raise NotConnected(error.strerror or "not connected") from error
        return upstream


async def open_socket(endpoint: Endpoint, may_serve: Callable[[int], bool] | None = None) -> socket.socket:
    """Return a connected non-blocking socket. `may_serve` judges the uid behind a unix socket."""
    loop = asyncio.get_running_loop()
    if not endpoint.path:
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, (endpoint.host, endpoint.port))
        except BaseException:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await _connect_unix(sock, endpoint.path)
        if may_serve is not None and not may_serve(peer_uid(sock)):
            raise NotConnected("another user answers on this socket")
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix(sock: socket.socket, path: str) -> None:
    """Connect to the very socket that was looked at: who owns its folder cannot swap it for a link in between.

    An O_PATH handle pins the inode; connecting goes through /proc, which also lifts the limit of 107 bytes.
    """
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise NotConnected("this is no socket")
        while True:
            try:
                sock.connect(f"/proc/self/fd/{handle}")
            except BlockingIOError:  # the listener's queue is full
                await asyncio.sleep(0.02)
            else:
                return
    finally:
        os.close(handle)


def peer_uid(sock: socket.socket) -> int:
    """Return the uid of the process that listens at the other end of a unix socket."""
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
