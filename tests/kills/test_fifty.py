"""Fifty people start their JupyterLab at the same moment on one machine, and all of it goes again."""

from __future__ import annotations

import os
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from instances.providers.local.processes import memory_below
from tests.kills.agreement import agree, sandboxes
from tests.kills.site import Account, Site

MANY = int(os.environ.get("KILLS_INSTANCES", "50"))
MIB = 2**20

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_fifty_instances_start_stop_and_vanish_without_a_trace(portal: Site) -> None:
    account = portal.account("fifty", MANY)
    before, folders = set(portal.processes()), _machines(portal)
    portal.rows(f"UPDATE instances_flavour SET memory = {256 * MIB} WHERE name = 'small'")
    try:
        made = _all_at_once(account)
        _figures(portal, made)
        _each(made, lambda instance: account.verb("stop", instance))
        _timed("all stopped", lambda: [account.wait(instance, "stopped", seconds=600) for instance in made])
        agree(portal)
        assert not {f"bp-{instance.hex}-1" for instance in made} & set(sandboxes(portal))
    finally:
        portal.rows(f"UPDATE instances_flavour SET memory = {1024 * MIB} WHERE name = 'small'")
        _timed("all deleted", lambda: [account.delete_all(), agree(portal, 300)])
    assert _machines(portal) == folders
    assert len(portal.processes()) <= len(before) + 2  # of PostgreSQL's, which come and go


def _machines(portal: Site) -> set[str]:
    return {path.name for path in (portal.state / "local").iterdir() if path.is_dir()}


def _all_at_once(account: Account) -> list[uuid.UUID]:
    """Ask for all of them, wait until each is active, and look at the portal meanwhile."""
    began, made, pages = time.monotonic(), list[uuid.UUID](), list[float]()
    _each(range(MANY), lambda number: made.append(account.create(f"of-fifty-{number}")))
    waiting, seconds, waited = set(made), dict[uuid.UUID, float](), set()
    while waiting:
        assert time.monotonic() - began < 1800, f"{len(waiting)} never came"
        asked = time.monotonic()
        assert account.page("/instances/").status == 200
        pages.append(time.monotonic() - asked)
        for found in account.insist("GET", "instances?limit=100")[1]["results"]:
            instance = uuid.UUID(found["id"])
            assert found["state"] != "error", (found["reason"], found["detail"])
            waited |= {instance} if found["reason"] == "waiting-for-turn" else set()
            if found["state"] == "active" and instance in waiting:
                waiting.remove(instance)
                seconds[instance] = time.monotonic() - began
        time.sleep(0.5)
    took = sorted(seconds.values())
    print(
        f"asked → active: first {took[0]:.1f} s  p50 {statistics.median(took):.1f} s  "
        f"p95 {took[round(0.95 * MANY) - 1]:.1f} s  last {took[-1]:.1f} s; {len(waited)} seen waiting for their turn"
    )
    print(f"list page meanwhile: p50 {statistics.median(pages) * 1000:.0f} ms  worst {max(pages) * 1000:.0f} ms")
    return made


def _figures(portal: Site, made: list[uuid.UUID]) -> None:
    assert {f"bp-{instance.hex}-1" for instance in made} <= set(sandboxes(portal))
    agree(portal)
    supervisor = portal.pid("supervisor")
    below = [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    taken = sorted(memory_below(below))
    print(f"memory of one (PSS): p50 {statistics.median(taken) / MIB:.0f} MiB  most {taken[-1] / MIB:.0f} MiB")


def _each(items: Iterable[Any], act: Callable[[Any], object]) -> None:
    """Do it to all at the same time."""
    threads = [threading.Thread(target=act, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)


def _timed(what: str, act: Callable[[], object]) -> None:
    began = time.monotonic()
    act()
    print(f"{what} after {time.monotonic() - began:.1f} s", flush=True)
