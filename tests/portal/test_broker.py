"""Messages in a worker's hand when its connection to Redis ends."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import kombu
import pytest
import redis
from django.conf import settings

from portal.celery import app


@pytest.fixture
def queue() -> Iterator[kombu.Queue]:
    name = f"test-{secrets.token_hex(8)}"
    yield kombu.Queue(name, kombu.Exchange(name, "direct"), routing_key=name)
    store = redis.from_url(settings.REDIS_URL)
    store.delete(name, f"_kombu.binding.{name}", "unacked", "unacked_index")
    store.close()


def taken(connection: kombu.Connection, queue: kombu.Queue) -> str | None:
    """Take a message on the connection's own channel, without a word that it is done."""
    message = queue(connection.default_channel).get()
    return message and message.payload


def sent(connection: kombu.Connection, queue: kombu.Queue) -> None:
    connection.Producer().publish("work", exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue])


def test_they_end_no_worker_when_the_connection_was_lost(queue: kombu.Queue) -> None:
    connection = app.connection_for_read()
    sent(connection, queue)
    assert taken(connection, queue) == "work"
    connection.transport.client = None  # what Connection.collect leaves of a connection that was lost
    connection.default_channel.close()
    connection.close()


def test_they_go_back_when_a_worker_ends_in_peace(queue: kombu.Queue) -> None:
    with app.connection_for_read() as connection:
        sent(connection, queue)
        assert taken(connection, queue) == "work"
    with app.connection_for_read() as connection:
        assert taken(connection, queue) == "work"
        connection.default_channel.qos.restore_unacked_once()
