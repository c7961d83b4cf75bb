"""The disk under the whole portal is full: PostgreSQL and the logs cannot write. Then there is room again."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.kills.agreement import agree
from tests.kills.site import Account, Away, Site, Witness, site
from tests.portals import until

pytestmark = [pytest.mark.root("it mounts a disk"), pytest.mark.slow, pytest.mark.timeout(300, func_only=True)]

SIZE = "4g"


@pytest.fixture(scope="module")
def small() -> Iterator[Site]:
    """A portal with a disk of its own: sparse, in memory, as large as a start asks for."""
    with site(disk=SIZE) as made:
        yield made


@pytest.fixture(scope="module")
def owner(small: Site) -> Account:
    return small.account("owner")


@pytest.fixture(scope="module")
def witness(owner: Account) -> Witness:
    return Witness(owner)


@pytest.fixture(scope="module")
def stopped(owner: Account) -> uuid.UUID:
    instance = owner.create()
    owner.wait(instance, "active")
    owner.verb("stop", instance)
    owner.wait(instance, "stopped")
    return instance


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Take away all that is free on a disk, and give it back."""
    state = os.statvfs(disk)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used}", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", f"remount,size={SIZE}", str(disk)], check=True)


def test_no_instance_starts_on_a_full_disk_and_the_page_says_why(
    small: Site, owner: Account, witness: Witness, stopped: uuid.UUID
) -> None:
    with full(small.state):
        assert owner.verb("start", stopped) == 202
        until(lambda: owner.seen(stopped)["reason"] == "disk-full")
        assert "The disk is full" in owner.page(f"/instances/{stopped}/").text
        assert witness.answers()
    owner.wait(stopped, "active")  # by itself, as soon as there is room
    agree(small)


def test_a_database_that_cannot_write_is_a_clear_page_and_comes_back_by_itself(
    small: Site, owner: Account, witness: Witness
) -> None:
    before = small.rows("SELECT count(*) FROM instances_transition")
    with full(small.state):
        with pytest.raises(psycopg.OperationalError):  # its journal needs a new file, and there is none
            small.rows("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 200)")
        until(lambda: owner.page("/instances/").status == 503)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            assert {owner.page(path).status for path in ("/", "/readyz", "/instances/")} <= {200, 503}
            assert small.get("/readyz") == 503
            with pytest.raises(Away, match=r"^503 "):
                owner.ask("GET", "instances")
            assert witness.answers()
    until(lambda: small.get("/readyz") == 200, 90)
    assert witness.answers()
    assert small.rows("SELECT count(*) FROM instances_transition") >= before
    another = owner.create("after")
    owner.wait(another, "active")
    agree(small)
