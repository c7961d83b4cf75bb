"""Thousands of requests aborted in every way, and thousands of idle sockets, leave memory and descriptors flat."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from instances.gateway.tunnel import accept_of
from tests.gateway.harness import Harness, Wire, request
from tests.gateway.processes import SLUG, Front, Service, descriptors
from tests.gateway.test_metrics import scrape
from tests.ports import free_port

_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_BIG = b"x" * 3_000_000
#: what an allocator may keep; a leak of a kilobyte for each of thousands of requests would be more
_SPARE_BYTES = 3_000_000
_THREADS = 12
#: close with a reset
_AT_ONCE = struct.pack("ii", 1, 0)


class Hostile(Service):
    """Answers as the path says, and well only for those that ask for nothing special."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ")[1]
                if path == b"/echo":
                    await super()._serve(_again(head, reader), writer)
                    return
                await self._answer(path, reader, writer)
        _reset(writer)

    async def _answer(self, path: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path == b"/silent":
            await reader.read()
        elif path == b"/cut-head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            raise ConnectionError
        elif path == b"/cut-body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
            await writer.drain()
            raise ConnectionError
        elif path == b"/cut-chunk":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf")
            raise ConnectionError
        elif path == b"/nonsense":
            writer.write(b"\x00\x01HTTP/9 what\r\n\r\n" * 10)
        elif path == b"/big":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_BIG) + _BIG)
        elif path == b"/socket-cut":
            fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n" % accept_of(_KEY)
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\nhello")
            await reader.read(10)
            raise ConnectionError
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()


def _again(head: bytes, reader: asyncio.StreamReader) -> asyncio.StreamReader:
    """Put a head back in front of what is still to come."""
    reader._buffer[:0] = head  # type: ignore[attr-defined]
    return reader


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()


# ---- clients that give up ----
class Quitter:
    """Every way to leave a request before its end; even ones with a reset, odd ones with a plain close."""

    def __init__(self, front: Front, service: Service) -> None:
        self._front, self._service = front, service
        self.ways: list[Callable[[Wire], None]] = [
            self.no_byte,
            self.half_head,
            self.half_body,
            self.no_body,
            self.before_the_answer,
            self.in_the_answer,
            self.without_reading,
            self.in_a_socket,
            self.in_a_handshake,
            self.with_nonsense,
            *[self._of_the_back_end(path) for path in ("/cut-head", "/cut-body", "/cut-chunk", "/nonsense")],
            self.cut_socket,
            self.whole,
            self.to_the_portal,
        ]

    def run(self, number: int) -> None:
        wire = self._front.connect()
        with contextlib.suppress(ConnectionError, EOFError):
            self.ways[number % len(self.ways)](wire)
        if number % 2:
            with contextlib.suppress(OSError):
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        wire.sock.close()

    def _ask(self, path: str, method: str = "GET", **fields: str) -> bytes:
        host = self._front.gateway.host(SLUG)
        return request(method, path, host, Cookie=self._service.cookie, Sec_Fetch_Site="same-origin", **fields)

    def _handshake(self, path: str) -> bytes:
        origin = f"http://{self._front.gateway.host(SLUG)}"
        fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
        return self._ask(path, Origin=origin, Sec_WebSocket_Key=_KEY.decode(), **fields)

    def no_byte(self, wire: Wire) -> None:
        pass

    def half_head(self, wire: Wire) -> None:
        wire.send(self._ask("/")[:-7])

    def half_body(self, wire: Wire) -> None:
        wire.send(self._ask("/", "POST", Content_Length="100000") + b"x" * 10_000)

    def no_body(self, wire: Wire) -> None:
        wire.send(self._ask("/", "POST", Transfer_Encoding="chunked") + b"5\r\nhel")

    def before_the_answer(self, wire: Wire) -> None:
        wire.send(self._ask("/silent"))

    def in_the_answer(self, wire: Wire) -> None:
        wire.send(self._ask("/big"))
        wire.take(100_000)

    def without_reading(self, wire: Wire) -> None:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(self._ask("/big"))
        wire.head()

    def in_a_socket(self, wire: Wire) -> None:
        wire.send(self._handshake("/echo"))
        wire.head()
        wire.send(b"x" * 100_000)

    def in_a_handshake(self, wire: Wire) -> None:
        wire.send(self._handshake("/silent"))

    def cut_socket(self, wire: Wire) -> None:
        wire.send(self._handshake("/socket-cut"))
        wire.head()
        wire.send(b"bye")
        wire.to_end()

    def with_nonsense(self, wire: Wire) -> None:
        wire.send(b"\x16\x03\x01\x00GET / HTTP/1.1\r\n\r\n")
        wire.to_end()

    def whole(self, wire: Wire) -> None:
        wire.send(self._ask("/"))
        assert wire.reply().body == b"hello"

    def to_the_portal(self, wire: Wire) -> None:
        wire.send(self._front.request("/"))
        wire.head()

    def _of_the_back_end(self, path: str) -> Callable[[Wire], None]:
        def work(wire: Wire) -> None:
            wire.send(self._ask(path))
            wire.to_end()

        return work


