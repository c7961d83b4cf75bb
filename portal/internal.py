"""What only the gateway may ask, on a socket of its own: a bare ASGI application behind one bearer token.

`GET /snapshot`, `GET /stream` (NDJSON: route, session, withdraw, keys, heartbeat), `POST /redeem /renew /ready
/report`. The stream is driven by the bus, and works without it: every five seconds it sends again what changed in
the last ten, and every withdrawal that is still in force.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

import django
from django.apps import apps

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
if not apps.ready:
    django.setup()

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.db.models import Q

from instances import activity, entry, measures, tasks, transitions, usage
from instances.lifecycle import PROBED, SERVED, State
from instances.models import Instance
from instances.routes import row_of
from portal.lib import bus, clock
from portal.lib.clock import Now
from portal.lib.hashing import same

log = structlog.get_logger("portal.internal")

HEARTBEAT = 1.0
RESEND_EVERY = 5.0
RESEND_WINDOW = timedelta(seconds=10)
#: the snapshot also names what has just ceased to be served, so that older news cannot revive it
TOMBSTONE_WINDOW = timedelta(minutes=1)
KEY_LIFE = 86_400
_BODY_LIMIT = 4 * 1024 * 1024
#: also how many connections to the database the process has that serves this
THREADS = 4

Row = dict[str, Any]
Receive = Callable[[], Awaitable[Row]]
Send = Callable[[Row], Awaitable[None]]
T = TypeVar("T")

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="internal")


async def database(function: Callable[..., T], *args: Any) -> T:
    """Run a function that asks the database on a thread of our own few."""

    def run() -> T:
        close_old_connections()
        try:
            return function(*args)
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(_pool, run)


# ---- what is so ----
def keys(now: datetime) -> Row:
    """Return the keys of session cookies: one a day, derived, the day's before still good."""
    day = int(now.timestamp()) // KEY_LIFE
    made = {}
    for number in (day - 1, day):
        key = hmac.digest(settings.SECRET_KEY.encode(), f"gateway-cookie:{number}".encode(), hashlib.sha256)
        made[f"k{number}"] = base64.urlsafe_b64encode(key).decode()
    return {"current": f"k{day}", "keys": made}


def _instances() -> Any:
    return Instance.objects.select_related("provider", "plan__image")


def snapshot() -> Row:
    """Return all that may be reached and all sessions that count."""
    now = clock.now()
    lately = Q(updated_at__gt=Now() - TOMBSTONE_WINDOW)
    reachable = _instances().filter(Q(state__in=PROBED | SERVED) | lately)
    sessions = entry.living().filter(expires_at__gt=Now()).select_related("instance")
    return {
        "now": now.timestamp(),
        "uid": os.geteuid(),
        "keys": keys(now),
        "routes": [row_of(instance) for instance in reachable],
        "sessions": entry.rows(sessions),
    }


def _withdrawals(which: Q) -> list[Row]:
    sids = entry.withdrawn().filter(which).values_list("sid", flat=True)
    return [{"type": "withdraw", "sid": str(sid)} for sid in sids]


def changes(messages: list[Row]) -> list[Row]:
    """Return the lines that messages of the bus call for; the database says what is so, not the message."""
    uids = {message["instance"] for message in messages if "instance" in message}
    logins = {message["login_session"] for message in messages if "login_session" in message}
    lines = [{"type": "route", **row_of(instance)} for instance in _instances().filter(uid__in=uids)]
    which = Q(instance__uid__in=uids) | Q(login_session_id__in=logins)
    if any(not message.keys() & {"instance", "login_session"} for message in messages):
        which = Q()
    return lines + _withdrawals(which)


def recent() -> list[Row]:
    """Return what changed lately, every withdrawal in force, and the keys."""
    since = Q(updated_at__gt=Now() - RESEND_WINDOW)
    sessions = entry.living().filter(since, expires_at__gt=Now()).select_related("instance")
    return [
        *({"type": "route", **row_of(instance)} for instance in _instances().filter(since)),
        *({"type": "session", **row} for row in entry.rows(sessions)),
        *_withdrawals(Q()),
        {"type": "keys", **keys(clock.now())},
    ]


def heartbeat() -> list[Row]:
    """Return the time, after the sessions whose role has just ended: of that the bus says nothing."""
    ended = _withdrawals(Q(instance__by_role=True))
    return [*ended, {"type": "heartbeat", "now": clock.now().timestamp()}]


# ---- what is asked ----
def redeem(body: Row) -> tuple[int, Row]:
    try:
        session = entry.redeem(str(body["ticket"]), str(body["nonce"]), str(body["slug"]))
    except entry.OtherNonce:
        return 409, {"code": "other-nonce"}
    except entry.Refused:
        return 403, {"code": "refused"}
    return 200, entry.rows([session])[0]


def renew(body: Row) -> tuple[int, Row]:
    asked = {uuid.UUID(row["sid"]): bool(row.get("used")) for row in body["sessions"]}
    living, gone = entry.renew(asked)
    return 200, {"sessions": entry.rows(living), "gone": [str(sid) for sid in gone]}


