"""The WebSocket that tells open pages what has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.db import OperationalError, connection
from django.test import Client

from auth import services as people
from auth.models import Session, User
from instances import consumers, services, transitions
from instances.lifecycle import State
from instances.models import Instance, Plan
from portal.asgi import application
from portal.lib import bus
from tests.factories.auth import UserFactory, sign_in
from tests.factories.instances import InstanceFactory, PlanFactory

pytestmark = pytest.mark.django_db(transaction=True)

OURS = settings.PORTAL_URL.encode()


async def in_thread(work: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Do database work of the test; its connection goes with the thread."""

    def work_and_close() -> Any:
        try:
            return work(*args, **more)
        finally:
            connection.close()

    return await asyncio.to_thread(work_and_close)


class Socket(ApplicationCommunicator):
    """A page's WebSocket (the one of channels.testing needs daphne)."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {"type": "websocket", "path": "/ws/events", "query_string": b"", "headers": headers}
        super().__init__(application, scope)

    async def connect(self) -> bool:
        await self.send_input({"type": "websocket.connect"})
        return bool((await self.receive_output(5))["type"] == "websocket.accept")

    async def hear(self) -> Any:
        message = await self.receive_output(5)
        assert message["type"] == "websocket.send"
        return json.loads(message["text"])

    async def leave(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(5)


@pytest.fixture
def alice(db: None) -> User:
    return UserFactory(handle="alice")


@pytest.fixture
def plan(db: None) -> Plan:
    return PlanFactory()


@pytest.fixture
def session(client: Client, alice: User) -> Session:
    return sign_in(client, alice)


@pytest.fixture
async def connect(client: Client) -> AsyncIterator[Callable[..., Any]]:
    opened: list[Socket] = []

    def make(cookie: str | None = None, origin: bytes | None = OURS, site: bytes | None = None) -> Socket:
        key = client.cookies.get(settings.SESSION_COOKIE_NAME)
        cookie = f"{settings.SESSION_COOKIE_NAME}={key.value if key else ''}" if cookie is None else cookie
        headers = [(b"cookie", cookie.encode())] + ([(b"origin", origin)] if origin is not None else [])
        headers += [(b"sec-fetch-site", site)] if site is not None else []
        opened.append(Socket(headers))
        return opened[-1]

    yield make
    for socket in opened:
        await socket.leave()
    await sync_to_async(lambda: connection.close())()  # the one that the consumer used


async def hello(socket: Socket) -> None:
    assert await socket.connect()
    assert await socket.hear() == {"type": "hello"}


async def closed_with(socket: Socket) -> int:
    while True:
        message = await socket.receive_output(5)
        if message["type"] == "websocket.close":
            return int(message["code"])


async def test_a_change_of_state_reaches_its_owners_page(
    connect: Callable[..., Any], session: Session, alice: User, plan: Plan
) -> None:
    instance = await in_thread(lambda: InstanceFactory(owner=alice, plan=plan, state=State.ACTIVE))
    socket = connect()
    await hello(socket)
    await in_thread(services.stop, instance, by=alice)
    assert await socket.hear() == {"type": "instance-changed", "id": str(instance.uid)}


async def test_a_page_hears_nothing_of_others(
    connect: Callable[..., Any], session: Session, alice: User, plan: Plan
) -> None:
    theirs = await in_thread(lambda: InstanceFactory(plan=plan, state=State.ACTIVE))
    mine = await in_thread(lambda: InstanceFactory(owner=alice, plan=plan, state=State.ACTIVE))
    socket = connect()
    await hello(socket)
    await in_thread(services.stop, theirs, by=theirs.owner)
    await in_thread(services.stop, mine, by=alice)
    assert (await socket.hear())["id"] == str(mine.uid)


@pytest.mark.parametrize(
    "origin", [None, b"https://evil.example", b"http://x.apps.localhost:8000", OURS + b"/", b"null"]
)
async def test_another_sites_page_is_refused_before_it_is_open(
    connect: Callable[..., Any], session: Session, origin: bytes | None
) -> None:
    assert not await connect(origin=origin).connect()


@pytest.mark.parametrize("cookie", ["", f"{settings.SESSION_COOKIE_NAME}=made-up-key-made-up-key", "other=1"])
async def test_without_a_session_it_closes_as_signed_out(connect: Callable[..., Any], db: None, cookie: str) -> None:
    socket = connect(cookie=cookie)
    await socket.connect()
    assert await closed_with(socket) == consumers.SIGNED_OUT


async def test_a_cookie_that_is_sent_twice_counts_for_nothing(
    connect: Callable[..., Any], client: Client, session: Session
) -> None:
    own = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
    socket = connect(cookie=f"{own}; {own}")
    await socket.connect()
    assert await closed_with(socket) == consumers.SIGNED_OUT


async def test_signing_out_closes_it(
    connect: Callable[..., Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CHECK_EVERY", 0.05)
    socket = connect()
    await hello(socket)
    await in_thread(people.end_session, session)
    assert await closed_with(socket) == consumers.SIGNED_OUT


async def test_suspending_somebody_closes_it(
    connect: Callable[..., Any], session: Session, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CHECK_EVERY", 0.05)
    socket = connect()
    await hello(socket)
    await in_thread(lambda: User.objects.filter(pk=alice.pk).update(is_active=False))
    assert await closed_with(socket) == consumers.SIGNED_OUT


async def test_the_bus_closes_it_at_once(
    connect: Callable[..., Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CHECK_EVERY", 3600)
    await in_thread(bus.flush)
    other = await in_thread(lambda: sign_in(Client(), session.user))
    socket = connect()
    await hello(socket)
    await in_thread(people.end_session, other)
    assert await socket.receive_nothing(0.2)
    await in_thread(people.end_session, session)
    assert await closed_with(socket) == consumers.SIGNED_OUT


async def test_a_word_on_the_bus_is_only_a_hint(connect: Callable[..., Any], session: Session) -> None:
    socket = connect()
    await hello(socket)
    await in_thread(bus.publish, bus.PAGES, {"login_sessions": [session.pk]})
    assert await socket.receive_nothing(0.3)


async def test_a_browser_that_says_it_comes_from_elsewhere_is_refused(
    connect: Callable[..., Any], session: Session
) -> None:
    for site, opens in ((b"same-site", False), (b"cross-site", False), (b"none", False), (b"same-origin", True)):
        socket = connect(site=site)
        assert await socket.connect() is opens


def test_sessions_are_checked_within_five_seconds() -> None:
    assert consumers.CHECK_EVERY <= 5


async def test_a_database_that_is_away_closes_nothing(
    connect: Callable[..., Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = connect()
    await hello(socket)

    async def away(_: set[int]) -> set[int]:
        raise OperationalError("no answer")

    monkeypatch.setattr(consumers, "_live", away)
    await consumers.watch.check()
    assert await socket.receive_nothing(0.1)


async def test_a_page_that_talks_is_hung_up_on(connect: Callable[..., Any], session: Session) -> None:
    socket = connect()
    await hello(socket)
    await socket.send_input({"type": "websocket.receive", "text": "x" * 100_000})
    assert await closed_with(socket) == consumers.NOTHING_TO_SAY


async def test_a_user_holds_so_many_sockets_and_no_more(
    connect: Callable[..., Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "MOST_PER_USER", 2)
    for _ in range(2):
        await hello(connect())
    third = connect()
    await third.connect()
    assert await closed_with(third) == consumers.TOO_MANY


async def test_it_gives_signs_of_life(
    connect: Callable[..., Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "CHECK_EVERY", 0.02)
    socket = connect()
    await hello(socket)
    assert await socket.hear() == {"type": "alive"}


async def test_readiness_is_told_as_it_is_marked(
    connect: Callable[..., Any], session: Session, alice: User, plan: Plan
) -> None:
    instance = await in_thread(lambda: InstanceFactory(owner=alice, plan=plan, state=State.STARTING))
    socket = connect()
    await hello(socket)
    assert await in_thread(transitions.mark_ready, instance.uid) is transitions.Marked.DONE
    assert (await socket.hear())["id"] == str(instance.uid)
    assert await in_thread(lambda: Instance.objects.get(pk=instance.pk).state) == State.ACTIVE
    await in_thread(bus.flush)


async def test_a_page_that_does_not_read_is_hung_up_on_and_holds_nobody_up(
    connect: Callable[..., Any], session: Session, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection takes nothing more, as when the window of a page's machine is full."""
    monkeypatch.setattr(consumers, "MOST_WAITING", 3)
    stuck, reading = connect(), connect()
    await hello(stuck)
    (its_end,) = consumers.watch.sockets

    async def never(**_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(its_end, "send", never)
    await hello(reading)
    for number in range(6):
        await in_thread(bus.notify, alice.uid, {"type": "instance-changed", "id": str(number)})
        assert (await reading.hear())["id"] == str(number)
    assert await closed_with(stuck) == consumers.TOO_SLOW


async def test_events_come_back_by_themselves(
    connect: Callable[..., Any], session: Session, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page hears `hello` again after the bus was away: what it missed it asks for."""
    socket = connect()
    await hello(socket)
    client = redis.Redis.from_url(settings.REDIS_URL)
    await asyncio.to_thread(client.client_kill_filter, _type="pubsub")
    assert await socket.hear() == {"type": "hello"}
    await in_thread(bus.notify, alice.uid, {"type": "instance-changed", "id": "x"})
    assert (await socket.hear())["id"] == "x"
