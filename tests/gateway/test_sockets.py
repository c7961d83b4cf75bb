"""WebSockets through the gateway, back-pressure, and withdrawal of everything that is open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from instances.gateway.config import Limits
from tests.gateway.conformance import NEVER
from tests.gateway.harness import Backend, Harness, Wire, request


async def echo(socket: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            await socket.send(message)


class Sockets:
    """An instance whose service is a real WebSocket server."""

    def __init__(self, gateway: Harness, slug: str = "alpha1234") -> None:
        self.gateway, self.slug = gateway, slug
        self.requests: list[Any] = []
        path = gateway.folder / f"{slug}.sock"
        gateway.run(self._serve(path))
        gateway.route(slug, "active", path)
        self.sid, self.cookie = gateway.session(slug)

    async def _serve(self, path: Any) -> None:
        async def handler(socket: ServerConnection) -> None:
            self.requests.append(socket.request)
            await echo(socket)

        self.server = await unix_serve(
            handler, str(path), select_subprotocol=lambda _, offered: next(iter(offered), None), max_size=None
        )

    def open(self, cookie: str | None = None, **options: Any) -> ClientConnection:
        host = self.gateway.host(self.slug)
        return connect(
            f"ws://{host}/api/kernels/1/channels?x=%2F",
            sock=self.gateway.connect().sock,
            origin=f"http://{host}",
            additional_headers={"Cookie": cookie or self.cookie},
            open_timeout=10,
            max_size=None,
            **options,
        )


@pytest.fixture
def sockets(gateway: Harness) -> Iterator[Sockets]:
    yield (made := Sockets(gateway))
    gateway.loop.call_soon_threadsafe(made.server.close)


def is_closed(socket: ClientConnection) -> bool:
    """Wait for the end."""
    try:
        socket.recv(timeout=10)
    except ConnectionClosed:
        return True
    return False


# ---- passing through ----
def test_messages_pass_both_ways_whole(sockets: Sockets) -> None:
    with sockets.open(subprotocols=["kernel"]) as socket:
        assert socket.subprotocol == "kernel"
        for message in ("text", "ü" * 1000, b"\x00\xff" * 500_000, ""):
            socket.send(message)
            assert socket.recv(timeout=10) == message


def test_the_handshake_is_stripped_and_gets_the_instances_secret(sockets: Sockets) -> None:
    with sockets.open(cookie=f"{sockets.cookie}; __Host-sid=secret; _xsrf=own"):
        head = sockets.requests[0].headers
    assert head["Authorization"].startswith("token ")
    assert head["Cookie"] == "_xsrf=own"
    assert head["Host"] == sockets.gateway.host()
    assert sockets.requests[0].path == "/api/kernels/1/channels?x=%2F"


def test_the_close_code_passes(sockets: Sockets) -> None:
    with sockets.open() as socket:
        socket.close(4001, "bye")
        assert socket.close_code == 4001


def test_the_portals_events_pass(gateway: Harness) -> None:
    host = f"localhost:{gateway.port}"
    with connect(f"ws://{host}/ws/events", sock=gateway.connect().sock, origin=f"http://{host}") as socket:
        socket.send("hello")
        assert socket.recv(timeout=10) == "events: hello"


def test_a_refused_handshake_is_an_ordinary_answer(gateway: Harness) -> None:
    backend = gateway.instance()
    backend.answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone")
    _sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie))
        reply = wire.reply()
        assert (reply.status, reply.body) == (404, b"gone")


def handshake(gateway: Harness, cookie: str) -> bytes:
    return request(
        "GET",
        "/ws",
        gateway.host(),
        Cookie=cookie,
        Origin=f"http://{gateway.host()}",
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )


@pytest.mark.parametrize(
    "lines",
    [
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    ],
)
def test_the_tunnel_opens_only_on_the_matching_answer(gateway: Harness, lines: bytes) -> None:
    backend = gateway.instance()
    backend.answers(b"HTTP/1.1 101 Switching Protocols\r\n" + lines + b"\r\nsmuggled")
    _sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie))
        reply = wire.reply()
        assert reply.status == 502
        assert b"smuggled" not in reply.body


def test_an_ambiguous_handshake_is_answered_400_and_nothing_forwarded(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    head = handshake(gateway, cookie)
    for lines in NEVER.values():
        with gateway.connect() as wire:
            wire.send(head.removesuffix(b"\r\n") + lines + b"\r\nhello" + head)
            assert wire.reply().status == 400
            assert wire.closed
    assert backend.heads == []


def test_an_ambiguous_answer_to_a_handshake_is_502_and_opens_nothing(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    for lines in NEVER.values():
        backend.answers(ACCEPTED.removesuffix(b"\r\n") + lines + b"\r\nsmuggled")
        with gateway.connect() as wire:
            wire.send(handshake(gateway, cookie))
            reply = wire.reply()
            assert reply.status == 502
            assert b"smuggled" not in reply.body


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_only_a_get_asks_for_a_socket(gateway: Harness, method: str) -> None:
    backend = gateway.instance()
    head = handshake(gateway, gateway.session()[1])
    with gateway.connect() as wire:
        wire.send(head.replace(b"GET ", method.encode() + b" "))
        assert wire.reply(method if method == "HEAD" else "GET").status == 400
    assert backend.heads == []


def test_a_handshake_with_too_many_cookies_is_431(gateway: Harness) -> None:
    gateway.instance()
    with gateway.connect() as wire:
        wire.send(handshake(gateway, f"{gateway.session()[1]}; a={'b' * 9000}"))
        assert wire.reply().status == 431
        assert wire.closed


def test_interim_answers_to_a_handshake_are_swallowed(gateway: Harness) -> None:
    backend = gateway.instance()
    backend.answers(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ACCEPTED + b"first"
    )
    with gateway.connect() as wire:
        wire.send(handshake(gateway, gateway.session()[1]))
        assert wire.reply().status == 101
        assert wire.take(5) == b"first"


def test_an_instance_that_never_answers_a_handshake_is_given_up() -> None:
    with Harness(Limits(response=0.5, drain=0.1)) as gateway, gateway.connect() as wire:
        backend = gateway.instance()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await reader.read()

        backend.handler = silent
        wire.send(handshake(gateway, gateway.session()[1]))
        assert wire.reply().status == 502


def test_a_silent_socket_is_ended_and_a_vanished_peer_noticed() -> None:
    """By the kernel's probes when the peer is gone, by the idle limit when it only never says anything."""
    with Harness(Limits(tunnel_idle=1.5, drain=0.1)) as gateway, gateway.connect() as wire:
        _backend, cookie, _ends = tunnel(gateway)
        wire.send(handshake(gateway, cookie))
        assert wire.reply().status == 101
        client = next(iter(gateway.gateway._clients))
        gateway.until(lambda: client.tunnel is not None)
        assert client.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert wire.take(5) == b"first"
        assert wire.closed


ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def tunnel(gateway: Harness) -> tuple[Backend, str, asyncio.Queue[Any]]:
    """An instance that accepts, and hands its end of the tunnel to the test."""
    backend = gateway.instance()
    ends: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        writer.write(ACCEPTED + b"first")
        await ends.put((reader, writer))
        await writer.wait_closed()

    backend.handler = handler
    return backend, gateway.session()[1], ends


