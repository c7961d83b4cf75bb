"""Framing through a running gateway, both directions: nothing ambiguous passes, nothing runs into the next message."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from random import Random

import pytest

from instances.gateway import upstream
from instances.gateway.config import Limits
from tests.gateway.conformance import NEVER, SENSELESS
from tests.gateway.harness import Backend, Harness, Wire, request


class Opened:
    """An instance, a session on it, and a connection."""

    def __init__(self, gateway: Harness, backend: Backend, cookie: str, wire: Wire) -> None:
        self.gateway, self.backend, self.cookie, self.wire = gateway, backend, cookie, wire

    def head(self, method: str = "GET", path: str = "/", lines: str = "", version: str = "1.1") -> bytes:
        return (
            f"{method} {path} HTTP/{version}\r\nHost: {self.gateway.host()}\r\nCookie: {self.cookie}\r\n"
            f"Sec-Fetch-Site: same-origin\r\n{lines}\r\n"
        ).encode()


@pytest.fixture
def opened(gateway: Harness) -> Iterator[Opened]:
    backend = gateway.instance()
    with gateway.connect() as wire:
        yield Opened(gateway, backend, gateway.session()[1], wire)


async def echo_body(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with what was received, framing and all, as a body."""
    while True:
        head = await backend.head(reader)
        body = b""
        if b"\r\nTransfer-Encoding: chunked\r\n" in head:
            while not body.endswith(b"0\r\n\r\n"):
                part = await reader.read(65_536)
                if not part:
                    return
                body += part
        elif b"\r\nContent-Length: " in head:
            body = await reader.readexactly(int(head.split(b"\r\nContent-Length: ")[1].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


def use_echo(backend: Backend) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo_body(backend, reader, writer)

    backend.handler = handler


# ---- requests ----
@pytest.mark.parametrize("lines", NEVER.values(), ids=NEVER.keys())
def test_an_ambiguous_request_is_answered_400_and_nothing_forwarded(opened: Opened, lines: bytes) -> None:
    head = opened.head("POST").removesuffix(b"\r\n")
    opened.wire.send(head + lines + b"\r\nhello" + opened.head())
    assert opened.wire.reply("POST").status == 400
    assert opened.wire.closed
    assert opened.backend.heads == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
        (b"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: {host}\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
        (b"GET / HTTP/1.1\nHost: {host}\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: {host}\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\n" + (b"X: " + b"a" * 7000 + b"\r\n") * 10 + b"\r\n", 431),
    ],
)
def test_this_is_refused_and_the_connection_closed(opened: Opened, head: bytes, status: int) -> None:
    opened.wire.send(head.replace(b"{host}", opened.gateway.host().encode()))
    assert opened.wire.reply().status == status
    assert opened.wire.closed
    assert opened.backend.heads == []


BOMBS = {
    "one field": "a=" + "b" * 9000,
    "more than a head": "; ".join(f"name{number}=" + "b" * 4000 for number in range(40)),
    "one of ours twice": "__Host-inst=a; __Host-inst=b",
    "one of ours in other letters": "__Host-inst=a; __host-INST=b",
}


@pytest.mark.parametrize("cookies", BOMBS.values(), ids=BOMBS.keys())
def test_cookies_that_a_neighbour_has_set_are_cleared(gateway: Harness, cookies: str) -> None:
    """A browser would send them for ever; nothing but an answer from this origin can take them away."""
    gateway.instance()
    reply = gateway.navigate(cookie=cookies)
    assert reply.status == (400 if "__Host" in cookies else 431)
    assert reply.get("Clear-Site-Data") == '"cookies"'
    assert b'href="/"' in reply.body


@pytest.mark.parametrize("host", ["alpha1234.apps.localhost:{port}", "localhost:{port}"])
def test_other_large_fields_clear_no_cookies(gateway: Harness, host: str) -> None:
    reply = gateway.get(host=host.format(port=gateway.port), Cookie="a=1", X="a" * 9000)
    assert (reply.status, reply.get("Clear-Site-Data")) == (431, "")


def test_a_head_may_come_byte_by_byte(opened: Opened) -> None:
    for byte in opened.head():
        opened.wire.send(bytes([byte]))
    assert opened.wire.reply().body == b"hello"


def test_requests_are_answered_one_at_a_time_and_in_order(opened: Opened) -> None:
    use_echo(opened.backend)
    posts = [request("POST", f"/{n}", opened.gateway.host(), b"%d" % n * n) for n in range(1, 9)]
    session = f"Cookie: {opened.cookie}\r\nSec-Fetch-Site: same-origin\r\n".encode()
    opened.wire.send(b"".join(post.replace(b"Content-Length", session + b"Content-Length") for post in posts))
    assert [opened.wire.reply().body for _ in posts] == [b"%d" % n * n for n in range(1, 9)]
    paths = [head.split(b" ")[1] for head in opened.backend.heads]
    assert paths == [b"/%d" % n for n in range(1, 9)]


def test_a_chunked_body_is_written_anew(opened: Opened) -> None:
    use_echo(opened.backend)
    opened.wire.send(opened.head("POST", lines="Transfer-Encoding: chunked\r\nTrailer: X\r\n"))
    opened.wire.send(b"003\r\nabc\r\n2\r\nde\r\n0\r\nX: evil\r\n\r\n")
    assert opened.wire.reply().body == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert opened.backend.heads[0].lower().count(b"transfer-encoding") == 1
    assert b"trailer" not in opened.backend.heads[0].lower()
    opened.wire.send(opened.head())
    assert opened.wire.reply().status == 200


@pytest.mark.parametrize(
    "body", [b"3;x=y\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\nabc\n", b"zz\r\n", b"0\r\nX: a\nb\r\n\r\n"]
)
def test_a_bad_chunk_ends_both_connections(opened: Opened, body: bytes) -> None:
    ended = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await opened.backend.head(reader)
            while await reader.read(1000):
                pass
        ended.set()

    opened.backend.handler = handler
    opened.wire.send(opened.head("POST", lines="Transfer-Encoding: chunked\r\n") + b"1\r\nx\r\n")
    opened.gateway.until(lambda: opened.backend.heads)
    opened.wire.send(body)
    assert opened.wire.reply("POST").status == 400
    opened.gateway.until(ended.is_set)


def test_expect_is_answered_after_the_decision(opened: Opened) -> None:
    use_echo(opened.backend)
    opened.wire.send(opened.head("POST", lines="Expect: 100-continue\r\nContent-Length: 2\r\n"))
    assert opened.wire.head() == b"HTTP/1.1 100 Continue"
    opened.wire.send(b"ok")
    assert opened.wire.reply("POST").body == b"ok"
    assert b"expect" not in opened.backend.heads[0].lower()


def test_http_1_0_is_closed_unless_it_asks(opened: Opened) -> None:
    opened.wire.send(opened.head(lines="Connection: keep-alive\r\n", version="1.0"))
    reply = opened.wire.reply()
    assert (reply.body, reply.get("Connection")) == (b"hello", "keep-alive")
    opened.wire.send(opened.head(version="1.0"))
    reply = opened.wire.reply()
    assert (reply.body, reply.get("Connection")) == (b"hello", "close")
    assert opened.wire.closed
    assert opened.backend.heads[0].startswith(b"GET / HTTP/1.1\r\n")


def test_options_star_is_served(gateway: Harness) -> None:
    reply = gateway.get("*", method="OPTIONS", host=f"localhost:{gateway.port}")
    assert reply.status == 200


# ---- responses ----


@pytest.mark.parametrize("lines", NEVER.values(), ids=NEVER.keys())
def test_an_ambiguous_response_is_502_and_its_connection_dropped(opened: Opened, lines: bytes) -> None:
    opened.backend.answers(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\nhello", close=False)
    opened.wire.send(opened.head())
    reply = opened.wire.reply()
    assert reply.status == 502
    assert b"hello" not in reply.body
    opened.backend.handler = opened.backend.hello
    assert opened.gateway.same_origin(cookie=opened.cookie).body == b"hello"
    assert opened.backend.connections == 2


@pytest.mark.parametrize("response", SENSELESS)
def test_a_response_that_makes_no_sense_is_502(opened: Opened, response: bytes) -> None:
    opened.backend.answers(response)
    opened.wire.send(opened.head())
    assert opened.wire.reply().status == 502


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_response_without_body_leaves_the_next_one_alone(opened: Opened, status: bytes) -> None:
    opened.backend.answers(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n", close=False)
    opened.wire.send(opened.head())
    assert opened.wire.reply().status == int(status[:3])
    opened.wire.send(opened.head())
    assert opened.wire.reply().status == int(status[:3])


def test_head_gets_no_body_whatever_the_fields_say(opened: Opened) -> None:
    opened.backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", close=False)
    for _ in range(2):
        opened.wire.send(opened.head("HEAD"))
        reply = opened.wire.reply("HEAD")
        assert (reply.status, reply.get("Content-Length")) == (200, "5")
    assert opened.backend.connections == 1


def test_a_body_behind_a_response_without_one_is_never_the_next_response(opened: Opened) -> None:
    opened.backend.answers(
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", close=False
    )
    opened.wire.send(opened.head())
    assert opened.wire.reply().status == 204
    opened.backend.handler = opened.backend.hello
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"hello"


def test_bytes_behind_a_response_are_never_the_next_response(opened: Opened) -> None:
    opened.backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nevil", close=False)
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"ok"
    opened.backend.handler = opened.backend.hello
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"hello"


def test_unasked_interim_responses_are_swallowed(opened: Opened) -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    opened.backend.answers(hints + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    opened.wire.send(opened.head())
    reply = opened.wire.reply()
    assert (reply.status, reply.body) == (200, b"ok")


def test_a_chunked_response_loses_its_trailers(opened: Opened) -> None:
    opened.backend.answers(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSet-Cookie: __Host-sid=1\r\n\r\n",
        close=False,
    )
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"ok"
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"ok"
    assert opened.backend.connections == 1


def test_http_1_0_clients_get_no_chunks(opened: Opened) -> None:
    opened.backend.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n")
    opened.wire.send(opened.head(version="1.0"))
    reply = opened.wire.reply()
    assert (reply.get("Transfer-Encoding"), reply.body) == ("", b"ok!")


def test_a_response_without_length_lasts_until_the_end(opened: Opened) -> None:
    opened.backend.answers(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    opened.wire.send(opened.head())
    reply = opened.wire.reply()
    assert (reply.get("Connection"), reply.body) == ("close", b"all of it")


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n32\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_a_cut_response_never_looks_whole(opened: Opened, response: bytes) -> None:
    opened.backend.answers(response)
    opened.wire.send(opened.head())
    with pytest.raises((EOFError, ValueError)):
        opened.wire.reply()


def test_an_early_answer_is_relayed_and_the_rest_of_the_body_stopped(opened: Opened) -> None:
    opened.backend.answers(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!", close=False)
    opened.wire.send(opened.head("POST", lines="Content-Length: 100000000\r\n"))
    with contextlib.suppress(ConnectionError):
        for _ in range(50):
            opened.wire.send(b"x" * 10_000)
    reply = opened.wire.reply("POST")
    assert (reply.status, reply.body, reply.get("Connection")) == (413, b"no!", "close")


def test_an_answer_is_not_lost_when_the_instance_closes_before_it_has_read_the_body(opened: Opened) -> None:
    opened.backend.answers(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
    for _ in range(10):
        with opened.gateway.connect() as wire:
            wire.send(opened.head("POST", lines="Content-Length: 100000000\r\n"))
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    wire.send(b"x" * 10_000)
            assert wire.reply("POST").status == 413


# ---- the pool ----
def test_connections_are_used_again(opened: Opened) -> None:
    for _ in range(5):
        opened.wire.send(opened.head())
        assert opened.wire.reply().body == b"hello"
    assert opened.backend.connections == 1


def test_connections_are_never_shared_between_instances(opened: Opened) -> None:
    other = opened.gateway.instance("beta12345")
    _sid, cookie = opened.gateway.session("beta12345")
    assert opened.gateway.same_origin(cookie=opened.cookie).status == 200
    assert opened.gateway.same_origin(cookie=cookie, slug="beta12345").status == 200
    assert (opened.backend.connections, other.connections) == (1, 1)


def test_a_pooled_connection_that_died_is_replaced(opened: Opened) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep the connection open, and close it when it is used again."""
        await opened.backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
        await reader.readexactly(1)

    opened.backend.handler = once
    for _ in range(3):
        opened.wire.send(opened.head())
        assert opened.wire.reply().body == b"first"
    assert opened.backend.connections == 3


def test_a_post_is_never_sent_twice(opened: Opened) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await opened.backend.head(reader)

    opened.backend.handler = dies
    opened.wire.send(opened.head("POST", lines="Content-Length: 0\r\n"))
    assert opened.wire.reply("POST").status == 502
    assert len(opened.backend.heads) == 1


def test_unasked_bytes_on_an_idle_connection_close_it(opened: Opened) -> None:
    closed = asyncio.Event()

    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await opened.backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        if await reader.read(1) == b"":
            closed.set()

    opened.backend.handler = chatty
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"ok"
    opened.gateway.until(closed.is_set)
    opened.wire.send(opened.head())
    assert opened.wire.reply().body == b"ok"
    assert opened.backend.connections == 2


def test_a_client_that_goes_away_frees_the_instance(opened: Opened) -> None:
    closed = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await opened.backend.head(reader)
        if await reader.read(1) == b"":
            closed.set()

    opened.backend.handler = slow
    opened.wire.send(opened.head())
    opened.gateway.until(lambda: opened.backend.heads)
    opened.wire.sock.close()
    opened.gateway.until(closed.is_set)


# ---- time ----
def test_a_slow_head_is_ended() -> None:
    with Harness(Limits(head=0.5, drain=0.1)) as gateway, gateway.connect() as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: x")
        assert wire.reply().status == 408
        assert wire.closed


def test_an_idle_connection_is_closed() -> None:
    with Harness(Limits(idle=0.5, drain=0.1)) as gateway, gateway.connect() as wire:
        assert wire.closed


def test_a_body_that_trickles_is_ended() -> None:
    with Harness(Limits(body_window=0.5, drain=0.1)) as gateway, gateway.connect() as wire:
        wire.send(request("POST", "/", f"localhost:{gateway.port}", Content_Length="1000") + b"x")
        assert wire.reply("POST").status == 408


def test_an_instance_that_never_answers_is_given_up() -> None:
    with Harness(Limits(response=0.5, drain=0.1)) as gateway:
        backend = gateway.instance()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await reader.read(1)

        backend.handler = silent
        _sid, cookie = gateway.session()
        assert gateway.same_origin(cookie=cookie).status == 502


def test_an_instance_that_never_accepts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT", 0.3)
    with Harness() as gateway, socket.socket(socket.AF_UNIX) as deaf, contextlib.ExitStack() as stack:
        path = gateway.folder / "deaf.sock"
        deaf.bind(str(path))
        deaf.listen(0)
        gateway.route("alpha1234", "active", path)
        with contextlib.suppress(BlockingIOError):
            while True:  # until the listener's queue is full
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        assert gateway.same_origin(cookie=gateway.session()[1]).status == 502


def test_connections_of_one_address_are_limited() -> None:
    with Harness(Limits(per_address=3, drain=0.1)) as gateway:
        wires = [gateway.connect() for _ in range(3)]
        gateway.until(lambda: len(gateway.gateway._clients) == 3)
        with gateway.connect() as fourth:
            assert fourth.reply().status == 503
            assert fourth.closed
        for wire in wires:
            wire.sock.close()
        gateway.until(lambda: not gateway.gateway._clients)
        assert gateway.get(host=f"localhost:{gateway.port}").status == 200


def test_connections_of_one_session_are_limited() -> None:
    with Harness(Limits(per_session=2, drain=0.1)) as gateway:
        backend = gateway.instance()
        _sid, cookie = gateway.session()
        wires = [gateway.connect() for _ in range(3)]
        opened = [Opened(gateway, backend, cookie, wire) for wire in wires]
        statuses = []
        for one in opened:
            one.wire.send(one.head())
            statuses.append(one.wire.reply().status)
        assert statuses == [200, 200, 429]
        for wire in wires:
            wire.sock.close()


def test_draining_lets_what_is_under_way_end(gateway: Harness) -> None:
    backend = gateway.instance()
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")

    backend.handler = slow
    _sid, cookie = gateway.session()
    object.__setattr__(gateway.config.limits, "drain", 5.0)
    with gateway.connect() as wire:
        wire.send(Opened(gateway, backend, cookie, wire).head())
        gateway.until(lambda: backend.heads)
        stopping = asyncio.run_coroutine_threadsafe(gateway.gateway.stop(), gateway.loop)
        gateway.until(lambda: gateway.gateway.draining)
        gateway.loop.call_soon_threadsafe(release.set)
        reply = wire.reply()
        assert (reply.body, reply.get("Connection")) == (b"whole", "close")
        stopping.result(10)


def test_nothing_is_left_behind_after_many_aborted_requests(opened: Opened) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await opened.backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nstart")
        await reader.read(1)

    opened.backend.handler = slow
    for _ in range(300):
        with opened.gateway.connect() as wire:
            wire.send(opened.head())
    inner = opened.gateway.gateway
    opened.gateway.until(lambda: len(inner._clients) <= 1)
    assert not inner.registry._by_session
    assert not inner.registry._by_instance
    assert inner.pool._idle.keys() <= {("web",)}
    assert len(inner.reception._per_address) <= 1
    opened.gateway.until(lambda: len(inner._tasks) < 10)


# ---- anything ----
SPECIAL = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"0",
    b"1",
    b"\x0b",
    b"\xff",
    b"chunked",
    b"Content-Length: 1\r\n",
]


def mutate(message: bytes, random: Random) -> bytes:
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(message))
        end = start + random.choice([0, 0, 1, 2, 5])
        message = message[:start] + random.choice([b"", *SPECIAL]) + message[end:]
    return message


@pytest.mark.leaks
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_sent_nothing_is_smuggled(gateway: Harness, seed: int) -> None:
    """Damaged requests whose bodies look like requests: only what carried the cookie ever reaches the instance."""
    backend = gateway.instance()
    use_echo(backend)
    _sid, cookie = gateway.session()
    evil = f"GET /evil HTTP/1.1\r\nHost: {gateway.host()}\r\nSec-Fetch-Site: same-origin\r\n\r\n".encode()
    counted = request(
        "POST", "/good", gateway.host(), evil, Cookie=cookie, Sec_Fetch_Site="same-origin", Connection="close"
    )
    chunked = (
        request(
            "POST", "/good", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin", Transfer_Encoding="chunked"
        )
        + b"%x\r\n" % len(evil)
        + evil
        + b"\r\n0\r\n\r\n"
    )
    random = Random(seed)
    for number in range(150):
        with gateway.connect() as wire:
            wire.send(mutate(counted if number % 2 else chunked, random))
            with contextlib.suppress(OSError):
                wire.sock.shutdown(socket.SHUT_WR)
            wire.to_end()
    assert not [head for head in backend.heads if b"/evil" in head.split(b"\r\n")[0]]
    assert backend.heads, "some got through"
    assert gateway.same_origin(cookie=cookie).status == 200
