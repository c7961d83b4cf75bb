"""The verbs: who may, what they refuse, and what stays behind in the record."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connections

from auth.roles import InstanceRole, Role
from instances import homes, services
from instances.errors import (
    HomeBusy,
    HomeInUse,
    HomeNotDeleted,
    NeedsExperiment,
    NotNow,
    SeveralFacilities,
    WrongFacility,
)
from instances.models import Home, Instance, Member, Quota
from instances.providers.base import ProviderUnavailable
from instances.spec import spec_of
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.errors import BadRequest, Forbidden, NotFound
from tests.factories.auth import FacilityFactory, RoleGrantFactory, UserFactory
from tests.factories.experiments import DatasetFactory, ExperimentFactory, ProposalFactory
from tests.factories.instances import HomeFactory, InstanceFactory, PlanFactory, ProviderFactory
from tests.instances.conftest import settle, use_cloud

VERBS = ["start", "stop", "reboot", "retry", "delete"]


def acts(action: str) -> int:
    return AuditEvent.objects.filter(action=action).count()


def run_all(work, count: int) -> list[object]:
    """Run `work` in threads that begin together; return what each returned or raised."""
    barrier, results = threading.Barrier(count), []

    def one() -> None:
        try:
            barrier.wait(30)
            results.append(work())
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    return results


# ---- request ----
def test_a_request_makes_a_row_with_its_owner_home_and_history(request_one, alice, facility, experiment):
    instance = request_one()
    instance.refresh_from_db()
    assert (instance.state, instance.target, instance.facility) == ("requested", "active", facility)
    assert Member.objects.get(instance=instance).role == InstanceRole.OWNER
    assert instance.home.user == alice
    assert list(instance.experiments.all()) == [experiment]
    assert [(row.old, row.new, row.actor) for row in instance.transitions.all()] == [("", "requested", alice)]
    assert instance.due_at is not None
    assert instance.deadline_at is not None
    assert acts("instance.request") == 1


def test_an_experiment_one_may_not_see_is_not_found(request_one, facility, experiment):
    hidden = ExperimentFactory(pid="", proposal=ProposalFactory(facility=facility))
    with pytest.raises(NotFound):
        request_one(experiments=[experiment, hidden])
    assert not Instance.objects.exists()


def test_experiments_of_two_facilities_are_refused(request_one, experiment):
    other = ExperimentFactory(pid="", proposal=ProposalFactory(opened=True))
    with pytest.raises(SeveralFacilities):
        request_one(experiments=[experiment, other])


def test_a_plan_of_another_facility_is_refused(request_one):
    elsewhere = PlanFactory(image__provider=ProviderFactory(facility=FacilityFactory()))
    with pytest.raises(WrongFacility):
        request_one(plan=elsewhere)


@pytest.mark.parametrize("which", ["plan", "provider"])
def test_a_plan_that_is_switched_off_is_not_found(request_one, plan, which):
    row = plan if which == "plan" else plan.image.provider
    type(row).objects.filter(pk=row.pk).update(enabled=False)
    with pytest.raises(NotFound):
        request_one()


def test_without_an_experiment_only_roles_that_may(request_one, alice, facility):
    with pytest.raises(NeedsExperiment):
        request_one(experiments=[])
    RoleGrantFactory(user=alice, role=Role.STAFF, facility=facility)
    assert request_one(experiments=[]).facility == facility


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "nul\x00", "esc\x1b[31m"])
def test_a_name_that_cannot_be_shown_is_refused(request_one, name):
    with pytest.raises(BadRequest):
        request_one(name=name)


def test_the_second_instance_shares_the_home(request_one):
    assert request_one().home == request_one().home
    assert Home.objects.count() == 1


def test_the_same_key_gives_the_same_instance(request_one):
    assert request_one(idempotency_key="k1") == request_one(idempotency_key="k1")
    assert request_one(idempotency_key="k2") != request_one(idempotency_key="k1")
    assert acts("instance.request") == 2


def test_a_repeated_request_is_answered_at_the_quota_too(request_one):
    Quota.objects.create(scope="everybody", resource="instances", limit=1)
    assert request_one(idempotency_key="k1") == request_one(idempotency_key="k1")


def test_anothers_key_is_another_key(request_one, bob):
    assert request_one(idempotency_key="k").owner != request_one(user=bob, idempotency_key="k").owner


@pytest.mark.django_db(transaction=True)
def test_a_double_click_makes_one(request_one):
    results = run_all(lambda: request_one(idempotency_key="click"), 20)
    assert len({instance.pk for instance in results}) == 1
    assert Instance.objects.count() == 1


# ---- who may ----
@pytest.mark.parametrize("verb", VERBS)
def test_a_stranger_finds_nothing(active, bob, verb):
    with pytest.raises(NotFound):
        getattr(services, verb)(active, by=bob)
    active.refresh_from_db()
    assert (active.state, active.target) == ("active", "active")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("role", [InstanceRole.GUEST, InstanceRole.SUPPORT])
def test_who_only_looks_on_may_do_nothing(active, bob, verb, role):
    Member.objects.create(instance=active, user=bob, role=role)
    with pytest.raises(Forbidden):
        getattr(services, verb)(active, by=bob)


def test_a_user_may_stop_and_not_delete(active, bob):
    Member.objects.create(instance=active, user=bob, role=InstanceRole.USER)
    with pytest.raises(Forbidden):
        services.delete(active, by=bob)
    services.stop(active, by=bob)
    active.refresh_from_db()
    assert active.target == "stopped"
    assert active.transitions.last().actor == bob


def test_an_operator_of_the_facility_may_stop_and_no_more(active, facility):
    operator = UserFactory()
    RoleGrantFactory(user=operator, role=Role.OPERATOR, facility=facility)
    with pytest.raises(NotFound):
        services.delete(active, by=operator)
    services.stop(active, by=operator)
    active.refresh_from_db()
    assert active.target == "stopped"


def test_a_stop_says_for_whom_it_was(active, alice, bob, facility):
    operator = RoleGrantFactory(role=Role.OPERATOR, facility=facility).user
    services.stop(active, by=operator)
    services.start(active, by=alice)
    Member.objects.create(instance=active, user=bob, role=InstanceRole.USER)
    services.stop(active, by=bob)
    told = AuditEvent.objects.filter(action__in=("instance.stop", "instance.start")).order_by("pk")
    assert list(told.values_list("action", "actor_uid", "for_uid")) == [
        ("instance.stop", operator.uid, alice.uid),
        ("instance.start", alice.uid, None),
        ("instance.stop", bob.uid, None),
    ]


def test_an_operator_of_another_facility_finds_nothing(active):
    operator = UserFactory()
    RoleGrantFactory(user=operator, role=Role.OPERATOR, facility=FacilityFactory())
    with pytest.raises(NotFound):
        services.stop(active, by=operator)


# ---- when ----
@pytest.mark.parametrize("verb", VERBS)
def test_a_deleted_instance_is_gone_for_everybody(active, alice, verb):
    services.delete(active, by=alice)
    settle(active)
    assert active.state == "deleted"
    with pytest.raises(NotFound):
        getattr(services, verb)(active, by=alice)


@pytest.mark.parametrize("verb", ["start", "stop", "reboot", "retry"])
def test_nothing_takes_a_delete_back(active, alice, verb):
    services.delete(active, by=alice)
    with pytest.raises(NotNow):
        getattr(services, verb)(active, by=alice)
    active.refresh_from_db()
    assert active.target == "deleted"


def test_a_stopped_one_is_not_rebooted_and_an_active_one_not_retried(active, alice):
    with pytest.raises(NotNow):
        services.retry(active, by=alice)
    services.stop(active, by=alice)
    with pytest.raises(NotNow):
        services.reboot(active, by=alice)


def test_asking_twice_is_asking_once(active, alice):
    for _ in range(2):
        services.stop(active, by=alice)
    for _ in range(2):
        services.delete(active, by=alice)
    assert acts("instance.stop") == acts("instance.delete") == 1


@pytest.mark.django_db(transaction=True)
def test_start_and_delete_at_once_end_deleted(request_one, alice, cloud):
    instance = InstanceFactory(owner=alice, state="stopped", target="stopped", plan=request_one().plan)
    order = iter([services.start, services.delete] * 10)
    run_all(lambda: next(order)(instance, by=alice), 20)
    settle(instance)
    assert instance.state == "deleted"


# ---- homes ----
def test_a_home_in_use_is_not_deleted_stopped_ones_included(active, alice):
    services.stop(active, by=alice)
    settle(active)
    with pytest.raises(HomeInUse, match="analysis"):
        services.delete_home(active.home, by=alice)


def test_a_home_is_deleted_by_its_own_act(active, alice, cloud):
    services.delete(active, by=alice)
    settle(active)
    assert Home.objects.filter(user=alice).exists()
    services.delete_home(active.home, by=alice)
    assert not Home.objects.exists()
    assert cloud.homes == {}
    assert acts("home.delete") == 1


def test_anothers_home_is_not_found(active, bob):
    with pytest.raises(NotFound):
        services.delete_home(active.home, by=bob)


def test_a_home_that_the_storage_did_not_delete_stays(active, alice, provider, cloud, monkeypatch):
    services.delete(active, by=alice)
    settle(active)
    broken = type(cloud)({})
    monkeypatch.setattr(broken, "delete_home", lambda home: (_ for _ in ()).throw(ProviderUnavailable("503")))
    use_cloud(provider, broken)
    with pytest.raises(HomeNotDeleted):
        services.delete_home(active.home, by=alice)
    assert Home.objects.get().deleting_at is None


def test_a_home_that_is_being_deleted_takes_no_instance(request_one, alice, cloud):
    instance = request_one()
    services.delete(instance, by=alice)
    settle(instance)
    homes.begin_deleting(instance.home)
    with pytest.raises(HomeBusy):
        request_one()


def test_a_home_is_deleted_by_one_at_a_time(request_one, alice, provider, cloud, monkeypatch):
    instance = request_one()
    services.delete(instance, by=alice)
    settle(instance)
    asked = []

    def slow(home):
        asked.append(home.key)
        if len(asked) == 1:
            with pytest.raises(HomeBusy):  # a second browser tab, while the files go
                services.delete_home(instance.home, by=alice)
            assert Home.objects.get().deleting_at is not None

    slow_cloud = type(cloud)({})
    monkeypatch.setattr(slow_cloud, "delete_home", slow)
    use_cloud(provider, slow_cloud)
    services.delete_home(instance.home, by=alice)
    assert len(asked) == 1
    assert not Home.objects.exists()


def test_an_old_deletion_that_fails_late_does_not_open_a_home_that_a_newer_one_is_deleting(
    request_one, alice, provider, cloud, monkeypatch
):
    instance = request_one()
    services.delete(instance, by=alice)
    settle(instance)
    asked = []

    def slow(home):
        asked.append(home.key)
        if len(asked) == 1:  # while the first call hangs, a worker takes the deletion over; then the first one fails
            homes.finish_old_deletions(timedelta(0))
        raise ProviderUnavailable("504")

    slow_cloud = type(cloud)({})
    monkeypatch.setattr(slow_cloud, "delete_home", slow)
    use_cloud(provider, slow_cloud)
    with pytest.raises(HomeNotDeleted):
        services.delete_home(instance.home, by=alice)
    assert len(asked) == 2
    assert Home.objects.get().deleting_at is not None
    with pytest.raises(HomeBusy):
        request_one()


def test_a_home_that_cannot_be_deleted_does_not_keep_the_others_waiting(provider, cloud, monkeypatch):
    bad, good = HomeFactory(provider=provider), HomeFactory(provider=provider)
    Home.objects.update(deleting_at=clock.now())
    asked = []

    def picky(home):
        asked.append(home.key)
        if home.key == bad.key:
            raise ProviderUnavailable("503")

    monkeypatch.setattr(cloud, "delete_home", picky)
    homes.finish_old_deletions(timedelta(0))
    assert sorted(asked) == sorted([bad.key, good.key])
    assert Home.objects.get() == bad
    assert Home.objects.get().deleting_at is not None, "it stays closed until the files are gone"


def test_the_account_page_sees_how_full_a_home_is_and_who_uses_it(active, alice, bob):
    Home.objects.update(used=9 * 2**30, limit=10 * 2**30)
    (home,) = homes.of_user(alice)
    assert (home.percent, home.nearly_full, home.deletable) == (90, True, False)
    assert home.instances == [active]
    assert homes.of_user(bob) == []


# ---- spec ----
def test_a_spec_mounts_each_run_read_only_where_the_notebook_looks(request_one, experiment, facility):
    DatasetFactory(experiment=experiment, name="raw", path="/gpfs/raw/r1")
    DatasetFactory(experiment=experiment, name="proc", path="/gpfs/proc/r1")
    instance = request_one()
    spec = spec_of(instance)
    data = {mount.target: mount for mount in spec.mounts if mount.kind == "data"}
    base = f"/work/data/{experiment.proposal.identifier}/r{experiment.run_number:04d}"
    assert {target: mount.source for target, mount in data.items()} == {
        base: "/gpfs/raw/r1",
        f"{base}-proc": "/gpfs/proc/r1",
    }
    assert all(mount.read_only for mount in data.values())
    assert spec.home.key == instance.home.key
    assert spec.network == "none"
    assert spec.host.startswith(f"{instance.slug}.apps.")
    assert base in spec.welcome["Welcome.ipynb"]


@pytest.mark.parametrize("identifier", ["../../etc", "a/b", "..", "with space", ".hidden"])
def test_a_catalogues_text_cannot_climb_out_of_the_data_folder(request_one, experiment, identifier):
    type(experiment.proposal).objects.update(identifier=identifier)
    DatasetFactory(experiment=experiment, path="/gpfs/r1")
    (mount,) = [mount for mount in spec_of(request_one()).mounts if mount.kind == "data"]
    assert mount.target.startswith("/work/data/")
    assert ".." not in mount.target.split("/")
    assert len(mount.target.split("/")) == 5


def test_every_instance_has_a_host_and_a_machine_name_of_its_own(request_one):
    one, other = spec_of(request_one()), spec_of(request_one())
    assert one.host != other.host
    assert one.name != other.name
    assert uuid.UUID(one.instance) != uuid.UUID(other.instance)
