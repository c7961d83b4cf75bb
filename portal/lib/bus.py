"""Publish and subscribe over Redis. It only makes things fast: nothing is lost when a message is.

Publishing goes through a bounded queue and one thread, so that a hung Redis never holds a request.
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
_queue: queue.Queue[Callable[[], object]] = queue.Queue(maxsize=2000)
_start = threading.Lock()
_thread: threading.Thread | None = None


def defer(job: Callable[[], object]) -> None:
    """Run `job` soon on the publisher thread; dropped with a log line when too many wait. Never raises or blocks."""
    _ensure_thread()
    try:
        _queue.put_nowait(job)
    except queue.Full:
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
        job = _queue.get()
        try:
            job()
        except Exception as error:  # the publisher must outlive any one message
            log.warning("could not publish", error=str(error)[:200])


def _client() -> Any:
    import redis

    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, single_connection_client=False
    )


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

    def send() -> None:
        from asgiref.sync import async_to_sync
        from channels.layers import get_channel_layer

        layer = get_channel_layer()
        if layer is not None:
            async_to_sync(layer.group_send)(f"user.{user_uid}", {"type": "portal.event", "event": event})

    transaction.on_commit(lambda: defer(send))


async def subscribe(*topics: str) -> AsyncIterator[dict[str, Any]]:
    """Yield messages of the topics; yields `{"reset": true}` first and after each reconnect (something may be lost).

    Never ends and never raises while Redis is away: it tries again every second.
    """
    import redis.asyncio

    while True:
        client = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.5, health_check_interval=5)
        try:
            async with client.pubsub() as channel:
                await channel.subscribe(*topics)
                yield {"reset": True}
                while True:
                    message = await channel.get_message(ignore_subscribe_messages=True, timeout=5)
                    if message is not None:
                        yield json.loads(message["data"])
        except (redis.RedisError, OSError) as error:
            log.warning("bus away", error=str(error)[:200])
            await asyncio.sleep(1)
        finally:
            await client.aclose()
