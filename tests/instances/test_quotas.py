"""Quotas are counted under a lock: a hundred requests at once are no way around them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from instances import quotas, services
from instances.errors import QuotaExceeded
from instances.models import Instance, Quota
from tests.factories.instances import InstanceFactory, QuotaFactory
from tests.instances.conftest import settle
from tests.instances.test_services import run_all


def test_over_quota_is_refused_with_the_quota_named(request_one):
    QuotaFactory(limit=2)
    request_one(), request_one()
    with pytest.raises(QuotaExceeded) as refused:
        request_one()
    said = refused.value
    assert "quota “instances” is 2" in said.message
    assert "stopped" in said.message
    assert said.next_step.startswith("Delete an instance")
    assert Instance.objects.count() == 2


@pytest.mark.parametrize(("state", "counts"), [("stopped", 1), ("error", 1), ("deleting", 1), ("deleted", 0)])
def test_all_that_is_not_deleted_counts(alice, plan, state, counts):
    InstanceFactory(owner=alice, plan=plan, state=state)
    assert quotas.remaining(alice).used == counts


def test_a_deleted_instance_makes_room(request_one, alice, cloud):
    QuotaFactory(limit=1)
    first = request_one()
    services.delete(first, by=alice)
    with pytest.raises(QuotaExceeded):
        request_one()
    settle(first)
    assert request_one().pk


def test_ones_own_quota_goes_before_everybodys(alice, bob):
    QuotaFactory(limit=2)
    QuotaFactory(scope=Quota.Scope.USER, subject=str(alice.uid), limit=5)
    assert (quotas.remaining(alice).limit, quotas.remaining(bob).limit) == (5, 2)
    QuotaFactory(scope=Quota.Scope.USER, subject=str(bob.uid), limit=0)
    assert quotas.remaining(bob).free == 0


def test_ones_own_quota_holds_for_nobody_else(alice, bob):
    QuotaFactory(scope=Quota.Scope.USER, subject=str(alice.uid), limit=5)
    assert quotas.remaining(bob).limit is None


@pytest.mark.parametrize(
    "other",
    [{"resource": "cores"}, {"window": timedelta(days=1)}, {"scope": "group"}],
    ids=lambda other: next(iter(other)),
)
def test_a_quota_of_another_kind_is_no_limit_on_what_is_held(alice, other):
    """The table has room for kinds to come."""
    QuotaFactory(**{"scope": Quota.Scope.USER, "subject": str(alice.uid)} | other)
    assert quotas.remaining(alice).limit is None


def test_without_a_quota_there_is_no_limit(alice):
    assert quotas.remaining(alice).free is None


def test_one_users_instances_do_not_count_for_another(request_one, bob):
    QuotaFactory(limit=1)
    request_one()
    assert request_one(user=bob).owner == bob


def test_what_is_free_is_what_is_left_and_never_less_than_nothing(request_one, alice):
    quota = QuotaFactory(limit=5)
    request_one(), request_one()
    assert (quotas.remaining(alice).used, quotas.remaining(alice).free) == (2, 3)
    type(quota).objects.update(limit=1)
    assert quotas.remaining(alice).free == 0


def test_each_user_has_an_account_of_their_own(alice, bob):
    """Else everybody's requests would wait for everybody's."""
    assert quotas.lock_account(alice).subject == f"user:{alice.uid}"
    assert quotas.lock_account(bob).subject == f"user:{bob.uid}"


def test_the_account_is_locked_before_anything_is_counted(request_one):
    """Once, and for the first request of all too, which makes the row."""
    for _ in range(2):
        with CaptureQueriesContext(connection) as said:
            request_one()
        asked = [query["sql"] for query in said]
        locks = [n for n, sql in enumerate(asked) if "instances_account" in sql and "FOR UPDATE" in sql]
        counted = ["COUNT" in sql for sql in asked].index(True)
        assert locks
        assert max(locks) < counted


@pytest.mark.django_db(transaction=True)
def test_counting_outside_the_creating_transaction_is_a_mistake(alice, bob):
    with transaction.atomic():
        account = quotas.lock_account(alice)
        with pytest.raises(RuntimeError, match=r"^check_and_reserve belongs into"):
            quotas.check_and_reserve(bob, account)
        quotas.check_and_reserve(alice, account)
    with pytest.raises(RuntimeError, match=r"^check_and_reserve belongs into"):
        quotas.check_and_reserve(alice, account)


@pytest.mark.django_db(transaction=True)
def test_a_hundred_requests_at_quota_one_make_one_instance(request_one):
    QuotaFactory(limit=1)
    results = run_all(request_one, 100)
    made = [result for result in results if isinstance(result, Instance)]
    refused = [result for result in results if isinstance(result, QuotaExceeded)]
    assert (len(made), len(refused)) == (1, 99), [r for r in results if r not in made + refused][:3]
    assert Instance.objects.count() == 1