_MARKED = {transitions.Marked.DONE: 200, transitions.Marked.BUSY: 409, transitions.Marked.GONE: 410}


def ready(body: Row) -> tuple[int, Row]:
    uid = uuid.UUID(body["instance"])
    marked = transitions.mark_ready(uid, version=int(body["version"]))
    answer: Row = {"marked": marked}
    if marked is transitions.Marked.DONE:
        instance = _instances().get(uid=uid)
        if instance.state == State.ACTIVE:
            answer["route"] = row_of(instance)  # who asks need not wait for the stream
        else:  # the next step has a call in it: a worker's
            tasks.wake(instance.pk)
    return _MARKED[marked], answer


def _work(row: Row) -> Row:
    """Return what a report says of work: of kernels, and of processor time where the machine's agent measures it."""
    cpu = (row.get("use") or {}).get("cpu")
    return {**(row.get("activity") or {}), **({"cpu": cpu} if cpu is not None else {})}


def report(body: Row) -> tuple[int, Row]:
    rows = {uuid.UUID(row["instance"]): row for row in body["instances"]}
    answers = {uid: {str(name): bool(up) for name, up in row["answers"].items()} for uid, row in rows.items()}
    transitions.mark_reported(answers)
    activity.note({uid: _work(row) for uid, row in rows.items()})
    measures.take({uid: use for uid, row in rows.items() if (use := row.get("use"))})
    if body.get("usage"):
        usage.take(body["usage"])
    return 200, {}


_ANSWERS: dict[str, Callable[[Row], tuple[int, Row]]] = {
    "/redeem": redeem,
    "/renew": renew,
    "/ready": ready,
    "/report": report,
}


# ---- ASGI ----
async def application(scope: Row, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        await _http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _http(scope: Row, receive: Receive, send: Send) -> None:
    given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    if not same(given, f"Bearer {settings.GATEWAY_TOKEN}"):
        await _answer(send, 401, {"code": "not-the-gateway"})
        return
    try:
        await _route(scope["method"], scope["path"], receive, send)
    except (OperationalError, InterfaceError) as error:  # the gateway asks again
        log.warning("database away", error=str(error)[:200])
        if scope["path"] != "/stream":
            await _answer(send, 503, {"code": "database-away"})


async def _route(method: str, path: str, receive: Receive, send: Send) -> None:
    if method == "GET" and path == "/stream":
        await _stream(receive, send)
    elif method == "GET" and path == "/snapshot":
        await _answer(send, 200, await database(snapshot))
    elif method == "POST" and path in _ANSWERS:
        await _post(_ANSWERS[path], receive, send)
    else:
        await _answer(send, 404, {"code": "not-found"})


async def _post(function: Callable[[Row], tuple[int, Row]], receive: Receive, send: Send) -> None:
    content = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        content += message.get("body", b"")
        if len(content) > _BODY_LIMIT:
            await _answer(send, 413, {"code": "too-large"})
            return
        if not message.get("more_body"):
            break
    try:
        status, answer = await database(function, json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("gateway asked something unreadable", error=repr(error)[:200])
        status, answer = 400, {"code": "bad-request"}
    await _answer(send, status, answer)


async def _answer(send: Send, status: int, answer: Row) -> None:
    content = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class News:
    """What the bus has said and nobody has looked at yet."""

    def __init__(self) -> None:
        self._messages: list[Row] = []
        self._event = asyncio.Event()

    async def gather(self) -> None:
        async for message in bus.subscribe(bus.GATEWAY):
            self._messages.append(message)
            self._event.set()

    async def wait(self, seconds: float) -> list[Row]:
        """Return the messages that have come, after at most `seconds`."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()
        messages, self._messages = self._messages, []
        return messages


async def _stream(receive: Receive, send: Send) -> None:
    news = News()
    writing = asyncio.create_task(_write_stream(news, send))
    gathering = asyncio.create_task(news.gather())
    gone = asyncio.create_task(_gone(receive))
    tasks_ = {writing, gathering, gone}
    try:
        done, _ = await asyncio.wait(tasks_, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {gone}:
            task.result()
    finally:
        for task in tasks_:
            task.cancel()
        await asyncio.gather(*tasks_, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write_stream(news: News, send: Send) -> None:
    """Begin when the bus is heard (or seems away), then one line a second at least."""
    loop = asyncio.get_running_loop()

    async def write(rows: list[Row]) -> None:
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
    await news.wait(0.5)  # the first word is that we are subscribed
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await write(await database(heartbeat))
    beat, resend = loop.time() + HEARTBEAT, loop.time() + RESEND_EVERY
    while True:
        messages = await news.wait(min(beat, resend) - loop.time())
        rows: list[Row] = []
        if messages:
            rows += await database(changes, messages)
        if loop.time() >= resend or any("reset" in message for message in messages):
            rows += await database(recent)
            resend = loop.time() + RESEND_EVERY
        if loop.time() >= beat:
            rows += await database(heartbeat)
            beat = loop.time() + HEARTBEAT
        if rows:
            await write(rows)
