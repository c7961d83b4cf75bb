"""Who does not read, does not send or has vanished: it costs little, holds nobody up, and is let go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

import pytest

from instances.gateway import connection, upstream
from instances.gateway.config import Limits
from tests.gateway.harness import Backend, Harness, Wire, request
from tests.gateway.test_framing import Opened, use_echo
from tests.gateway.test_sockets import ACCEPTED, handshake, tunnel

#: what one side that does not read may cost, and what the kernel's own buffers may take besides
BOUND, KERNEL = 2**19, 32 * 2**20
MORE = 200 * 2**20


def flood(gateway: Harness, writer: Any, seconds: float = 1.0) -> int:
    """Write from the back end as much as is taken; returns how much that was."""
    sent = 0

    async def work() -> None:
        nonlocal sent
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < MORE:
                writer.write(b"x" * 65_536)
                await asyncio.wait_for(writer.drain(), seconds)
                sent += 65_536

    gateway.run(work())
    return sent


def push(wire: Wire, data: bytes = b"x" * 65_536) -> int:
    """Write from the client as much as is taken; returns how much that was."""
    wire.sock.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < MORE:
            sent += wire.sock.send(data)
    wire.sock.settimeout(10)
    return sent


def deaf(backend: Backend) -> None:
    """Take the head, and then nothing."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        await asyncio.sleep(30)

    backend.handler = handler


