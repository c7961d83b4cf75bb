"""Redis stopped, hung and flushed: pages answer, instances converge, rights shrink as ever, and nothing works twice."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.stores.browser import Answer, Browser, Events, until
from tests.stores.rig import Rig, memory_of, threads_of

FAULTS = {"stopped": Rig.redis_stopped, "hung": Rig.redis_hung}
SIGNED_OUT = 4401


@pytest.fixture
def browser(rig: Rig) -> Browser:
    return Browser.of(rig, rig.people[2])


async def every_page(browser: Browser, uid: str) -> dict[str, Answer]:
    """What people and their scripts look at."""
    found = (await browser.api("GET", "experiments")).json()["results"][0]
    asked: dict[str, Awaitable[Answer]] = {
        path: browser.page(path)
        for path in (
            *("/", "/auth/account/", "/instances/", f"/instances/{uid}/", "/experiments", "/experiments?q=Study"),
            *(f"/instances/new?experiment={found['id']}", "/readyz", "/healthz"),
        )
    }
    asked |= {
        f"api {path}": browser.api("GET", path)
        for path in ("me", "instances", f"instances/{uid}", "plans", "experiments", f"experiments/{found['id']}")
    }
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


@pytest.mark.parametrize("fault", FAULTS)
async def test_without_it_everything_goes_on(rig: Rig, browser: Browser, fault: str) -> None:
    """Asked for during the outage, done by the database alone: create, stop, delete, start."""
    stopping, _ = await browser.running_one(f"to stop while {fault}")
    deleting, _ = await browser.running_one(f"to delete while {fault}")
    async with Events(browser) as events:
        await until(lambda: "hello" in events.names())
        with FAULTS[fault](rig):
            made = await browser.create(f"made while {fault}")
            assert made.status == 201
            assert (await browser.api("POST", f"instances/{stopping}/stop")).status == 202
            assert (await browser.api("DELETE", f"instances/{deleting}")).status == 202
            wanted = {made.json()["id"]: "active", stopping: "stopped", deleting: "deleted"}

            async def there() -> bool:
                return all([await state(browser, uid) == end for uid, end in wanted.items()])

            await until(there, what=f"what was asked for while Redis was {fault}")
            answers = await every_page(browser, stopping)
            assert {path: answer.status for path, answer in answers.items() if answer.status != 200} == {}
            fragment = await browser.page(f"/instances/{stopping}/", HX_Request="true")
            assert "topped" in fragment.text, "a page that polls learns it"
        told = len(events.heard)
        await until(lambda: "hello" in events.names()[told:], what="that events come back by themselves")
        told = len(events.heard)
        assert (await browser.api("POST", f"instances/{stopping}/start")).status == 202
        await until(lambda: "instance-changed" in events.names()[told:], what="the first event afterwards")
        assert events.closed is None


async def state(browser: Browser, uid: str) -> str:
    answer = await browser.api("GET", f"instances/{uid}")
    return "deleted" if answer.status == 404 else str(answer.json()["state"])


def rights() -> dict[str, Callable[[Rig, Browser, str], Awaitable[Any]]]:
    """Ways to take a right away, and each is a right that reaches into an open notebook."""

    async def sign_out(_rig: Rig, browser: Browser, _uid: str) -> None:
        assert (await browser.post("/auth/logout/")).status == 200

    async def suspend(rig: Rig, browser: Browser, _uid: str) -> None:
        await asyncio.to_thread(rig.ask, "suspend", browser.person.handle)

    async def drop(rig: Rig, browser: Browser, uid: str) -> None:
        await asyncio.to_thread(rig.ask, "drop_member", uid, browser.person.handle)

    return {"sign out": sign_out, "suspend": suspend, "drop": drop}


@pytest.mark.parametrize(
    ("fault", "how"),
    [("hung", "sign out"), ("stopped", "drop"), pytest.param("hung", "suspend", marks=pytest.mark.slow)],
)
async def test_no_right_outlives_its_end_without_it(rig: Rig, fault: str, how: str) -> None:
    """A page's socket and an open notebook close by themselves, and stay closed."""
    person = rig.people[3] if how == "suspend" else rig.people[2]
    browser = Browser.of(rig, person)
    browser.cookies[rig.site.host] = {"__Host-sid": await asyncio.to_thread(rig.ask, "session_for", person.handle)}
    uid, slug = await browser.running_one(f"open until {how} while {fault}")
    assert (await browser.enter(slug))[0].status == 200
    async with Events(browser) as events:
        await until(lambda: "hello" in events.names())
        with FAULTS[fault](rig):
            kept = {host: dict(jar) for host, jar in browser.cookies.items()}
            await rights()[how](rig, browser, uid)
            browser.cookies = kept  # whatever the answer said, this browser keeps what it had

            async def shut() -> bool:
                signed_out = how == "drop" or events.closed == SIGNED_OUT
                return signed_out and (await browser.inside(slug)).status in (401, 403)

            await until(shut, what="the end of the right")
            if how != "drop":
                assert (await browser.page("/instances/")).status in (302, 303)
        assert (await browser.inside(slug)).status in (401, 403)


