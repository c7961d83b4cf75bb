"""Events to open pages over one WebSocket each; what they carry are hints (ids), never rights or contents.

A socket lives as long as the login session that opened it: one task per process asks for all of them at once,
every few seconds and at each word of an end, with the same rule that pages use. Another listens to the bus for all of
them. Neither ever waits for a page: each socket has a short queue of its own, and a page that reads too slowly is hung
up on.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any

import structlog
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import Error

from auth import access
from auth.sessions import SessionStore
from portal.lib import bus

log = structlog.get_logger("instances.events")

SIGNED_OUT = 4401
TOO_MANY = 4429
TOO_SLOW = 4408
TRY_AGAIN = 1013
NOTHING_TO_SAY = 1008  # a page only listens

CHECK_EVERY = 4.0
#: this many checks make one sign of life, by which a page notices a dead connection
CHECKS_PER_SIGN = 5
#: sockets of one user in one process, whatever the number of sign-ins
MOST_PER_USER = 100
#: events that wait for a page to read
MOST_WAITING = 64
HELLO = {"type": "hello"}


class Watch:
    """The open sockets of this process, what the bus says to them, and the end of those whose session has ended."""

    def __init__(self) -> None:
        self.sockets: set[EventsConsumer] = set()
        self.task: asyncio.Task[None] | None = None
        self.listening = False

    def add(self, socket: EventsConsumer) -> None:
        """Take up a socket; it hears `hello` once somebody listens for it."""
        self.sockets.add(socket)
        loop = asyncio.get_running_loop()
        if self.task is None or self.task.done() or self.task.get_loop() is not loop:
            self.listening = False
            self.task = loop.create_task(self._run())
        elif self.listening:
            socket.say(HELLO)

    def remove(self, socket: EventsConsumer) -> None:
        self.sockets.discard(socket)

    def of_user(self, user: str) -> int:
        return sum(socket.user == user for socket in self.sockets)

    async def _run(self) -> None:
        listener = asyncio.create_task(self._listen())
        try:
            await self._check_for_ever()
        finally:
            listener.cancel()

    async def _check_for_ever(self) -> None:
        rounds = 0
        while self.sockets:
            await asyncio.sleep(CHECK_EVERY)
            rounds += 1
            await self.check()
            if rounds % CHECKS_PER_SIGN == 0:
                self._tell(self.sockets, {"type": "alive"})

    async def _listen(self) -> None:
        async for message in bus.subscribe(bus.PAGES):
            if "reset" in message:  # something may have been said to nobody
                self.listening = True
                self._tell(self.sockets, HELLO)
            elif "login_sessions" in message:
                await self.check(set(message["login_sessions"]))
            else:
                self._tell({socket for socket in self.sockets if socket.user == message["user"]}, message["event"])

    @staticmethod
    def _tell(sockets: set[EventsConsumer], event: dict[str, Any]) -> None:
        for socket in list(sockets):
            socket.say(event)

    async def check(self, sessions: set[int] | None = None) -> None:
        """Close what is no longer signed in (of these sessions); an unreachable database changes nothing."""
        sockets = [socket for socket in self.sockets if sessions is None or socket.session in sessions]
        if not sockets:
            return
        try:
            live = await _live({socket.session for socket in sockets})
        except Error as error:
            log.warning("sessions not checked", error=str(error)[:200])
            return
        for socket in sockets:
            if socket.session not in live:
                self.remove(socket)
                socket.end(SIGNED_OUT)


watch = Watch()


@database_sync_to_async
def _live(sessions: set[int]) -> set[int]:
    return set(access.live_sessions().filter(pk__in=sessions, user__isnull=False).values_list("pk", flat=True))


@database_sync_to_async
def _session_of(key: str) -> tuple[int, str] | None:
    """Return the session's row id and its user's uid, None when nobody is signed in with this key."""
    store = SessionStore(key)
    store.load()
    if store.row is None or store.row.user is None:
        return None
    return store.row.pk, str(store.row.user.uid)


class EventsConsumer(AsyncWebsocketConsumer):
    session = 0
    user = ""
    writer: asyncio.Task[None] | None = None
    closing: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Let in our own pages of somebody signed in; a refusal is an accepted socket that closes with a reason."""
        headers = Counter(name for name, _ in self.scope["headers"])
        values = {name: value.decode("latin-1") for name, value in self.scope["headers"]}
        elsewhere = values.get(b"sec-fetch-site", "same-origin") != "same-origin"
        if headers[b"origin"] != 1 or values[b"origin"] != settings.PORTAL_URL or elsewhere:
            await self.close()  # before accept: another site's script gets HTTP 403
            return
        await self.accept()
        try:
            found = await _session_of(_session_key(values.get(b"cookie", "")))
        except Error:  # the page comes again by itself
            self.end(TRY_AGAIN)
            return
        if found is None:
            self.end(SIGNED_OUT)
        elif watch.of_user(found[1]) >= MOST_PER_USER:
            self.end(TOO_MANY)
        else:
            self.session, self.user = found
            self.waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MOST_WAITING)
            self.writer = asyncio.create_task(self._write())
            watch.add(self)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.end(NOTHING_TO_SAY)

    async def disconnect(self, code: int) -> None:
        watch.remove(self)
        if self.writer is not None:
            self.writer.cancel()

    def say(self, event: dict[str, Any]) -> None:
        """Have the page told as soon as it reads; never waits."""
        try:
            self.waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.end(TOO_SLOW)

    async def _write(self) -> None:
        while True:
            event = await self.waiting.get()
            await self.send(text_data=json.dumps(event))

    def end(self, code: int) -> None:
        """Close, once; nobody waits for a page that does not read its last word."""
        watch.remove(self)
        if self.closing is None:
            if self.writer is not None:
                self.writer.cancel()
            self.closing = asyncio.create_task(self._close(code))

    async def _close(self, code: int) -> None:
        with suppress(Exception):  # it may have gone meanwhile
            await self.close(code=code)


def _session_key(cookies: str) -> str:
    """Return the session key of a Cookie header; nothing when it is sent twice (a planted one may be among them)."""
    names = [pair.split("=", 1)[0].strip() for pair in cookies.split(";")]
    if names.count(settings.SESSION_COOKIE_NAME) != 1:
        return ""
    try:
        morsel = SimpleCookie(cookies).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""
