"""The whole portal as a plain user: no root, no cgroup; the same promises where the kernel lets them be kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kills.agreement import agree, sandboxes
from tests.kills.matrix import kill, power_cut
from tests.kills.site import Account, Site, Witness, site
from tests.providers.local.conftest import PLAIN

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def plain() -> Iterator[Site]:
    with site(uid=PLAIN) as made:
        yield made


@pytest.fixture(scope="module")
def account(plain: Site) -> Account:
    return plain.account("plain")


@pytest.fixture(scope="module")
def witness(account: Account) -> Witness:
    return Witness(account)


@pytest.mark.parametrize("victim", ["web", "worker", "redis", "postgres"])
def test_no_open_notebook_notices_a_kill(plain: Site, witness: Witness, victim: str) -> None:
    kill(plain, victim)
    assert witness.answers()
    agree(plain)


def test_the_next_parent_adopts_the_session(plain: Site, witness: Witness) -> None:
    before = sandboxes(plain)
    kill(plain, "up")
    witness.comes_back()
    assert sandboxes(plain) == before


@pytest.mark.parametrize("victim", ["supervisor", "power"])
def test_what_takes_the_session_along_leaves_it_stopped_with_a_reason(
    plain: Site, account: Account, witness: Witness, victim: str
) -> None:
    if victim == "power":
        with power_cut(plain):
            plain.up()
    else:
        kill(plain, victim)
    assert account.wait(witness.instance, "stopped")["reason"] == "supervisor-restarted"
    agree(plain)
    account.verb("start", witness.instance)
    witness.open()
    assert witness.answers()
