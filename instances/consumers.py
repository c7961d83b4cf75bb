"""Events to open pages over one WebSocket each; what they carry are hints (ids), never rights or contents.

A socket lives as long as the login session that opened it: one task per process asks for all of them at once,
every few seconds, with the same rule that pages use.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from http.cookies import CookieError, SimpleCookie
from typing import Any

import structlog
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import DatabaseError

from auth import access
from auth.sessions import SessionStore

log = structlog.get_logger("instances.events")

SIGNED_OUT = 4401
NOT_WELCOME = 4403
TOO_MANY = 4429
NOTHING_TO_SAY = 1008  # a page only listens

CHECK_EVERY = 4.0
#: this many checks make one sign of life, by which a page notices a dead connection
CHECKS_PER_SIGN = 5
MOST_PER_SESSION = 40


class Watch:
    """The open sockets of this process, and the task that closes those whose session has ended."""

    def __init__(self) -> None:
        self.sockets: set[EventsConsumer] = set()
        self.task: asyncio.Task[None] | None = None

    def add(self, socket: EventsConsumer) -> None:
        self.sockets.add(socket)
        loop = asyncio.get_running_loop()
        if self.task is None or self.task.done() or self.task.get_loop() is not loop:
            self.task = loop.create_task(self._run())

    def remove(self, socket: EventsConsumer) -> None:
        self.sockets.discard(socket)

    def of_session(self, session: int) -> int:
        return Counter(socket.session for socket in self.sockets)[session]

    async def _run(self) -> None:
        rounds = 0
        while self.sockets:
            await asyncio.sleep(CHECK_EVERY)
            rounds += 1
            await self.check()
            if rounds % CHECKS_PER_SIGN == 0:
                for socket in list(self.sockets):
                    await socket.say({"type": "alive"})

    async def check(self) -> None:
        """Close what is no longer signed in; an unreachable database changes nothing."""
        sockets = list(self.sockets)
        try:
            live = await _live({socket.session for socket in sockets})
        except DatabaseError as error:
            log.warning("sessions not checked", error=str(error)[:200])
            return
        for socket in sockets:
            if socket.session not in live:
                self.remove(socket)
                await socket.end(SIGNED_OUT)


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
    group = ""
    ended = False

    async def connect(self) -> None:
        """Let in our own pages of somebody signed in; a refusal is an accepted socket that closes with a reason."""
        headers = Counter(name for name, _ in self.scope["headers"])
        values = {name: value.decode("latin-1") for name, value in self.scope["headers"]}
        if headers[b"origin"] != 1 or values[b"origin"] != settings.PORTAL_URL:
            await self.close()  # before accept: another site's script gets HTTP 403
            return
        await self.accept()
        found = await _session_of(_session_key(values.get(b"cookie", "")))
        if found is None:
            await self.end(SIGNED_OUT)
        elif watch.of_session(found[0]) >= MOST_PER_SESSION:
            await self.end(TOO_MANY)
        else:
            self.session, user = found
            self.group = f"user.{user}"
            await self.channel_layer.group_add(self.group, self.channel_name)
            watch.add(self)
            await self.say({"type": "hello"})

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.end(NOTHING_TO_SAY)

    async def disconnect(self, code: int) -> None:
        self.ended = True
        watch.remove(self)
        if self.group:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def portal_event(self, message: dict[str, Any]) -> None:
        """Pass on what `portal.lib.bus.notify` sent."""
        await self.say(message["event"])

    async def say(self, event: dict[str, Any]) -> None:
        if not self.ended:
            await self.send(text_data=json.dumps(event))

    async def end(self, code: int) -> None:
        if not self.ended:
            self.ended = True
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
