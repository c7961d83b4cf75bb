"""The bottom layer: secrets, slugs, clock and bus."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.db import transaction
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from portal.lib import bus, clock, hashing, slugs


def test_an_instances_secrets_differ_by_purpose_epoch_and_instance() -> None:
    secrets = {
        hashing.instance_secret(b"key", instance, epoch, purpose)
        for instance in ("a", "b")
        for epoch in (1, 2)
        for purpose in ("jupyter", "vnc")
    }
    assert len(secrets) == 8


def test_a_secret_is_the_same_wherever_it_is_derived() -> None:
    assert hashing.instance_secret(b"k", "a", 1, "p") == hashing.instance_secret(b"k", "a", 1, "p")


@given(st.text())
def test_a_slugified_host_is_a_dns_label_or_empty(text: str) -> None:
    label = slugs.slugify_host(text)
    assert len(label) <= 40
    assert all(c.isascii() and (c.isalnum() or c == "-") for c in label)
    assert not label.startswith("-")
    assert not label.endswith("-")


def test_random_slugs_begin_with_a_letter_and_do_not_repeat() -> None:
    made = {slugs.random_slug() for _ in range(1000)}
    assert len(made) == 1000
    assert all(slug[0].isalpha() and len(slug) == 16 for slug in made)


@pytest.mark.django_db
def test_the_clock_moves_inside_a_transaction() -> None:
    with transaction.atomic():
        first = clock.now()
        assert clock.now() > first


@pytest.mark.django_db(transaction=True)
async def test_what_is_published_arrives() -> None:
    stream = bus.subscribe(bus.GATEWAY)
    assert await anext(stream) == {"reset": True}
    bus._publish(bus.GATEWAY, {"instance": "x"})
    assert await asyncio.wait_for(anext(stream), 10) == {"instance": "x"}
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.django_db(transaction=True)
def test_nothing_is_published_when_the_transaction_rolls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, object]] = []
    monkeypatch.setattr(bus, "_publish", lambda topic, message: sent.append(message))
    with transaction.atomic():
        bus.publish(bus.GATEWAY, {"instance": "x"})
        transaction.set_rollback(True)
    bus.flush()
    assert sent == []


@pytest.mark.django_db(transaction=True)
async def test_what_was_lost_is_made_good_by_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing while Redis is away never raises; a subscriber whose own connection stood hears of it afterwards."""
    streams = {topic: bus.subscribe(topic) for topic in (bus.GATEWAY, bus.PAGES)}
    for stream in streams.values():
        assert await anext(stream) == {"reset": True}
    monkeypatch.setattr(bus, "_redis", None)
    with override_settings(REDIS_URL="unix:///nowhere/redis.sock"):
        await asyncio.to_thread(bus.publish, bus.GATEWAY, {"instance": "x"})
        await asyncio.to_thread(bus.flush)
    await asyncio.to_thread(bus.flush)  # one that was still under way while Redis was away
    bus._redis = None
    for stream in streams.values():
        assert await asyncio.wait_for(anext(stream), 10) == {"reset": True}
        await stream.aclose()  # type: ignore[attr-defined]


def test_a_full_queue_drops_instead_of_blocking() -> None:
    bus.flush()
    hung, taken = threading.Event(), threading.Event()
    bus.defer(lambda: (taken.set(), hung.wait(30)))
    taken.wait(10)
    ran: list[int] = []
    for _ in range(bus._queue.maxsize + 500):  # a blocking put would never come back: the publisher is hung
        bus.defer(lambda: ran.append(1))
    hung.set()
    bus.flush(20)
    assert len(ran) == bus._queue.maxsize
    bus.flush()  # so that what was lost is made good before the next test listens
