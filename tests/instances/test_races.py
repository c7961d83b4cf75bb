"""A hundred threads at the same moment, workers that lose their lease in the middle of a call, clocks that are off.

Each race is run twice here, and RACE_ROUNDS times (20) by the long proof.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from auth import tokens
from auth.models import ApiToken, Session
from auth.oidc import states
from auth.oidc.errors import SignInStale
from auth.roles import InstanceRole
from instances import clouds, entry, jobs, leases, reconcile, services, sweep
from instances.errors import NotNow, QuotaExceeded
from instances.models import GatewaySession, Instance, Leftover
from portal import internal
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.clock import Now
from portal.lib.hashing import digest
from tests.factories.auth import UserFactory, sign_in
from tests.factories.instances import InstanceFactory, QuotaFactory
from tests.instances.clockwork import assert_sound, forward, tick
from tests.instances.conftest import bring_up, settle, use_cloud
from tests.providers.faulty import Faulty
from tests.races import ROUNDS, Racers

pytestmark = pytest.mark.django_db(transaction=True)

TEN_MINUTES = 600.0


@pytest.fixture(scope="module")
def racers() -> Iterator[Racers]:
    racers = Racers(100)
    yield racers
    racers.close()


@pytest.fixture(params=ROUNDS)
def again(request: pytest.FixtureRequest) -> int:
    """The same race once more."""
    return int(request.param)


def of(results: list[object], kind: type) -> list[Any]:
    return [result for result in results if isinstance(result, kind)]


def acts(action: str) -> int:
    return AuditEvent.objects.filter(action=action).count()


# ---- one winner ----
@pytest.mark.usefixtures("again")
def test_a_hundred_requests_at_quota_one_make_one_instance(racers, request_one):
    QuotaFactory(limit=1)
    results = racers.run(request_one)
    assert (len(of(results, Instance)), len(of(results, QuotaExceeded))) == (1, 99)
    assert Instance.objects.count() == 1


@pytest.mark.usefixtures("again")
def test_a_hundred_requests_with_one_key_make_one_instance(racers, request_one):
    results = racers.run(lambda: request_one(idempotency_key="click"))
    assert {result.pk for result in of(results, Instance)} == set(Instance.objects.values_list("pk", flat=True))
    assert len(of(results, Instance)) == 100
    assert (Instance.objects.count(), acts("instance.request")) == (1, 1)


@pytest.mark.usefixtures("again")
def test_of_a_hundred_gateways_that_redeem_one_ticket_one_gets_a_session(racers):
    instance = InstanceFactory(state="active")
    session = sign_in(Client(), instance.owner)
    ticket = entry.issue_ticket(session, instance.owner, instance, InstanceRole.OWNER, digest("nonce"))
    asked = {"ticket": ticket, "nonce": digest("nonce"), "slug": instance.slug}
    results = racers.run(lambda: internal.redeem(asked))
    assert sorted(status for status, _ in results) == [200] + 99 * [403]
    assert GatewaySession.objects.count() == 1


@pytest.mark.usefixtures("again")
def test_of_a_hundred_callbacks_with_one_state_one_goes_on(racers, db):
    session = sign_in(Client(), UserFactory())
    begun = states.begin(session, "demo", "/")
    results = racers.run(lambda: states.consume(session, "demo", begun.state))
    assert len(of(results, SignInStale)) == 99, of(results, Exception)[:2]


@pytest.mark.usefixtures("again")
def test_of_a_hundred_retries_one_counts(racers, alice, plan):
    instance = InstanceFactory(owner=alice, plan=plan, state="error", target="active")
    results = racers.run(lambda: services.retry(instance, by=alice))
    assert (len(of(results, Instance)), len(of(results, NotNow))) == (1, 99)
    assert [row.event for row in instance.transitions.all()] == ["retry"]
    assert acts("instance.retry") == 1


@pytest.mark.usefixtures("again")
@pytest.mark.parametrize("other", ["start", "stop", "reboot", "retry"])
def test_delete_wins_against_any_other_verb(racers, request_one, alice, cloud, other):
    instance = bring_up(request_one())
    if other == "start":
        services.stop(instance, by=alice)
    if other == "retry":
        Instance.objects.filter(pk=instance.pk).update(state="error")
    settle(instance)
    verb = getattr(services, other)
    results = racers.run(lambda: services.delete(instance, by=alice), lambda: verb(instance, by=alice))
    assert len(of(results, Instance)) + len(of(results, NotNow)) == 100, of(results, Exception)[:2]
    assert acts("instance.delete") == 1
    assert acts(f"instance.{other}") <= 1 + (other == "stop")
    settle(instance)
    assert instance.state == "deleted"
    assert cloud.machines == {}
    assert [row.event for row in instance.transitions.all()].count("delete") >= 1


@pytest.mark.usefixtures("again")
def test_a_revoked_token_is_refused_from_that_moment_on(racers, alice):
    token, text = tokens.issue(alice, scopes=["me:read"], lasts=timedelta(days=1))
    revoked = threading.Event()
    turn = iter(range(racers.count))

    def use() -> list[tuple[bool, bool]]:
        seen = []
        for _ in range(5):
            after = revoked.is_set()
            seen.append((after, tokens.find(text) is not None))
        return seen

    def revoke() -> list[tuple[bool, bool]]:
        ApiToken.objects.filter(pk=token.pk).update(revoked_at=Now())
        revoked.set()
        return []

    results = racers.run(lambda: revoke() if next(turn) == racers.count // 2 else use())
    assert not of(results, Exception)
    assert (True, True) not in [seen for result in of(results, list) for seen in result]
    assert tokens.find(text) is None


@pytest.mark.usefixtures("again")
def test_of_a_hundred_workers_one_holds_an_instance(racers, request_one):
    instance = request_one()
    results = racers.run(lambda: leases.take(instance.pk))
    (held,) = of(results, Instance)
    assert results.count(None) == 99
    leases.release(held.pk, held.lease_token, None)


@pytest.mark.usefixtures("again")
@pytest.mark.parametrize("known", [False, True], ids=["new", "due again"])
def test_of_a_hundred_tickers_one_claims_a_job(racers, db, known):
    if known:
        assert jobs.claim("sweep", timedelta(0))
    assert racers.run(lambda: jobs.claim("sweep", timedelta(hours=1))).count(True) == 1


@pytest.mark.usefixtures("again")
def test_a_hundred_workers_make_one_machine_of_one_instance(racers, request_one, cloud):
    instance = request_one()
    assert not of(racers.run(lambda: reconcile.run(instance.pk)), Exception)
    instance.refresh_from_db()
    assert instance.state == "starting"
    assert [verb for verb, _ in cloud.calls].count("create") == 1
    assert_sound(instance)


# ---- a lease that is lost in the middle of a call ----
class Paused(Faulty):
    """The first call of one verb hangs until the gate opens, before anything has come of it or after."""

    def __init__(self, options: dict[str, Any], verb: str, *, before: bool) -> None:
        super().__init__(options)
        self.verb, self.before = verb, before
        self.reached, self.gate = threading.Event(), threading.Event()

    def heard(self, verb: str, ref: str, act: Callable[[], Any]) -> Any:
        answer = None if self.before else act()
        if verb == self.verb and not self.reached.is_set() and self.broken:
            self.reached.set()
            assert self.gate.wait(40)
        return act() if self.before else answer


@contextmanager
def a_worker_hangs(instance: Instance, cloud: Paused) -> Iterator[None]:
    """One worker hangs in a call while the block runs, without its lease; then its answer comes."""

    def work() -> None:
        try:
            reconcile.run(instance.pk)
        finally:
            connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    assert cloud.reached.wait(40)
    forward(leases.LEASE.total_seconds() + 1)
    yield
    before = Instance.objects.filter(pk=instance.pk).values().get()
    cloud.gate.set()
    worker.join(40)
    assert not worker.is_alive()
    assert Instance.objects.filter(pk=instance.pk).values().get() == before, "a late answer was saved"


@pytest.mark.parametrize("before", [True, False], ids=["call late", "answer late"])
def test_a_create_that_comes_late_does_not_undo_a_delete(request_one, provider, alice, before):
    cloud = use_cloud(provider, Paused(clouds.options_of(provider), "create", before=before))
    instance = request_one()
    with a_worker_hangs(instance, cloud):
        services.delete(instance, by=alice)
        settle(instance)
        assert instance.state == "deleted"
        assert cloud.machines == {}
    tick(cloud, 30, rounds=4)
    assert cloud.machines == {}, "the machine that came late is gone after its grace"
    assert not Leftover.objects.exists()
    assert instance.home.key in cloud.homes or before


@pytest.mark.parametrize("before", [True, False], ids=["call late", "answer late"])
def test_a_create_that_comes_late_makes_no_second_machine(request_one, provider, before):
    cloud = use_cloud(provider, Paused(clouds.options_of(provider), "create", before=before))
    instance = request_one()
    with a_worker_hangs(instance, cloud):
        bring_up(instance)
        assert instance.state == "active"
    assert cloud.ledger.made == [instance.ref]
    tick(cloud, 30, rounds=4)
    instance.refresh_from_db()
    assert (instance.state, list(cloud.machines)) == ("active", [instance.ref])
    assert_sound(instance)


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_an_answer_that_comes_late_changes_no_newer_wish(request_one, provider, alice, verb):
    cloud = use_cloud(provider, Paused(clouds.options_of(provider), verb, before=False))
    cloud.broken = False
    instance = bring_up(request_one())
    getattr(services, verb)(instance, by=alice)
    cloud.broken = True
    with a_worker_hangs(instance, cloud):
        settle(instance)
        if verb == "stop":
            services.start(instance, by=alice)
            bring_up(instance)
        assert instance.state == ("active" if verb == "stop" else "deleted")
    assert_sound(instance)


# ---- a worker's clock that is off ----
@contextmanager
def clock_off(seconds: float) -> Iterator[None]:
    """All that this process could read the time of day from is off; PostgreSQL's clock is not."""
    real, here = time.time, timezone.now
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + seconds)
        patch.setattr(time, "time_ns", lambda: int((real() + seconds) * 1e9))
        patch.setattr(timezone, "now", lambda: here() + timedelta(seconds=seconds))
        for module in (reconcile, sweep):
            patch.setattr(module, "datetime", type("Off", (datetime,), {"now": classmethod(lambda *a: _off(seconds))}))
        yield