def test_bytes_behind_either_head_belong_to_the_tunnel(gateway: Harness) -> None:
    _backend, cookie, ends = tunnel(gateway)
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie) + b"early")
        assert wire.reply().status == 101
        assert wire.take(5) == b"first"
        reader, _writer = gateway.run(ends.get())
        assert gateway.run(reader.readexactly(5)) == b"early"


def test_when_one_side_ends_so_does_the_other(gateway: Harness) -> None:
    _backend, cookie, ends = tunnel(gateway)
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie))
        wire.reply()
        _reader, writer = gateway.run(ends.get())
        gateway.call(writer.write, b"last words")
        gateway.call(writer.close)
        assert wire.to_end() == b"firstlast words"
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie))
        wire.reply()
        reader, _writer = gateway.run(ends.get())
        wire.sock.close()
        assert gateway.run(reader.read()) == b""
    gateway.until(lambda: not gateway.gateway.registry._by_session)


# ---- withdrawal ----
def test_withdrawal_closes_the_open_sockets_of_that_session_alone(sockets: Sockets) -> None:
    gateway = sockets.gateway
    _sid, other = gateway.session()
    with sockets.open() as first, sockets.open() as second, sockets.open(cookie=other) as third:
        del gateway.portal.sessions[sockets.sid]
        gateway.portal.send(type="withdraw", sid=sockets.sid)
        assert is_closed(first)
        assert is_closed(second)
        third.send("still here")
        assert third.recv(timeout=10) == "still here"
    assert gateway.same_origin(cookie=sockets.cookie).status == 401
    assert gateway.portal.calls == [], "no need to ask"


def test_withdrawal_cuts_a_download_under_way(gateway: Harness) -> None:
    backend = gateway.instance()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nstart")
        await reader.read(1)

    backend.handler = endless
    sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        wire.head()
        assert wire.take(5) == b"start"
        gateway.portal.send(type="withdraw", sid=sid)
        assert wire.closed