def narrow(transport: asyncio.Transport) -> None:
    """Have the kernel take little at once."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def only_client(gateway: Harness) -> connection.Client:
    return next(iter(gateway.gateway._clients))


# ---- who does not read ----
def test_a_client_that_does_not_read_its_response_costs_little(gateway: Harness) -> None:
    backend = gateway.instance()
    ends: asyncio.Queue[Any] = asyncio.Queue()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await ends.put(writer)
        await writer.wait_closed()

    backend.handler = endless
    with gateway.connect() as wire:
        wire.send(Opened(gateway, backend, gateway.session()[1], wire).head())
        writer = gateway.run(ends.get())
        assert flood(gateway, writer) < KERNEL
        assert only_client(gateway).transport.get_write_buffer_size() < BOUND
        gateway.call(writer.transport.abort)


def test_an_instance_that_does_not_read_a_body_holds_its_client_back(gateway: Harness) -> None:
    backend = gateway.instance()
    deaf(backend)
    with gateway.connect() as wire:
        opened = Opened(gateway, backend, gateway.session()[1], wire)
        wire.send(opened.head("POST", lines=f"Content-Length: {2**30}\r\n"))
        gateway.until(lambda: backend.heads)
        assert push(wire) < KERNEL
        exchange = only_client(gateway).exchange
        assert exchange is not None
        assert exchange.upstream is not None
        assert exchange.upstream.transport.get_write_buffer_size() < BOUND


def test_a_client_that_does_not_read_its_socket_costs_little(gateway: Harness) -> None:
    _backend, cookie, ends = tunnel(gateway)
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie))
        wire.reply()
        _reader, writer = gateway.run(ends.get())
        assert flood(gateway, writer) < KERNEL
        assert only_client(gateway).transport.get_write_buffer_size() < BOUND
        gateway.call(writer.transport.abort)


@pytest.mark.parametrize("early", [False, True], ids=["after the upgrade", "before the upgrade"])
def test_an_instance_that_does_not_read_its_socket_costs_little(
    gateway: Harness, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "WRITE_LIMIT", 2**14)
    backend = gateway.instance()
    accept = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        await accept.wait()
        writer.write(ACCEPTED)
        await asyncio.sleep(30)

    backend.handler = handler
    with gateway.connect() as wire:
        wire.send(handshake(gateway, gateway.session()[1]))
        gateway.until(lambda: backend.heads)
        if early:
            exchange = only_client(gateway).exchange
            assert exchange is not None
            assert exchange.upstream is not None
            narrow(exchange.upstream.transport)
            push(wire)
        gateway.loop.call_soon_threadsafe(accept.set)
        wire.reply()
        assert push(wire) < KERNEL
        tunnelled = only_client(gateway).tunnel
        assert tunnelled is not None
        assert tunnelled.back.transport.get_write_buffer_size() < BOUND


def test_a_client_that_reads_no_answer_of_ours_gets_no_more_of_them(gateway: Harness) -> None:
    """Small requests with larger answers, which no back end slows down."""
    asked = request("GET", "/" + "a" * 100, f"127.0.0.1:{gateway.port}")
    with gateway.connect() as wire:
        sent = push(wire, asked * 500)
        assert sent < KERNEL
        assert only_client(gateway).transport.get_write_buffer_size() < BOUND
        answers, last = 0, b""
        while answers < sent // len(asked):
            data = last + wire.sock.recv(2**20)
            answers += data.count(b"HTTP/1.1 302 Found\r\n")
            last = data[-19:]


def test_a_slow_reader_gets_every_byte(gateway: Harness) -> None:
    backend = gateway.instance()
    size = 30 * 2**20

    async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65_536):
            writer.write(b"y" * 65_536)
            await writer.drain()

    backend.handler = big
    with gateway.connect() as wire:
        wire.send(Opened(gateway, backend, gateway.session()[1], wire).head())
        wire.head()
        time.sleep(0.5)
        got = len(wire.rest)
        wire.rest = b""
        while got < size:
            data = wire.sock.recv(2**20)
            assert data
            assert data.count(b"y") == len(data)
            got += len(data)
        assert got == size


def test_a_slow_reader_gets_an_early_answer_whole(gateway: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LINGER_SECONDS", 0.1)
    backend = gateway.instance()
    size = 2**20

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n" % size + b"y" * size)
        await reader.read()

    backend.handler = early
    with gateway.connect() as wire:
        opened = Opened(gateway, backend, gateway.session()[1], wire)
        gateway.until(lambda: gateway.gateway._clients)
        narrow(only_client(gateway).transport)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(opened.head("POST", lines="Content-Length: 10\r\n"))
        wire.head()
        got = len(wire.rest)
        while got < size - 200_000:
            got += len(wire.sock.recv(65_536))
        time.sleep(1.5)
        while got < size and (data := wire.sock.recv(65_536)):
            got += len(data)
        assert got == size


# ---- who has vanished, or stands still ----
def test_a_client_that_pipelines_and_vanishes_frees_the_instance(gateway: Harness) -> None:
    backend = gateway.instance()
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        await reader.read()
        closed.set()

    backend.handler = silent
    with gateway.connect() as wire:
        wire.send(Opened(gateway, backend, gateway.session()[1], wire).head() * 2)
        gateway.until(lambda: backend.heads)
    gateway.until(closed.is_set)
    gateway.until(lambda: not gateway.gateway._clients)


def test_an_instance_that_neither_reads_nor_answers_is_given_up() -> None:
    with Harness(Limits(response=0.5, drain=0.1)) as gateway, gateway.connect() as wire:
        backend = gateway.instance()
        deaf(backend)
        opened = Opened(gateway, backend, gateway.session()[1], wire)
        wire.send(opened.head("POST", lines=f"Content-Length: {2**30}\r\n"))
        with contextlib.suppress(ConnectionError):
            push(wire)
        gateway.until(lambda: not gateway.gateway._clients or only_client(gateway).exchange is None)


@pytest.mark.parametrize("closes", [False, True], ids=["stays open", "closes"])
def test_a_tunnel_whose_client_takes_nothing_is_ended(closes: bool) -> None:
    """Until then it is known, so that a withdrawal finds it."""
    with Harness(Limits(stalled=1.5, drain=0.1)) as gateway, gateway.connect() as wire:
        _backend, cookie, ends = tunnel(gateway)
        wire.send(handshake(gateway, cookie))
        wire.reply()
        _reader, writer = gateway.run(ends.get())
        flood(gateway, writer, 0.2)
        if closes:
            gateway.call(writer.close)
        assert gateway.gateway._clients
        assert gateway.gateway.registry._by_session
        gateway.until(lambda: not gateway.gateway._clients)
        assert not gateway.gateway.registry._by_session


def test_what_is_pipelined_is_answered_after_a_slow_reader_has_read(gateway: Harness) -> None:
    backend = gateway.instance()
    use_echo(backend)
    with gateway.connect() as wire:
        opened = Opened(gateway, backend, gateway.session()[1], wire)
        size = 4 * 2**20
        wire.send(opened.head("POST", lines=f"Content-Length: {size}\r\n") + b"z" * size + opened.head("HEAD"))
        time.sleep(0.5)
        assert wire.reply("POST").body == b"z" * size
        assert wire.reply("HEAD").status == 200