def _off(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("off", [TEN_MINUTES, -TEN_MINUTES], ids=["fast", "slow"])
def test_a_worker_whose_clock_is_off_does_the_same_as_any(request_one, cloud, alice, provider, off):
    with clock_off(off):
        assert abs(time.time() - clock.now().timestamp()) > TEN_MINUTES - 60
        instance = bring_up(request_one())
        assert instance.state == "active", "it was neither too late nor too early"
        services.stop(instance, by=alice)
        settle(instance)
        assert instance.state == "stopped"
        services.start(instance, by=alice)
        settle(instance)
        assert instance.state == "starting", "what was ready before this start does not count"
        bring_up(instance)
        assert instance.state == "active"
    times = Instance.objects.filter(pk=instance.pk).values("called_at", "ready_at", "state_changed_at").get()
    assert all(abs((at - clock.now()).total_seconds()) < 60 for at in times.values())


@pytest.mark.parametrize("off", [TEN_MINUTES, -TEN_MINUTES], ids=["fast", "slow"])
def test_a_clock_that_is_off_takes_nobodys_lease_job_deadline_or_ticket(request_one, alice, off):
    instance = request_one()
    held = leases.take(instance.pk)
    assert jobs.claim("sweep", timedelta(seconds=30))
    session = sign_in(Client(), alice)
    ticket = entry.issue_ticket(session, alice, instance, InstanceRole.OWNER, digest("nonce"))
    with clock_off(off):
        assert leases.take(instance.pk) is None
        assert not jobs.claim("sweep", timedelta(seconds=30))
        assert Session.objects.get(pk=session.pk).expires_at > clock.now()
        assert entry.redeem(ticket, digest("nonce"), instance.slug).user == alice
    leases.release(instance.pk, held.lease_token, None)
    forward(31)
    with clock_off(off):
        assert leases.take(instance.pk) is not None
        assert jobs.claim("sweep", timedelta(seconds=30))


@pytest.mark.parametrize("off", [TEN_MINUTES, -TEN_MINUTES], ids=["fast", "slow"])
def test_deadlines_are_postgresqls(instance, cloud, off):
    settle(instance)
    with clock_off(off):
        forward(170)
        assert settle(instance).state == "starting"
        forward(20)
        assert settle(instance).state == "error"


def test_two_workers_with_clocks_twenty_minutes_apart_share_an_instance(racers, request_one, cloud):
    instance = request_one()
    offsets = iter([TEN_MINUTES, -TEN_MINUTES] * racers.count)

    def work() -> None:
        local.off = next(offsets)
        reconcile.run(instance.pk)

    local, real = threading.local(), time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + getattr(local, "off", 0.0))
        assert not of(racers.run(work), Exception)
    instance.refresh_from_db()
    assert instance.state == "starting"
    assert [verb for verb, _ in cloud.calls].count("create") == 1
