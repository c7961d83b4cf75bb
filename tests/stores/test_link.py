"""The gateways' link when pages have taken all that a web process has: it goes on, and rights end as ever."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from portal.embedded import stack
from tests.stores.browser import SESSION, Browser, until
from tests.stores.rig import SOON, Rig, children_of

#: more requests than the web process has connections and the system has processors
MANY = 40


@contextlib.asynccontextmanager
async def stuck_pages(rig: Rig) -> AsyncIterator[None]:
    """So many people wait for a table that is locked: all connections of pages are taken, others wait for one."""
    browser = Browser.of(rig, rig.people[0])

    async def ask() -> None:
        while True:
            await browser.page("/experiments")

    with rig.database() as database, rig.database() as looking:
        database.execute("BEGIN; LOCK TABLE experiments_experiment")
        asking = [asyncio.create_task(ask()) for _ in range(MANY)]

        def waiting() -> bool:
            row = looking.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
            return row is not None and row[0] >= 20

        try:
            await until(waiting, what="that all connections of pages are taken")
            yield
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            database.execute("ROLLBACK")


async def test_a_sign_out_reaches_the_gateways_past_pages_that_are_stuck(rig: Rig) -> None:
    browser = Browser.of(rig, rig.people[0])
    key = await asyncio.to_thread(rig.ask, "session_for", browser.person.handle)
    browser.cookies[rig.site.host] = {SESSION: key}
    _, slug = await browser.running_one("open while pages are stuck")
    assert (await browser.enter(slug))[0].status == 200
    said = len(rig.log(rig.gateway))
    async with stuck_pages(rig):
        assert (await browser.inside(slug)).status == 200
        await asyncio.to_thread(rig.ask, "sign_out", key)

        async def refused() -> bool:
            return (await browser.inside(slug)).status in (401, 403)

        await until(refused, seconds=SOON / 3, what="the end of the instance's session")
        await asyncio.sleep(5)  # a link that waits for a connection is given up on after three seconds
    assert "link lost" not in rig.log(rig.gateway)[said:]


async def test_neither_half_of_the_web_process_outlives_the_other(rig: Rig) -> None:
    async def answers() -> bool:
        return (await Browser.of(rig, rig.people[0]).page("/healthz")).status == 200

    for end_one in (lambda link: os.kill(link, signal.SIGKILL), lambda link: os.kill(rig.web.pid, signal.SIGKILL)):
        (link,) = children_of(rig.web.pid)
        end_one(link)
        await until(lambda: not rig.web.alive(), what="the end of the web process")
        await until(lambda link=link: not os.path.exists(f"/proc/{link}"), what="the end of its link")
        said = len(rig.log(rig.gateway))
        rig.web.start()
        await until(answers, what="the portal's return")
        await until(lambda said=said: "link up" in rig.log(rig.gateway)[said:], what="the gateway's link")


def test_a_link_that_hangs_is_noticed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = rig.web.program.healthy
    assert healthy is not None
    assert healthy()
    (link,) = children_of(rig.web.pid)
    os.kill(link, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(stack, "PATIENCE", 1.0)
            assert not healthy()
    finally:
        os.kill(link, signal.SIGCONT)
    assert healthy()