# ---- the proof ----
class Soak:
    def __init__(self, front: Front, service: Service, metrics: int) -> None:
        self.front, self.service, self._metrics = front, service, metrics
        self._quitter = Quitter(front, service)
        self.processes = front.children()
        self.aborted = 0

    def round(self, requests: int, idle: int) -> None:
        """Abort so many requests while so many idle sockets are open, then abort those."""
        sockets: list[Wire] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            sockets += pool.map(lambda _: self.front.socket(self.service.cookie), range(idle))
            list(pool.map(self._quitter.run, range(requests)))
        assert scrape(self._metrics)["tunnels"] >= idle
        for wire in sockets:
            wire.sock.close()
        self.aborted += requests

    def rest(self) -> dict[int, tuple[int, int]]:
        """Wait until nothing is open any more; return memory and descriptors of each process."""
        self.front.until(lambda: self._open() == 0, 30)
        # pooled connections to back ends, and the scrape's own
        self.front.until(lambda: all(len(descriptors(pid)) <= 30 for pid in self.processes), 30)
        assert self.front.children() == self.processes, "none has died"
        return {pid: (_resident(pid), len(descriptors(pid))) for pid in self.processes}

    def _open(self) -> float:
        found = scrape(self._metrics)
        return found["connections"] + found["tunnels"] + found["opening"]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture
def soak() -> Iterator[Soak]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = {f"GATEWAY_CONNECTIONS_PER_{what}": "20000" for what in ("ADDRESS", "SESSION", "INSTANCE")}
    port = free_port()
    with Harness() as gateway:
        service = Hostile(gateway)
        with Front(gateway, GATEWAY_PROCESSES="2", GATEWAY_METRICS_LISTEN=f"127.0.0.1:{port}", **many) as front:
            yield Soak(front, service, port)
        service.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_flat(before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]) -> None:
    for pid, (memory, files) in after.items():
        assert memory - before[pid][0] < _SPARE_BYTES, (before, after)
        assert abs(files - before[pid][1]) <= 5, (before, after)


def test_aborted_requests_and_idle_sockets_leave_nothing(soak: Soak) -> None:
    for _ in range(2):  # what is imported, cached and allocated once
        soak.round(300, 100)
    before = soak.rest()
    soak.round(1500, 100)
    assert_flat(before, soak.rest())
    assert soak.front.get(cookie=soak.service.cookie).status == 200


def test_closed_sockets_are_freed_without_the_collector() -> None:
    """Circles would wait for the garbage collector, which has little reason to look for old ones."""
    with Harness() as gateway:
        service = Service(gateway)
        front = Front(gateway)
        front.port = gateway.port
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            wires = [front.socket(service.cookie) for _ in range(50)]
            for number, wire in enumerate(wires):
                if number % 2:
                    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                wire.sock.close()
            gateway.until(lambda: not gateway.gateway._clients)
            gateway.call(gc.collect)
            left = Counter(type(found).__name__ for found in gc.garbage if "gateway" in type(found).__module__)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        assert not {"Tunnel", "End", "Client", "Exchange"} & left.keys(), left
        service.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_long_soak(soak: Soak) -> None:
    """`BEAMPORT_SOAK_SECONDS` of it; figures are in docs/reference/gateway-soak.md."""
    seconds = float(os.environ.get("BEAMPORT_SOAK_SECONDS", "300"))
    for _ in range(5):
        soak.round(2000, 2000)
    before = soak.rest()
    print("after warm-up", soak.aborted, before)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        soak.round(2000, 2000)
        print(f"{until - time.monotonic():.0f} s left", soak.aborted, soak.rest(), flush=True)
    after = soak.rest()
    print("at the end", soak.aborted, after)
    assert_flat(before, after)