async def replayed(rig: Rig, browser: Browser, slug: str, ticket: str, callback: str, made: Answer) -> None:
    """Try what was used once again."""
    host = browser.host(slug)
    thief = Browser(rig, browser.person, browser.wire, {host: {}})
    for one in (thief, browser):
        again = await one.ask("GET", ticket, host=host, Sec_Fetch_Site="none", Sec_Fetch_Dest="document")
        assert "__Host-inst" not in again.cookies()
    assert (await browser.page(callback)).status == 400
    same = await browser.create("asked for again", Idempotency_Key="once")
    assert (same.status, same.json()["id"]) == (201, made.json()["id"])


async def test_nothing_works_twice_after_it_lost_all(rig: Rig, browser: Browser) -> None:
    made = await browser.create("made once", Idempotency_Key="once")
    _, slug = await browser.running_one("entered once")
    entered, ticket = await browser.enter(slug)
    assert entered.status == 200
    assert ticket
    begun = await asyncio.to_thread(rig.ask, "begin_sign_in", browser.person.session)
    callback = f"/auth/demo/callback/?state={begun}&code=some-code"
    first = await browser.page(callback)
    assert first.status in (502, 504), "it was taken: the portal went to the provider, which is not there"
    rig.flush_redis()
    await replayed(rig, browser, slug, ticket, callback, made)
    with rig.redis_stopped():
        pass
    await replayed(rig, browser, slug, ticket, callback, made)


async def test_a_hanging_one_collects_nothing_in_web_and_worker(rig: Rig, browser: Browser) -> None:
    uid, _ = await browser.running_one("busy while it hangs")
    await asyncio.gather(*(browser.page("/instances/") for _ in range(20)))
    before = [threads_of(child.pid) for child in (rig.web, rig.worker)]
    memory = [memory_of(child.pid) for child in (rig.web, rig.worker)]
    with rig.redis_hung():
        for _ in range(15):
            answers = await asyncio.gather(
                *(browser.page("/instances/") for _ in range(10)),
                browser.api("POST", f"instances/{uid}/stop"),
                browser.api("POST", f"instances/{uid}/start"),
            )
            assert {answer.status for answer in answers} <= {200, 202, 409}
        await until(
            lambda: all(
                threads_of(child.pid) <= had + 5 for child, had in zip((rig.web, rig.worker), before, strict=True)
            ),
            what="that no threads are left behind",
        )
        grown = [memory_of(child.pid) - had for child, had in zip((rig.web, rig.worker), memory, strict=True)]
        assert max(grown) < 30 * 2**20


async def latency(browser: Browser, rounds: int) -> str:
    """Ask for pages one after the other; return the median and the 95th percentile."""
    took = []
    for _ in range(rounds):
        for path in ("/", "/auth/account/", "/instances/", "/experiments"):
            began = time.monotonic()
            assert (await browser.page(path)).status == 200
            took.append(time.monotonic() - began)
    took.sort()
    return f"p50 {took[len(took) // 2] * 1000:.0f} ms, p95 {took[len(took) * 95 // 100] * 1000:.0f} ms"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_pages_take_as_long_without_it(rig: Rig, browser: Browser) -> None:
    """Prints figures for docs/reference/stores.md; each outage stands beside the healthy portal of the same minute."""
    rounds = int(os.environ.get("STORES_ROUNDS", "50"))
    await latency(browser, 5)
    for fault, broken in FAULTS.items():
        print(f"healthy: {await latency(browser, rounds)}")
        with broken(rig):
            print(f"{fault}: {await latency(browser, rounds)}")
            began = time.monotonic()
            uid = (await browser.create(f"timed while {fault}")).json()["id"]

            async def runs(uid: str = uid) -> bool:
                return await state(browser, uid) == "active"

            await until(runs)
            print(f"{fault}: an instance runs after {time.monotonic() - began:.1f} s")
