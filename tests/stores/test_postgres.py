"""PostgreSQL restarted, away, hung and full: a clear page, nothing lost, and all of it comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from tests.stores.browser import Answer, Browser, Events, until
from tests.stores.rig import Rig, threads_of

FAULTS = {"stopped": Rig.postgres_stopped, "hung": Rig.postgres_hung}
HEADERS = ("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "x-request-id")


@pytest.fixture
def browser(rig: Rig) -> Browser:
    return Browser.of(rig, rig.people[1])


async def back(browser: Browser) -> None:
    async def works() -> bool:
        ready = await browser.page("/readyz")
        return ready.status == 200 and (await browser.page("/instances/")).status == 200

    await until(works, what="the portal's return")


def check_clear(answer: Answer) -> None:
    """Somebody is told what is the matter, and only that."""
    assert answer.status == 503, answer.text
    assert int(answer.get("retry-after")) <= 10
    for name in HEADERS:
        assert answer.get(name), name
    assert not answer.cookies()
    assert "Traceback" not in answer.text
    assert "psycopg" not in answer.text


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_it_is_away_pages_say_so_and_open_sockets_stay(rig: Rig, browser: Browser, fault: str) -> None:
    _, slug = await browser.running_one(f"open while it is {fault}")
    entered, _ = await browser.enter(slug)
    assert (entered.status, entered.text) == (200, "ok")
    wanted = await browser.wanted("never")
    await browser.page("/auth/account/")  # where a form's token comes from
    async with Events(browser) as events:
        await until(lambda: "hello" in events.names())
        with FAULTS[fault](rig):
            page, form, me, made = await asyncio.gather(
                browser.page("/instances/"),
                browser.post("/auth/logout/"),
                browser.api("GET", "me"),
                browser.api("POST", "instances", wanted),
            )
            for answer in (page, form, me, made):
                check_clear(answer)
            assert page.get("refresh")
            assert "by itself" in page.text
            assert not form.get("refresh"), "what was sent is not sent again"
            assert "before you send it again" in form.text
            for answer in (me, made):
                assert answer.get("content-type") == "application/problem+json"
                assert answer.json()["code"] == "database-away"
            stranger = Browser(rig, browser.person, browser.wire)
            assert (await stranger.page("/readyz")).status == 503
            assert (await stranger.page("/healthz")).status == 200
            assert (await stranger.page("/static/beamport/tokens.css")).status == 200
            inside = await browser.inside(slug)
            assert (inside.status, inside.text) == (200, "ok"), "the gateway serves by what it knows"
        await back(browser)
        assert events.closed is None, "an open page's socket outlives it"
    assert (await browser.inside(slug)).status == 200
    names = [row["name"] for row in (await browser.api("GET", "instances")).json()["results"]]
    assert "never" not in names
    await browser.running_one(f"after it was {fault}")


async def test_what_is_under_way_when_it_restarts_is_done_once_or_refused(rig: Rig, browser: Browser) -> None:
    names = [f"one of {number}" for number in range(24)]
    wanted = await browser.wanted("")

    async def create(name: str) -> Answer:
        return await browser.api("POST", "instances", wanted | {"name": name}, Idempotency_Key=name)

    first = [asyncio.create_task(create(name)) for name in names]
    await until(lambda: any(task.done() for task in first), what="the first answer")
    with rig.postgres_stopped():
        answers = await asyncio.gather(*first)
    assert {answer.status for answer in answers} <= {201, 503}
    for answer in answers:
        if answer.status == 503:
            check_clear(answer)
    await back(browser)
    again = [await create(name) for name in names]
    assert {answer.status for answer in again} == {201}
    for before, after in zip(answers, again, strict=True):
        if before.status == 201:
            assert before.json()["id"] == after.json()["id"], "what was answered as done is there"
    listed = (await browser.api("GET", "instances?limit=100")).json()["results"]
    assert Counter(row["name"] for row in listed if row["name"] in names) == Counter(names)


async def test_broken_connections_cost_no_request(rig: Rig, browser: Browser) -> None:
    await asyncio.gather(*(browser.page("/instances/") for _ in range(10)))  # so that some are kept
    with rig.database() as database:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'"
        )
        await asyncio.sleep(0.1)
    answers = await asyncio.gather(*(browser.page("/instances/") for _ in range(10)))
    assert [answer.status for answer in answers] == [200] * 10


async def test_the_worker_says_once_that_it_is_away_and_once_that_it_is_back(rig: Rig) -> None:
    """When it has nothing in hand: a step that is broken off says so too."""

    def in_hand() -> object:
        with rig.database() as database:
            moving = "state NOT IN ('active', 'stopped', 'error', 'deleted') OR lease_token IS NOT NULL"
            found = database.execute(f"SELECT count(*) FROM instances_instance WHERE {moving}").fetchone()
        return found[0] if found else None

    await until(lambda: in_hand() == 0, what="the end of what earlier tests have begun")
    already = len(rig.log(rig.worker))

    def said() -> list[str]:
        return re.findall(r'"event": "(database \w+|work failed)"', rig.log(rig.worker)[already:])

    with rig.postgres_stopped():
        await until(said, what="the worker's notice")
        await asyncio.sleep(3)  # in which it tries ten times more
    await until(lambda: "database back" in said(), what="the worker's return")
    assert said() == ["database away", "database back"]
    assert "Traceback" not in rig.log(rig.worker)[already:]


@contextlib.contextmanager
def full(rig: Rig) -> Iterator[None]:
    """Take every connection that the server has, those of the portal too."""
    taken = [rig.database(application_name="hog")]
    end_others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND application_name <> 'hog'"
    )
    room = "SELECT current_setting('max_connections')::int"
    try:
        all_of_them = taken[0].execute(room).fetchone()
        while (len(taken),) != all_of_them:  # one who signs in right now stands in no list yet
            taken[0].execute(end_others)
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.append(rig.database(application_name="hog"))
        yield
    finally:
        for connection in taken:
            connection.close()


async def test_when_all_its_connections_are_taken_pages_say_so(rig: Rig, browser: Browser) -> None:
    with full(rig):
        check_clear(await browser.page("/instances/"))
        assert (await browser.page("/readyz")).status == 503
    await back(browser)


async def test_many_who_ask_while_it_hangs_leave_no_threads_behind(rig: Rig, browser: Browser) -> None:
    await asyncio.gather(*(browser.page("/instances/") for _ in range(30)))
    before = threads_of(rig.web.pid)
    with rig.postgres_hung():
        answers = await asyncio.gather(*(browser.page("/instances/") for _ in range(100)))
        assert {answer.status for answer in answers} == {503}
    await back(browser)
    await until(lambda: threads_of(rig.web.pid) <= before + 5, what="the end of their threads")
