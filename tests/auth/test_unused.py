"""Accounts that nobody uses: what goes when, what stays, and who comes back in that very moment."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction

from auth import retention, unused
from auth.models import ApiToken, ErasedIdentity, GroupMember, Identity, PosixIdentity, RoleGrant, User
from instances.models import Home
from portal.audit import AuditEvent
from portal.lib import clock
from tests.factories.auth import FacilityFactory, IdentityFactory, RoleGrantFactory, UserFactory
from tests.factories.instances import HomeFactory, InstanceFactory
from tests.factories.rights import GroupMemberFactory, GroupRuleFactory

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
LAPSED, GONE = timedelta(days=396), timedelta(days=730)


def away(long: timedelta, **more: Any) -> Identity:
    """Somebody who was last here so long ago."""
    then = clock.now() - long
    user = UserFactory(created_at=then - DAY, **more)
    return IdentityFactory(user=user, last_login_at=then, claims_subset={"entitlements": ["urn:x:group:beam"]})


def holds(identity: Identity) -> None:
    """Let them hold all that a provider's word and they themselves made, and a role by hand."""
    user, then = identity.user, identity.last_login_at
    rule = GroupRuleFactory()
    GroupMemberFactory(user=user, group=rule.group, rule=rule, identity=identity, expires_at=then + 30 * DAY)
    GroupMemberFactory(user=user, group=rule.group)
    PosixIdentity.objects.create(user=user, facility=FacilityFactory(), uid=5001, gid=5000, source="claim")
    PosixIdentity.objects.create(user=user, facility=FacilityFactory(), uid=5001, gid=5000)
    ApiToken.objects.create(user=user, prefix=f"p{user.pk}", secret_hash="x", expires_at=then + 90 * DAY)
    RoleGrantFactory(user=user, role="staff")


def held(user: User) -> list[int]:
    said = Identity.objects.filter(user=user).exclude(claims_subset={})
    models = (GroupMember, PosixIdentity, ApiToken, RoleGrant)
    return [said.count(), *(model._default_manager.filter(user=user).count() for model in models)]


def gone(user: User) -> bool:
    return User.objects.get(pk=user.pk).erased_at is not None


# ---- thirteen months ----
@pytest.mark.parametrize(("long", "left"), [(LAPSED - DAY, [1, 2, 2, 1, 1]), (LAPSED + DAY, [0, 1, 1, 0, 1])])
def test_what_a_provider_said_goes_after_thirteen_months_and_the_rest_stays(long: timedelta, left: list[int]) -> None:
    identity = away(long)
    holds(identity)
    unused.tidy()
    assert held(identity.user) == left
    assert not gone(identity.user)


def test_it_is_noted_once(db: None) -> None:
    identity = away(LAPSED + DAY)
    unused.tidy()
    unused.tidy()
    event = AuditEvent.objects.get()
    assert (event.action, event.actor_uid, event.object_id) == ("account_lapsed", None, str(identity.user.uid))


# ---- twenty-four months ----
@pytest.mark.parametrize(("long", "forgotten"), [(GONE - DAY, False), (GONE + DAY, True)])
def test_the_account_goes_after_twenty_four_months(long: timedelta, forgotten: bool) -> None:
    identity = away(long, display_name="Jana Nováková")
    holds(identity)
    unused.tidy()
    user = User.objects.get(pk=identity.user.pk)
    assert (user.erased_at is not None) == user.display_name.startswith("deleted-") == forgotten
    assert ErasedIdentity.objects.exists() == forgotten
    events = AuditEvent.objects.filter(action="user_erased")
    assert list(events.values_list("actor_uid", "object_id", "reason")) == [(None, str(user.uid), "unused")] * forgotten


@pytest.mark.parametrize("used", ["another identity", "a token", "a new account"])
def test_an_account_that_is_used_in_any_way_stays(used: str) -> None:
    identity = away(GONE + DAY)
    lately = clock.now() - 80 * DAY
    if used == "another identity":
        IdentityFactory(user=identity.user, last_login_at=lately)
    elif used == "a token":
        token = {"prefix": "p", "secret_hash": "x", "expires_at": clock.now() + DAY, "last_used_at": lately}
        ApiToken.objects.create(user=identity.user, **token)
    else:
        User.objects.filter(pk=identity.user.pk).update(created_at=lately)
    unused.tidy()
    assert held(identity.user)[0] == 1
    assert not gone(identity.user)


def test_files_and_machines_are_never_taken_along(caplog: pytest.LogCaptureFixture) -> None:
    """Their owners come first in line, and keep nobody else from being forgotten."""
    with_home, with_machine, with_nothing = (away(GONE + DAY).user for _ in range(3))
    home, machine = HomeFactory(user=with_home), InstanceFactory(owner=with_machine)
    unused.tidy()
    assert [gone(user) for user in (with_home, with_machine, with_nothing)] == [False, False, True]
    assert Home.objects.get(pk=home.pk).deleting_at is None
    machine.refresh_from_db()
    assert machine.target != "deleted"
    assert str(with_home.uid) in caplog.text
    assert str(with_machine.uid) in caplog.text
    assert str(with_nothing.uid) not in caplog.text


def test_who_was_suspended_does_not_come_back_as_new() -> None:
    user = away(GONE + DAY, suspended_at=clock.now() - GONE).user
    unused.tidy()
    assert gone(user)
    assert ErasedIdentity.objects.get().suspended


def test_a_few_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unused, "MOST_A_DAY", 2)
    users = [away(GONE + DAY).user for _ in range(5)]
    for forgotten in (2, 4, 5, 5):
        unused.tidy()
        assert sum(map(gone, users)) == forgotten


def test_nothing_is_done_where_it_is_switched_off(settings: Any) -> None:
    settings.UNUSED_LAPSE = settings.UNUSED_FORGET = timedelta()
    identity = away(10 * GONE)
    unused.tidy()
    assert (held(identity.user)[0], gone(identity.user)) == (1, False)


def test_the_worker_does_it_with_what_else_it_forgets() -> None:
    user = away(GONE + DAY).user
    retention.forget()
    assert gone(user)


# ---- at the same moment ----
@pytest.mark.django_db(transaction=True)
def test_who_comes_back_this_very_moment_stays() -> None:
    identity = away(GONE + DAY)

    def work() -> None:
        try:
            unused.tidy()
        finally:
            connections.close_all()

    worker = threading.Thread(target=work)
    with transaction.atomic():  # as a sign-in does
        Identity.objects.select_for_update().get(pk=identity.pk)
        worker.start()
        _wait_until_somebody_waits()
        Identity.objects.filter(pk=identity.pk).update(last_login_at=clock.now())
    worker.join(30)
    assert not worker.is_alive()
    assert (held(identity.user)[0], gone(identity.user)) == (1, False)


def _wait_until_somebody_waits() -> None:
    until = time.monotonic() + 20
    # not pg_stat_activity, which stays as it was first seen in a transaction
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    with connection.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute(waiting)
            if cursor.fetchone()[0]:
                return
            time.sleep(0.02)
    raise AssertionError("nobody waits for the identity")
