"""Publish and subscribe over Redis. It only makes things fast: nothing is lost when a message is.

Publishing goes through a bounded queue and one thread, so that a hung Redis never holds a request. What could not be
said is not said again: as soon as Redis answers, everybody hears `{"reset": true}` instead and looks for himself. A
subscriber cannot notice that alone, for a short outage leaves his own connection as it was.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction

log = structlog.get_logger("portal.bus")

GATEWAY = "beamport.gateway"
PAGES = "beamport.pages"
#: seconds; after so long without a word the other side is asked for one
SILENCE = 2.0
#: seconds between two tries to say that something was lost
AGAIN = 1.0
_queue: queue.Queue[Callable[[], object]] = queue.Queue(maxsize=2000)
_start = threading.Lock()
_thread: threading.Thread | None = None
#: something was not said since the last reset
_lost = threading.Event()


def defer(job: Callable[[], object]) -> None:
    """Run `job` soon on the publisher thread; dropped with a log line when too many wait. Never raises or blocks."""
    _ensure_thread()
    try:
        _queue.put_nowait(job)
    except queue.Full:
        _lost.set()
        log.warning("publisher queue full, message dropped")


def flush(seconds: float = 5.0) -> None:
    """Wait until everything deferred so far has run (tests, shutdown)."""
    _ensure_thread()
    done = threading.Event()
    _queue.put(done.set, timeout=seconds)
    done.wait(seconds)


def _ensure_thread() -> None:
    global _thread
    with _start:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_work, name="publisher", daemon=True)
            _thread.start()


def _work() -> None:
    while True:
        try:
            job = _queue.get(timeout=AGAIN if _lost.is_set() else None)
        except queue.Empty:
            _say_lost()
            continue
        try:
            job()
        except Exception as error:  # the publisher must outlive any one message
            _lost.set()
            log.warning("could not publish", error=str(error)[:200])
        else:
            _say_lost()


def _say_lost() -> None:
    """Have all subscribers look for themselves, if something was lost and Redis is back."""
    if not _lost.is_set():
        return
    _lost.clear()  # before, for a message may be dropped meanwhile
    try:
        for topic in (GATEWAY, PAGES):
            _publish(topic, {"reset": True})
    except Exception:
        _lost.set()


def _client() -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)  # the client's own three more tries would hold up everything behind
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, retry=once)


_redis: Any = None


def _publish(topic: str, message: dict[str, Any]) -> None:
    global _redis
    if _redis is None:
        _redis = _client()
    _redis.publish(topic, json.dumps(message))


def publish(topic: str, message: dict[str, Any]) -> None:
    """Publish after the running transaction has committed. Ids only, never secrets."""
    transaction.on_commit(lambda: defer(lambda: _publish(topic, message)))


def notify(user_uid: object, event: dict[str, Any]) -> None:
    """Send an event to all open pages of a user (portal events socket), after commit."""
    publish(PAGES, {"user": str(user_uid), "event": event})


async def subscribe(*topics: str) -> AsyncIterator[dict[str, Any]]:
    """Yield messages of the topics; yields `{"reset": true}` first, after each reconnect and when a publisher lost one.

    Never ends and never raises while Redis is away: it tries again every second. A Redis that answers no ping within
    `SILENCE` is away too, although nothing has closed the connection.
    """
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    while True:
        client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=SILENCE, socket_timeout=SILENCE, retry=Retry(NoBackoff(), 0)
        )
        try:
            async with client.pubsub() as channel:
                await channel.subscribe(*topics)
                subscribed = pinged = False
                while True:
                    message = await channel.get_message(timeout=SILENCE)
                    if message is None:
                        if pinged or not subscribed:
                            raise redis.ConnectionError("no answer")
                        await channel.ping()
                        pinged = True
                        continue
                    pinged = False
                    if message["type"] == "message":
                        yield json.loads(message["data"])
                    elif message["type"] == "subscribe" and not subscribed:
                        subscribed = True
                        yield {"reset": True}
        except (redis.RedisError, OSError) as error:
            log.warning("bus away", error=str(error)[:200])
            await asyncio.sleep(1)
        finally:
            await client.aclose()
