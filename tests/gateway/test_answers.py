"""Who asked is answered: whatever goes wrong on our side, or ends meanwhile, no request is simply hung up on."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from instances.gateway.config import Limits
from instances.gateway.session import Sessions
from instances.gateway.upstream import Pool, Target, Upstream
from portal.lib.hashing import digest
from tests.gateway.harness import Harness, Reply, Wire, request

SLUG = "alpha1234"


class Held:
    """The portal's answer to one kind of question, which waits until the test lets it go."""

    def __init__(self, gateway: Harness, path: str) -> None:
        self.asked = threading.Event()
        self._gateway = gateway
        self._go = asyncio.Event()
        answer = gateway.gateway.link._call

        async def call(method: str, target: str, body: Any = None) -> Any:
            if target == path:
                self.asked.set()
                await self._go.wait()
            return await answer(method, target, body)

        gateway.gateway.link._call = call  # type: ignore[method-assign]

    def go(self) -> None:
        self._gateway.call(self._go.set)


def entry(gateway: Harness, cookie: str = "") -> bytes:
    """The request that comes with a ticket."""
    nonce, ticket = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    gateway.portal.tickets[ticket] = {"nonce": digest(nonce), "session": gateway.session_row()}
    cookies = "; ".join(filter(None, [f"__Host-entry={nonce}", cookie]))
    fields = {"Cookie": cookies, "Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "document"}
    return request("GET", f"/.portal/enter?t={ticket}&to=/lab", gateway.host(), **fields)


def used(gateway: Harness, wire: Wire, cookie: str) -> None:
    """Make the connection one of a session."""
    wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
    assert wire.reply().body == b"hello"


# ---- entry ----
@pytest.mark.parametrize("end", ["withdrawn", "moved"])
def test_an_entry_outlives_the_session_that_was_on_its_connection_before(gateway: Harness, end: str) -> None:
    """The portal says of the session before that it is over, or of the instance that it is elsewhere, meanwhile."""
    backend = gateway.instance()
    sid, cookie = gateway.session()
    with gateway.connect() as wire:
        used(gateway, wire, cookie)
        held = Held(gateway, "/redeem")
        wire.send(entry(gateway, cookie))
        assert held.asked.wait(10)
        if end == "withdrawn":
            gateway.call(gateway.gateway.apply, {"type": "withdraw", "sid": sid})
        else:
            gateway.route(SLUG, "stopped", None, version=2)
            gateway.route(SLUG, "active", backend.path, version=3)
        held.go()
        reply = wire.reply()
    assert (reply.status, reply.get("Location")) == (303, "/lab")


def test_a_question_after_a_session_outlives_the_one_before(gateway: Harness) -> None:
    """A connection of a session that ends asks with the cookie of one that only the portal knows."""
    gateway.instance()
    sid, cookie = gateway.session()
    other, another_cookie = gateway.session()
    gateway.call(gateway.gateway.sessions._drop, gateway.gateway.sessions.get(other))
    with gateway.connect() as wire:
        used(gateway, wire, cookie)
        held = Held(gateway, "/renew")
        wire.send(request("GET", "/", gateway.host(), Cookie=another_cookie, Sec_Fetch_Site="same-origin"))
        assert held.asked.wait(10)
        gateway.call(gateway.gateway.apply, {"type": "withdraw", "sid": sid})
        held.go()
        assert wire.reply().body == b"hello"


@pytest.mark.parametrize("answer", [{}, {"sid": "x"}, {"sessions": 1}, []])
def test_an_entry_whose_answer_makes_no_sense_is_told_so(gateway: Harness, answer: object) -> None:
    gateway.instance()
    gateway.portal._answer = lambda path, body: (200, answer)  # type: ignore[method-assign]
    with gateway.connect() as wire:
        wire.send(entry(gateway))
        assert wire.reply().status == 500
    assert "request failed" in gateway.log


def test_an_entry_that_is_under_way_when_the_gateway_ends_is_told_to_come_again() -> None:
    with Harness(Limits(drain=0.2)) as gateway:
        gateway.instance()
        with gateway.connect() as wire:
            held = Held(gateway, "/redeem")
            wire.send(entry(gateway))
            assert held.asked.wait(10)
            gateway.run(gateway.gateway.stop())
            reply = wire.reply()
    assert (reply.status, reply.get("Refresh")) == (503, "2")


# ---- the portal's answers about sessions ----
@pytest.mark.parametrize("answer", [{}, [], {"sessions": [], "gone": None}])
def test_an_answer_about_sessions_that_makes_no_sense_keeps_nobody_waiting(gateway: Harness, answer: object) -> None:
    """Nor him who comes while it is under way, and waits for the next."""
    gateway.instance()
    cookies = []
    for _ in range(2):
        sid, cookie = gateway.session()
        gateway.call(gateway.gateway.sessions._drop, gateway.gateway.sessions.get(sid))
        cookies.append(cookie)
    usual, gateway.portal._answer = gateway.portal._answer, lambda path, body: (200, answer)  # type: ignore[method-assign]
    held = Held(gateway, "/renew")
    wires = [gateway.connect() for _ in cookies]
    for wire, cookie in zip(wires, cookies, strict=True):
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        assert held.asked.wait(10)
    gateway.until(lambda: gateway.gateway.sessions._waiting)
    held.go()
    for wire in wires:
        assert wire.reply().status == 401
        wire.sock.close()
    gateway.portal._answer = usual  # type: ignore[method-assign]
    assert gateway.same_origin(cookie=cookies[0]).body == b"hello"


def test_a_line_of_the_stream_that_makes_no_sense_does_not_end_the_link(gateway: Harness) -> None:
    for line in (["no", "object"], {"type": "route"}, {"type": "heartbeat", "now": None}):
        for stream in gateway.portal.streams:
            stream.put_nowait(line)  # type: ignore[arg-type]
        gateway.until(lambda: "link lost" in gateway.log)
        gateway.until(lambda: gateway.gateway.link.up.is_set())


# ---- our own faults ----
def failing(*_given: object, **_more: object) -> Any:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize("where", ["_to_instance", "_forward"])
def test_a_fault_of_ours_is_an_answer(gateway: Harness, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    gateway.instance()
    _sid, cookie = gateway.session()
    monkeypatch.setattr(gateway.gateway, where, failing)
    assert gateway.same_origin(cookie=cookie).status == 500


def test_a_fault_after_the_portals_answer_is_an_answer(gateway: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.instance()
    sid, cookie = gateway.session()
    gateway.call(gateway.gateway.sessions._drop, gateway.gateway.sessions.get(sid))
    monkeypatch.setattr(gateway.gateway, "_serve", failing)
    assert gateway.same_origin(cookie=cookie).status == 500


def test_a_decision_that_is_never_taken_is_an_answer(gateway: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(_sessions: Sessions, _sid: str) -> None:
        raise asyncio.CancelledError

    gateway.instance()
    sid, cookie = gateway.session()
    gateway.call(gateway.gateway.sessions._drop, gateway.gateway.sessions.get(sid))
    monkeypatch.setattr(Sessions, "renew", cancelled)
    assert gateway.same_origin(cookie=cookie).status == 500


# ---- back ends ----
def test_a_back_end_that_ends_as_it_is_reached_is_not_waited_for(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the connection and its first use it may end, and nobody is told."""
    connect = Pool.connect

    async def connect_and_lose(pool: Pool, target: Target) -> Upstream:
        upstream = await connect(pool, target)
        upstream.transport.abort()
        await asyncio.sleep(0.01)
        return upstream

    gateway.instance()
    _sid, cookie = gateway.session()
    monkeypatch.setattr(Pool, "connect", connect_and_lose)
    assert gateway.same_origin(cookie=cookie).status == 502


@pytest.mark.parametrize("end", ["withdrawn", "stopped"])
def test_a_request_that_waits_when_its_right_ends_is_told_so(gateway: Harness, end: str) -> None:
    """A response that has begun is cut; before that there is an answer, and nothing of the instance's in it."""
    backend, reached = gateway.instance(), threading.Event()

    async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        reached.set()
        await reader.read()

    backend.handler = never
    sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        assert reached.wait(10)
        if end == "withdrawn":
            gateway.call(gateway.gateway.apply, {"type": "withdraw", "sid": sid})
        else:
            gateway.route(SLUG, "stopped", None, version=2)
        reply = wire.reply()
        assert (reply.status, reply.get("Connection")) == (503, "close")
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        assert wire.more() == b""


# ---- ends that cross with a request ----
def crossing(gateway: Harness, end: Callable[[], None]) -> Reply:
    """Send a request that the gateway has not read yet when it wants to close the connection as idle."""
    gateway.instance()
    _sid, cookie = gateway.session()
    with gateway.connect() as wire:
        used(gateway, wire, cookie)
        blocked, sent = threading.Event(), threading.Event()

        def block() -> None:
            blocked.set()
            assert sent.wait(10)
            end()

        gateway.loop.call_soon_threadsafe(block)
        assert blocked.wait(10)
        wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
        sent.set()
        return wire.reply()


def test_what_has_come_when_the_gateway_ends_is_answered(gateway: Harness) -> None:
    assert crossing(gateway, lambda: [client.drain() for client in gateway.gateway._clients] and None).status == 200


def test_what_has_come_when_a_connection_was_idle_for_long_is_answered(gateway: Harness) -> None:
    def overdue() -> None:
        for client in gateway.gateway._clients:
            client.check(time.monotonic() + 61)

    assert crossing(gateway, overdue).status == 200


def test_one_connection_too_many_is_told_so() -> None:
    with Harness(Limits(per_address=1, drain=0.2)) as gateway, gateway.connect():
        gateway.until(lambda: gateway.gateway._clients)
        with gateway.connect() as wire:
            reply = wire.reply()
    assert (reply.status, reply.get("Retry-After")) == (503, "5")