def test_withdrawal_closes_idle_connections_too(gateway: Harness) -> None:
    gateway.instance()
    sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        assert wire.reply().body == b"hello"
        gateway.portal.send(type="withdraw", sid=sid)
        assert wire.closed


def test_withdrawal_spares_the_connection_whose_last_request_was_for_the_portal(gateway: Harness) -> None:
    """A proxy in front, or a script, sends requests for several hosts on one connection."""
    gateway.instance()
    sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        assert wire.reply().body == b"hello"
        wire.send(request("GET", "/one", f"localhost:{gateway.port}"))
        assert wire.reply().status == 200
        gateway.call(gateway.gateway.apply, {"type": "withdraw", "sid": sid})
        wire.send(request("GET", "/two", f"localhost:{gateway.port}"))
        assert wire.reply().status == 200


def test_a_late_message_does_not_revive_a_withdrawn_session(gateway: Harness) -> None:
    gateway.instance()
    sid, cookie = gateway.session()
    row = gateway.portal.sessions.pop(sid)
    gateway.call(gateway.gateway.apply, {"type": "withdraw", "sid": sid})
    gateway.call(gateway.gateway.apply, {"type": "session", **row, "version": 99})
    assert gateway.same_origin(cookie=cookie).status == 401


def test_another_role_ends_the_session_of_the_old_one(sockets: Sockets) -> None:
    gateway = sockets.gateway
    with sockets.open() as socket:
        row = gateway.portal.sessions[sockets.sid] | {"role": "guest", "version": 5}
        gateway.portal.send(type="session", **row)
        assert is_closed(socket)


@pytest.mark.parametrize("state", ["stopping", "stopped", "rebooting", "deleting", "error"])
def test_a_route_that_is_withdrawn_closes_what_is_open(sockets: Sockets, state: str) -> None:
    gateway = sockets.gateway
    with sockets.open() as socket:
        row = gateway.portal.routes[sockets.slug] | {"state": state, "version": 2, "services": []}
        gateway.portal.routes[sockets.slug] = row
        gateway.portal.send(type="route", **row)
        assert is_closed(socket)
    assert gateway.same_origin(cookie=sockets.cookie).status == 503


def test_unavailable_closes_nothing(sockets: Sockets) -> None:
    gateway = sockets.gateway
    with sockets.open() as socket:
        row = gateway.portal.routes[sockets.slug] | {"state": "unavailable", "version": 2}
        gateway.call(gateway.gateway.apply, {"type": "route", **row})
        socket.send("still here")
        assert socket.recv(timeout=10) == "still here"


def test_an_older_row_does_not_bring_a_route_back(sockets: Sockets) -> None:
    gateway = sockets.gateway
    active = gateway.portal.routes[sockets.slug]
    stopped = active | {"state": "stopped", "version": 5, "services": []}
    gateway.call(gateway.gateway.apply, {"type": "route", **stopped})
    gateway.call(gateway.gateway.apply, {"type": "route", **active, "version": 4})
    assert gateway.same_origin(cookie=sockets.cookie).status == 503


def test_a_session_that_nobody_renews_ends_with_its_connections(gateway: Harness) -> None:
    sockets = Sockets(gateway)
    gateway.portal.away = True
    _sid, cookie = gateway.session(life=1.5)
    with sockets.open(cookie=cookie) as socket:
        assert is_closed(socket)


def test_an_open_socket_is_renewed_in_time(gateway: Harness) -> None:
    sockets = Sockets(gateway)
    sid, cookie = gateway.session(life=20)
    with sockets.open(cookie=cookie) as socket:
        gateway.until(lambda: any(path == "/renew" for path, _ in gateway.portal.calls))
        rows = next(body["sessions"] for path, body in gateway.portal.calls if path == "/renew")
        assert sid in [row["sid"] for row in rows]
        session = gateway.gateway.sessions.get(sid)
        assert session is not None
        gateway.until(lambda: session.expires > time.time() + 200)
        socket.send("x")
        assert socket.recv(timeout=10) == "x"


def test_a_thousand_sockets_are_withdrawn_together() -> None:
    with Harness(Limits(per_session=2000, per_address=5000, drain=0.1)) as gateway:
        _backend, cookie, ends = tunnel(gateway)
        wires: list[Wire] = []
        for _ in range(20):
            few = [gateway.connect() for _ in range(50)]
            for wire in few:
                wire.send(handshake(gateway, cookie))
            assert [wire.reply().status for wire in few] == [101] * 50
            wires += few
        sid = cookie.split(".")[1]
        gateway.portal.send(type="withdraw", sid=sid)
        for wire in wires:
            assert wire.to_end() == b"first"
            wire.sock.close()
        gateway.until(lambda: not gateway.gateway._clients)
        assert ends.qsize() == 1000
