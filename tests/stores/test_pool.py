"""The connections of a serving process: so many and no more, none broken, none waited for without end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.conf import settings

from portal.lib.postgres import limits
from portal.lib.postgres import pool as pools
from portal.lib.postgres.pool import Connection, Outage, Pool


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(limits, "connections", 3)
    monkeypatch.setattr(limits, "patience", 20.0)
    monkeypatch.setattr(pools, "pool", Pool())
    monkeypatch.setattr(pools, "outage", Outage())
    yield pools.pool
    pools.pool.clear()


def make() -> Connection:
    host = settings.DATABASES["default"]["HOST"]
    return Connection.connect(host=str(host), user="beamport", dbname="postgres", autocommit=True)


def backend(connection: psycopg.Connection[Any]) -> int:
    return connection.info.backend_pid


def test_a_hundred_threads_hold_three_connections_at_a_time(pool: Pool) -> None:
    most, made = 0, set()
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal most
        connection = pool.take(make)
        with lock:
            most = max(most, pool.in_use)
            made.add(backend(connection))
        connection.execute("SELECT pg_sleep(0.01)")
        pool.give_back(connection)

    with ThreadPoolExecutor(100) as threads:
        list(threads.map(work, range(300)))
    assert (most, len(made), pool.in_use) == (3, 3, 0)


def test_who_finds_none_free_is_told_so(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "patience", 0.05)
    held = [pool.take(make) for _ in range(3)]
    with pytest.raises(psycopg.OperationalError, match="no connection is free"):
        pool.take(make)
    pool.give_back(held.pop())
    held.append(pool.take(make))
    for connection in held:
        pool.give_back(connection)


def test_one_that_a_thread_lost_counts_no_more(pool: Pool) -> None:
    for _ in range(3):
        pool.take(make)
    gc.collect()
    pool.give_back(pool.take(make))


def test_one_that_could_not_be_made_counts_no_more(pool: Pool) -> None:
    def refuse() -> Connection:
        raise psycopg.OperationalError("no")

    for _ in range(4):
        with pytest.raises(psycopg.OperationalError, match=r"^no$"):
            pool.take(refuse)
    pool.give_back(pool.take(make))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda connection: connection.execute("BEGIN"),
        lambda connection: connection.close(),
        lambda connection: pools.outage.began(),
    ],
    ids=["unfinished", "closed", "while the server is in doubt"],
)
def test_what_is_in_doubt_is_not_handed_on(pool: Pool, spoil: Callable[[Connection], object]) -> None:
    first = pool.take(make)
    pid = backend(first)
    spoil(first)
    pool.give_back(first)
    second = pool.take(make)
    assert backend(second) != pid
    pool.give_back(second)


def test_one_that_the_server_closed_is_not_handed_out(pool: Pool) -> None:
    first = pool.take(make)
    pid = backend(first)
    pool.give_back(first)
    with make() as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    second = pool.take(make)
    assert second.execute("SELECT 1").fetchone() == (1,)
    assert backend(second) != pid
    pool.give_back(second)


def test_a_server_that_does_not_answer_is_not_waited_for(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "patience", -0.8)  # less than the statement takes
    connection = make()
    with pytest.raises(psycopg.OperationalError, match="does not answer"):
        connection.execute("SELECT pg_sleep(30)")
    assert connection.closed
    assert pools.outage.known


def test_during_an_outage_one_asks_and_the_others_hear_at_once() -> None:
    outage = Outage()
    outage.check()
    outage.began()
    with pytest.raises(psycopg.OperationalError, match="away"):
        outage.check()
    outage._until = 0  # a second later
    outage.check()
    with pytest.raises(psycopg.OperationalError, match="away"):
        outage.check()
    outage.ended()
    outage.check()
