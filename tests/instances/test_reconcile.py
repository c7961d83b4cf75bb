"""Instances against a real database and clouds that fail, lose answers and lose machines."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock

import pytest
from django.core.exceptions import FieldError
from django.db import connection, connections

from experiments.models import TeamMember
from instances import clouds, leases, reconcile, services, sweep, transitions
from instances.lifecycle import Phase
from instances.models import Instance, Leftover
from instances.providers.base import Endpoint, MountKind, MountMissing, NoCapacity, ProviderUnavailable, Rejected
from instances.providers.local.wire import refusal
from instances.providers.memory import MemoryProvider
from instances.routes import row_of
from portal.lib import clock
from tests.factories.auth import PersonFactory
from tests.factories.experiments import DatasetFactory, ExperimentFactory, ProposalFactory
from tests.factories.instances import FlavourFactory, PlanFactory
from tests.instances.clockwork import forward
from tests.instances.conftest import bring_up, history, settle, use_cloud
from tests.providers import faulty


def options(provider):
    return clouds.options_of(provider)


def machine_of(cloud, instance):
    instance.refresh_from_db()
    return cloud.machines[instance.ref]


def expire(instance, **fields):
    """Put a time of the row into the past."""
    Instance.objects.filter(pk=instance.pk).update(
        **dict.fromkeys(fields or ["deadline_at"], clock.now() - timedelta(1))
    )


# ---- the straight way ----
def test_a_request_becomes_active_when_the_gateway_hears_it(instance, cloud):
    settle(instance)
    assert instance.state == "starting"
    bring_up(instance)
    assert instance.state == "active"
    assert history(instance) == ["requested", "building", "starting", "active"]
    assert instance.deadline_at is None


def test_running_alone_is_not_ready(instance, cloud):
    settle(instance, 20)
    assert instance.state == "starting"


def test_stop_keeps_the_machine_and_start_brings_it_back(active, alice, cloud):
    services.stop(active, by=alice)
    settle(active)
    assert active.state == "stopped"
    assert machine_of(cloud, active).phase is Phase.STOPPED
    services.start(active, by=alice)
    settle(active)
    assert active.state == "starting", "what was ready before the start does not count"
    bring_up(active)
    assert active.state == "active"
    assert [name for verb, name in cloud.calls if verb == "create"] == [active.machine_name]


@pytest.fixture
def team_run(experiment, alice):
    """A run with files that Alice sees because she is in its team."""
    run = ExperimentFactory(
        pid="", proposal=ProposalFactory(facility=experiment.proposal.facility, identifier="p1"), run_number=1
    )
    DatasetFactory(experiment=run, path="/data/run1")
    TeamMember.objects.create(experiment=run, person=PersonFactory(user=alice, facility=run.proposal.facility))
    return run


@pytest.fixture
def of_team(request_one, cloud, experiment, team_run):
    DatasetFactory(experiment=experiment, path="/data/open")
    return bring_up(request_one(experiments=[experiment, team_run]))


def mounted(cloud, instance):
    mounts = machine_of(cloud, instance).spec.mounts
    return {mount.source for mount in mounts if mount.kind is MountKind.DATA}


def test_a_run_whose_team_one_has_left_is_not_mounted_at_the_next_start(of_team, team_run, alice, cloud):
    assert mounted(cloud, of_team) == {"/data/open", "/data/run1"}
    services.stop(of_team, by=alice)
    settle(of_team)
    team_run.team.clear()
    services.start(of_team, by=alice)
    bring_up(of_team)
    assert mounted(cloud, of_team) == {"/data/open"}
    assert of_team.home.key in {mount.source for mount in machine_of(cloud, of_team).spec.mounts}


def test_a_run_whose_team_one_has_left_is_not_mounted_after_a_reboot(of_team, team_run, alice, cloud):
    team_run.team.clear()
    services.reboot(of_team, by=alice)
    bring_up(of_team)
    assert of_team.state == "active"
    assert mounted(cloud, of_team) == {"/data/open"}


def test_a_run_that_one_may_see_still_is_mounted_again(of_team, alice, cloud):
    services.stop(of_team, by=alice)
    settle(of_team)
    services.start(of_team, by=alice)
    bring_up(of_team)
    assert mounted(cloud, of_team) == {"/data/open", "/data/run1"}


def test_delete_removes_the_machine_and_not_the_home(active, alice, cloud):
    services.delete(active, by=alice)
    settle(active)
    assert active.state == "deleted"
    assert active.deleted_at is not None
    assert cloud.machines == {}
    assert list(cloud.homes) == [active.home.key]


def test_a_reboot_happens_once(active, alice, cloud):
    services.reboot(active, by=alice)
    services.reboot(active, by=alice)
    settle(active)
    assert active.state == "starting"
    bring_up(active)
    assert active.state == "active"
    assert [verb for verb, _ in cloud.calls].count("reboot") == 1


def test_the_route_is_withdrawn_before_the_call(active, alice, cloud, monkeypatch):
    seen = []
    stop = cloud.stop
    monkeypatch.setattr(cloud, "stop", lambda ref: seen.append(Instance.objects.get(pk=active.pk).state) or stop(ref))
    services.stop(active, by=alice)
    settle(active)
    assert seen == ["stopping"]


def at(uid, host="10.0.0.7"):
    return (Endpoint("jupyter", "tcp", host=host, port=8888, uid=uid),)


@pytest.fixture
def addressed(provider):
    """A cloud whose machines have an address and a uid, by ref."""

    class Addressed(MemoryProvider):
        def __init__(self, given):
            super().__init__(given)
            self.places = {}

        def _seen(self, machine):
            return replace(super()._seen(machine), endpoints=self.places.get(machine.ref, ()))

    return use_cloud(provider, Addressed(options(provider)))


@pytest.fixture
def reached(addressed, request_one):
    """Make active instances, each at an address."""

    def make(uid, host="10.0.0.7", **more):
        instance = settle(request_one(**more))
        addressed.places[instance.ref] = at(uid, host)
        settle(instance, 1)
        return bring_up(instance)

    return make


def route(instance):
    instance.refresh_from_db()
    return [(service["host"], service["uid"]) for service in row_of(instance)["services"]]


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.RUNNING])
def test_a_machine_without_an_address_has_no_route(phase, reached, addressed):
    """Its old address may be another's by now: not even a probe goes there, which would carry its token."""
    instance = reached("pod-1")
    assert route(instance) == [("10.0.0.7", "pod-1")]
    addressed.places.clear()
    addressed.happen(instance.ref, phase)
    settle(instance, 1)
    assert route(instance) == []


def test_another_machine_at_the_same_address_has_to_answer_first(reached, addressed):
    instance = reached("pod-1")
    version = instance.version
    addressed.places[instance.ref] = at("pod-2")
    settle(instance, 1)
    assert (route(instance), instance.is_heard) == ([("10.0.0.7", "pod-2")], False)
    assert instance.version > version
    assert transitions.mark_ready(instance.uid, version=version) is transitions.Marked.BUSY


def test_an_address_that_is_given_again_is_one_instances_route(reached, addressed, bob):
    first, second = reached("pod-1"), reached("pod-2", "10.0.0.8", user=bob)
    before = first.version
    addressed.places[second.ref] = at("pod-3", "10.0.0.7")
    settle(second, 1)
    assert (route(first), route(second)) == ([], [("10.0.0.7", "pod-3")])
    assert first.version > before, "gateways hear of it"


def test_no_provider_is_called_inside_a_transaction(request_one, provider, transactional_db):
    from django.db import connection

    class Watchful(MemoryProvider):
        inside = False

        def look(self, ref):
            self.inside = self.inside or connection.in_atomic_block
            return super().look(ref)

        def create(self, spec):
            self.inside = self.inside or connection.in_atomic_block
            return super().create(spec)

    cloud = use_cloud(provider, Watchful(options(provider)))
    settle(request_one())
    assert cloud.machines
    assert not cloud.inside


# ---- what the provider raises ----
def test_a_lost_answer_to_create_makes_one_machine(request_one, provider):
    cloud = use_cloud(provider, faulty.LosesAnswer(options(provider)))
    instance = bring_up(request_one())
    assert instance.state == "active"
    assert len(cloud.machines) == 1


def test_an_outage_changes_nothing_and_is_said(request_one, provider):
    use_cloud(provider, faulty.FailsAt(options(provider), "look", ProviderUnavailable("503"), times=1))
    instance = request_one()
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert (instance.state, instance.reason) == ("requested", "provider-unavailable")
    assert "no answer" in instance.detail
    assert instance.due_at is not None
    settle(instance)
    assert (instance.state, instance.reason) == ("starting", "")


def test_an_outage_does_not_eat_up_the_deadline(request_one, provider):
    use_cloud(provider, faulty.FailsAt(options(provider), "look", ProviderUnavailable("503"), times=1))
    instance = request_one()
    expire(instance)
    settle(instance)
    assert instance.state == "starting"


def test_a_provider_that_is_away_is_logged_once_for_an_instance(request_one, provider, monkeypatch):
    use_cloud(provider, faulty.FailsAt(options(provider), "look", ProviderUnavailable("away"), times=99))
    logged = Mock()
    monkeypatch.setattr(reconcile.log, "warning", logged)
    instance = request_one()
    for _ in range(3):
        reconcile.run(instance.pk)
    assert [call.args for call in logged.call_args_list] == [("no answer",)]


def test_nonsense_is_no_answer(active, provider, alice):
    use_cloud(provider, faulty.Nonsense(options(provider)))
    services.delete(active, by=alice)
    settle(active)
    assert active.state != "deleted"
    assert active.reason == "provider-unavailable"


def test_no_capacity_is_tried_again_and_told(request_one, provider):
    use_cloud(provider, faulty.FailsAt(options(provider), "create", NoCapacity("full"), times=1))
    instance = request_one()
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert (instance.state, instance.reason) == ("building", "no-capacity")
    assert "no room" in instance.detail
    settle(instance)
    assert instance.state == "starting"


def test_no_room_until_the_deadline_is_the_reason_of_the_error(request_one, provider):
    use_cloud(provider, faulty.FailsAt(options(provider), "create", NoCapacity("full"), times=99))
    instance = request_one()
    reconcile.run(instance.pk)
    expire(instance)
    settle(instance)
    assert (instance.state, instance.reason) == ("error", "no-capacity")


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.RUNNING])
def test_a_start_past_its_deadline_is_taken_back_in_the_same_run(phase, request_one, provider):
    cloud = use_cloud(provider, MemoryProvider({**options(provider), "phases": [phase]}))
    instance = settle(request_one(), 1)
    expire(instance)
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert (instance.state, instance.reason) == ("error", "deadline")
    assert machine_of(cloud, instance).phase is Phase.STOPPED


def test_why_a_start_waited_is_the_reason_when_it_is_given_up(request_one, provider):
    cloud = use_cloud(provider, MemoryProvider({**options(provider), "phases": ["pending"]}))
    instance = settle(request_one(), 1)
    cloud.happen(instance.ref, Phase.PENDING, reason="no-capacity")
    settle(instance, 1)
    assert (instance.reason, "keep trying" in instance.detail) == ("no-capacity", True)
    expire(instance)
    settle(instance, 1)
    assert (instance.state, instance.reason, "keep trying" in instance.detail) == ("error", "no-capacity", False)


@pytest.mark.parametrize("then", [Phase.PENDING, Phase.RUNNING])
def test_what_it_waited_for_is_not_said_any_more_once_it_has_come(then, request_one, provider):
    """There is room now: what takes time is something else."""
    cloud = use_cloud(provider, MemoryProvider({**options(provider), "phases": ["pending"]}))
    instance = settle(request_one(), 1)
    cloud.happen(instance.ref, Phase.RUNNING)
    settle(instance, 1)
    cloud.happen(instance.ref, Phase.PENDING, reason="no-capacity")
    settle(instance, 1)
    assert (instance.state, instance.reason) == ("starting", "no-capacity")
    cloud.happen(instance.ref, then)
    settle(instance, 1)
    assert (instance.state, instance.reason, instance.detail) == ("starting", "", "")


@pytest.mark.parametrize("fault", ["ProviderUnavailable", "Rejected", "killed"])
def test_a_stop_of_what_was_given_up_is_asked_for_until_it_is_done(fault, request_one, provider, monkeypatch):
    errors = {"ProviderUnavailable": ProviderUnavailable("503"), "Rejected": Rejected("disk"), "killed": SystemExit()}
    cloud = use_cloud(provider, MemoryProvider({**options(provider), "phases": ["pending"]}))
    instance = settle(request_one(), 1)
    cloud.machines[instance.ref].log.append("waits for a node")
    expire(instance)
    with monkeypatch.context() as broken:
        broken.setattr(cloud, "stop", Mock(side_effect=errors[fault]))
        if fault == "killed":
            with pytest.raises(SystemExit):
                reconcile.run(instance.pk)
        else:
            settle(instance)
    instance.refresh_from_db()
    before = instance.reason, instance.detail, instance.log, instance.transitions.count(), instance.version
    assert before[:3] == ("deadline", instance.detail, "waits for a node")
    assert machine_of(cloud, instance).phase is Phase.PENDING
    sweep.sweep(provider)
    assert machine_of(cloud, instance).phase is Phase.PENDING, "not at every sweep"
    forward(130)
    sweep.sweep(provider)
    instance.refresh_from_db()
    assert machine_of(cloud, instance).phase is Phase.STOPPED
    assert (instance.state, instance.last_call) == ("error", "stop")
    assert before == (instance.reason, instance.detail, instance.log, instance.transitions.count(), instance.version)


def test_a_machine_that_comes_after_it_was_given_up_is_stopped(request_one, provider, monkeypatch):
    """Its create was heard late: the workspace had been given up, nobody looks after it."""
    cloud = use_cloud(provider, MemoryProvider(options(provider)))
    late = []
    with monkeypatch.context() as away:
        away.setattr(cloud, "create", lambda spec: late.append(spec) or f"m-{spec.name}")
        instance = settle(request_one(), 1)
        expire(instance)
        settle(instance)
    assert (instance.state, instance.reason) == ("error", "deadline")
    ref = cloud.create(late[0])
    forward(130)
    sweep.sweep(provider)
    assert cloud.machines[ref].phase is Phase.STOPPED


def test_a_machine_that_refused_its_reboot_runs_on(active, cloud, alice, monkeypatch):
    monkeypatch.setattr(cloud, "reboot", Mock(side_effect=Rejected("a folder is not there")))
    services.reboot(active, by=alice)
    settle(active)
    assert (active.state, active.reason) == ("error", "rejected")
    forward(130)
    sweep.sweep(active.provider)
    assert machine_of(cloud, active).phase is Phase.RUNNING


def test_who_has_the_home_is_named(active, request_one, provider, alice, monkeypatch):
    other = bring_up(request_one(name="the other"))
    cloud = clouds.cloud_of(provider)
    held = refusal(NoCapacity, "home-held", f"home h is mounted by {active.machine_name}")
    monkeypatch.setattr(cloud, "create", Mock(side_effect=held))
    third = settle(request_one(name="third"), 1)
    assert (third.state, third.reason) == ("building", "home-held")
    assert "It is in use by “analysis”." in third.detail, other.name
    expire(third)
    settle(third, 1)
    assert third.state == "error"
    assert "Stop the other machine, then retry." in third.detail


def test_a_deletion_that_hangs_says_what_holds_it_and_calls_an_operator_once(active, cloud, alice, monkeypatch):
    monkeypatch.setattr(cloud, "delete", lambda ref: None)
    services.delete(active, by=alice)
    settle(active, 1)
    alarms = Mock()
    monkeypatch.setattr(reconcile.log, "error", alarms)
    cloud.happen(active.ref, Phase.STOPPING, reason="delete-hangs", detail="held by lab/hold")
    for _ in range(3):
        forward(20)
        settle(active, 1)
    assert (active.state, active.reason) == ("deleting", "delete-hangs")
    assert "held by lab/hold" in active.detail
    alarms.assert_called_once()
    assert alarms.call_args.kwargs["detail"] == "held by lab/hold"


def test_who_waits_for_a_turn_does_not_run_out_of_time(request_one, provider, settings):
    busy = refusal(NoCapacity, "waiting-for-turn", "4 machines are starting just now")
    use_cloud(provider, faulty.FailsAt(options(provider), "create", busy, times=1))
    instance = request_one()
    Instance.objects.filter(pk=instance.pk).update(deadline_at=clock.now() + timedelta(seconds=5))
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert (instance.state, instance.reason) == ("building", "waiting-for-turn")
    assert "waits for its turn" in instance.detail
    assert instance.deadline_at > clock.now() + settings.INSTANCE_DEADLINE - timedelta(seconds=30)
    settle(instance)
    assert instance.state == "starting"


def refused(request_one, provider, cloud, verb: str = "create") -> Instance:
    """An instance whose start, or whose first build, the cloud has just refused."""
    use_cloud(provider, cloud)
    instance = request_one()
    if verb == "start":
        bring_up(instance)
        services.stop(instance, by=instance.owner)
        settle(instance)
        services.start(instance, by=instance.owner)
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    return instance


@pytest.mark.parametrize("verb", ["create", "start"])
def test_waiting_for_room_shows_and_is_logged_once(request_one, provider, verb, monkeypatch):
    """Hundreds may wait for hours: only their first refusal is news."""
    cloud = faulty.FailsAt(options(provider), verb, NoCapacity("full"), times=99)
    instance = refused(request_one, provider, cloud, verb)
    version, seen_at = instance.version, instance.updated_at
    told, logged = Mock(), Mock()
    monkeypatch.setattr(transitions, "_tell_gateways", told)
    monkeypatch.setattr(transitions, "_tell_pages", told)
    monkeypatch.setattr(reconcile.log, "warning", logged)
    for _ in range(5):
        calls = instance.called_at
        forward(31)
        reconcile.run(instance.pk)
        instance.refresh_from_db()
        assert instance.called_at > calls, "it was tried again"
        assert (instance.reason, instance.last_call) == ("no-capacity", "")
    assert (instance.version, told.call_count, logged.call_count) == (version, 0, 0)
    assert instance.updated_at == seen_at
    cloud.heal()
    settle(instance)
    assert (instance.state, instance.reason) == ("starting", "")
    assert instance.version > version
    assert told.called


def test_a_new_reason_to_wait_shows_and_is_logged(request_one, provider, monkeypatch):
    instance = refused(request_one, provider, faulty.FailsAt(options(provider), "create", NoCapacity("full"), times=99))
    version = instance.version
    busy = refusal(NoCapacity, "waiting-for-turn", "4 machines are starting just now")
    use_cloud(provider, faulty.FailsAt(options(provider), "create", busy, times=99))
    logged = Mock()
    monkeypatch.setattr(reconcile.log, "warning", logged)
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert (instance.reason, instance.version, logged.call_count) == ("waiting-for-turn", version + 1, 1)


@pytest.mark.parametrize(
    ("error", "waited", "pause"),
    [
        (NoCapacity("full"), 0, 2),
        (NoCapacity("full"), 60, 15),
        (NoCapacity("full"), 600, 30),
        (refusal(NoCapacity, "waiting-for-turn", "busy"), 600, 10),
        (ProviderUnavailable("away"), 600, 10),
    ],
)
def test_who_waits_tries_ever_more_seldom(request_one, provider, error, waited, pause):
    instance = refused(request_one, provider, faulty.FailsAt(options(provider), "create", error, times=99))
    Instance.objects.filter(pk=instance.pk).update(state_changed_at=clock.now() - timedelta(seconds=waited))
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    due = (instance.due_at - clock.now()).total_seconds()
    assert pause - 2 < due <= pause + 1


def test_a_sweep_does_not_hurry_who_waits_for_room(request_one, provider):
    cloud = faulty.FailsAt(options(provider), "start", NoCapacity("full"), times=99)
    instance = refused(request_one, provider, cloud, "start")
    handed = Mock()
    sweep.sweep(provider, handed)
    assert not handed.called
    Instance.objects.filter(pk=instance.pk).update(due_at=clock.now())
    sweep.sweep(provider, handed)
    assert handed.called, "its time has come"


def test_a_refused_create_is_an_error_with_its_reason(request_one, provider):
    use_cloud(provider, faulty.FailsAt(options(provider), "create", Rejected("bad flavour id 7"), times=1))
    instance = settle(request_one())
    assert (instance.state, instance.reason) == ("error", "rejected")
    assert "7" not in instance.detail, "the text is for operators"


def test_a_missing_image_is_an_error_that_says_so(request_one, cloud):
    cloud.known_images.clear()
    instance = settle(request_one())
    assert (instance.state, instance.reason) == ("error", "image-missing")
    assert "another plan" in instance.detail


def test_a_data_folder_that_is_not_there_is_a_reason_that_names_it(request_one, provider):
    use_cloud(provider, faulty.FailsAt(options(provider), "create", MountMissing("/gpfs/p700000/r0001"), times=1))
    instance = settle(request_one())
    assert (instance.state, instance.reason) == ("error", "mount-missing")
    assert "/gpfs/p700000/r0001" in instance.detail


def test_a_refused_delete_is_tried_for_ever(active, provider, alice, cloud):
    broken = faulty.FailsAt(options(provider), "delete", Rejected("locked"), times=3)
    broken.machines = cloud.machines
    use_cloud(provider, broken)
    services.delete(active, by=alice)
    reconcile.run(active.pk)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("deleting", "rejected")
    settle(active)
    assert active.state == "deleted"
    assert broken.machines == {}


# ---- deadlines and failures ----
def test_a_machine_that_never_comes_is_an_error_at_its_deadline(request_one, provider):
    cloud = use_cloud(provider, faulty.Never(options(provider)))
    instance = settle(request_one())
    assert instance.state == "building"
    machine_of(cloud, instance).log.append("waiting for the network")
    expire(instance)
    settle(instance)
    assert (instance.state, instance.reason) == ("error", "deadline")
    assert "waiting for the network" in instance.log


def test_a_service_that_never_answers_is_an_error_with_the_logs_last_lines(instance, cloud, alice):
    settle(instance)
    machine_of(cloud, instance).log.extend(f"line {n}" for n in range(100))
    expire(instance)
    settle(instance)
    assert (instance.state, instance.reason) == ("error", "deadline")
    assert instance.log.splitlines()[-1] == "line 99"
    assert "line 1\n" not in instance.log
    services.retry(instance, by=alice)
    assert instance.transitions.last().event == "retry"
    bring_up(instance)
    assert (instance.state, instance.reason, instance.log) == ("active", "", "")


def test_an_active_instance_has_no_deadline(active):
    expire(active)
    settle(active)
    assert active.state == "active"


def test_a_worker_that_dies_before_the_start_it_wrote_down_leaves_it_to_the_next(active, cloud, alice, monkeypatch):
    services.stop(active, by=alice)
    settle(active)
    services.start(active, by=alice)
    with monkeypatch.context() as dying:
        dying.setattr(cloud, "start", Mock(side_effect=SystemExit))
        dying.setattr(leases, "release", lambda *_: None)
        with pytest.raises(SystemExit):
            reconcile.run(active.pk)
    active.refresh_from_db()
    assert (active.state, active.last_call) == ("starting", "start")
    expire(active, leased_until=True)
    settle(active)
    assert (active.state, active.reason) == ("starting", "")
    assert machine_of(cloud, active).phase is Phase.RUNNING


def test_a_machine_that_ends_at_once_is_an_error_with_its_last_words(request_one, provider):
    use_cloud(provider, faulty.EndsAtOnce(options(provider)))
    instance = settle(request_one())
    assert (instance.state, instance.reason) == ("error", "ended-at-once")
    assert "no module named jupyterlab" in instance.log


def test_a_host_that_fails_costs_one_more_attempt_and_no_click(request_one, provider):
    cloud = use_cloud(provider, faulty.BadHost(options(provider)))
    instance = bring_up(request_one())
    assert (instance.state, instance.attempt) == ("active", 2)
    assert Leftover.objects.get().ref != instance.ref
    sweep.clear_leftovers()
    assert [machine.spec.attempt for machine in cloud.machines.values()] == [2]
    assert instance.home.key in cloud.homes


def test_the_second_failure_of_hosts_is_an_error(request_one, provider):
    class BadHosts(MemoryProvider):
        def create(self, spec):
            ref = super().create(spec)
            self.happen(ref, Phase.FAILED, reason="host-failed")
            return ref

    use_cloud(provider, BadHosts(options(provider)))
    instance = settle(request_one())
    assert (instance.state, instance.reason, instance.attempt) == ("error", "host-failed", 2)


def test_a_retry_of_a_failed_machine_makes_a_new_one(active, cloud, alice):
    old = active.ref
    cloud.happen(old, Phase.FAILED, reason="disk-broken")
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason, active.attempt) == ("error", "disk-broken", 1)
    services.retry(active, by=alice)
    bring_up(active)
    assert (active.state, active.attempt) == ("active", 2)
    assert Leftover.objects.get().ref == old
    sweep.clear_leftovers()
    Leftover.objects.update(due_at=clock.now())
    sweep.clear_leftovers()
    assert list(cloud.machines) == [active.ref]
    assert not Leftover.objects.exists()


def test_what_ends_at_once_for_want_of_memory_says_that(request_one, provider):
    class TooBig(faulty.EndsAtOnce):
        def _begin(self, machine):
            super()._begin(machine)
            machine.reason = "out-of-memory"

    use_cloud(provider, TooBig(options(provider)))
    instance = settle(request_one())
    assert (instance.state, instance.reason) == ("error", "out-of-memory")


def test_a_start_that_ended_with_the_supervisor_is_made_again(active, cloud, alice, monkeypatch):
    services.stop(active, by=alice)
    settle(active)
    begin, starts = cloud._begin, []

    def begins(machine):
        begin(machine)
        starts.append(machine.ref)
        if len(starts) == 1:
            machine.script.clear()
            machine.phase, machine.reason = Phase.STOPPED, "supervisor-restarted"

    monkeypatch.setattr(cloud, "_begin", begins)
    services.start(active, by=alice)
    settle(active)
    assert (active.state, len(starts)) == ("starting", 2)
    assert machine_of(cloud, active).phase is Phase.RUNNING


@pytest.mark.parametrize("said", ["ended", "shut-down"])
def test_what_ends_at_once_is_called_so_whatever_little_the_provider_says(request_one, provider, said):
    class Ends(faulty.EndsAtOnce):
        def _begin(self, machine):
            super()._begin(machine)
            machine.reason = said

    use_cloud(provider, Ends(options(provider)))
    instance = settle(request_one())
    assert (instance.state, instance.reason) == ("error", "ended-at-once")


# ---- machines that change by themselves ----
def test_a_machine_that_vanished_is_an_error_not_a_new_machine(active, cloud):
    cloud.lose(active.ref)
    settle(active, 1)
    assert active.state == "active", "one look is not enough"
    settle(active, 1)
    assert (active.state, active.reason) == ("error", "vanished")
    assert cloud.machines == {}


def test_a_retry_of_a_vanished_one_makes_a_new_machine(active, cloud, alice):
    cloud.lose(active.ref)
    settle(active)
    services.retry(active, by=alice)
    bring_up(active)
    assert active.state == "active"


def test_absence_from_the_list_proves_nothing(active, cloud, monkeypatch):
    monkeypatch.setattr(cloud, "observe", list)
    for _ in range(4):
        sweep.sweep(active.provider)
    active.refresh_from_db()
    assert active.state == "active"


def test_a_shutdown_from_inside_is_stopped_and_stays_so(active, cloud):
    cloud.happen(active.ref, Phase.STOPPED)
    sweep.sweep(active.provider)
    settle(active)
    assert (active.state, active.target, active.reason) == ("stopped", "stopped", "shut-down")


def test_out_of_memory_names_the_limit_and_the_next_larger_plan(active, cloud, plan):
    large = FlavourFactory(provider=plan.image.provider, memory=2 * 2**30)
    PlanFactory(image=plan.image, flavour=large, name="JupyterLab medium")
    cloud.happen(active.ref, Phase.STOPPED, reason="out-of-memory")
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("stopped", "out-of-memory")
    assert "1 GiB" in active.detail
    assert "JupyterLab medium" in active.detail


def test_a_kernel_killed_for_memory_shows_while_the_machine_runs_on(active, cloud):
    cloud.happen(active.ref, Phase.RUNNING, reason="out-of-memory")
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("active", "out-of-memory")
    assert "1 GiB" in active.detail


def test_held_by_an_administrator_is_unavailable_until_it_is_given_back(active, cloud):
    cloud.happen(active.ref, Phase.HELD)
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("unavailable", "held")
    cloud.happen(active.ref, Phase.RUNNING)
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("active", "")


def test_a_machine_started_by_somebody_else_is_stopped_again(active, cloud, alice):
    services.stop(active, by=alice)
    settle(active)
    cloud.happen(active.ref, Phase.RUNNING)
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert active.state == "stopped"
    assert machine_of(cloud, active).phase is Phase.STOPPED


def test_stop_before_anything_was_built_and_start_after_it(instance, cloud, alice):
    services.stop(instance, by=alice)
    settle(instance)
    assert instance.state == "stopped"
    assert cloud.machines == {}
    services.start(instance, by=alice)
    bring_up(instance)
    assert instance.state == "active"


# ---- sweep ----
def test_a_sweep_asks_once_for_all(request_one, cloud, provider, alice):
    from instances.models import Quota

    Quota.objects.all().delete()
    for instance in [request_one() for _ in range(5)]:
        bring_up(instance)
    cloud.calls.clear()
    sweep.sweep(provider)
    assert [verb for verb, _ in cloud.calls] == ["observe"]


def test_two_failed_lists_make_active_unavailable_and_an_answer_brings_it_back(active, provider, cloud):
    broken = faulty.FailsAt(options(provider), "observe", ProviderUnavailable("503"), times=2)
    broken.machines = cloud.machines
    use_cloud(provider, broken)
    sweep.sweep(provider)
    active.refresh_from_db()
    assert active.state == "active"
    provider.refresh_from_db()
    sweep.sweep(provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("unavailable", "provider-unavailable")
    sweep.sweep(provider)
    active.refresh_from_db()
    assert active.state == "active"


def test_an_observation_older_than_the_last_call_does_not_count(active, cloud, alice):
    from dataclasses import replace

    old = replace(cloud.look(active.ref), at=clock.now(), phase=Phase.STOPPED)
    services.stop(active, by=alice)
    settle(active)
    services.start(active, by=alice)
    bring_up(active)
    reconcile.run(active.pk, old)
    active.refresh_from_db()
    assert (active.state, active.target) == ("active", "active")


def test_a_machine_of_a_deleted_row_is_set_aside_and_deleted_after_its_grace(active, alice, cloud, provider):
    spec = machine_of(cloud, active).spec
    services.delete(active, by=alice)
    settle(active)
    ref = cloud.create(spec)  # an answer that came far too late
    sweep.sweep(provider)
    sweep.clear_leftovers()
    assert ref in cloud.machines, "within its grace period it is left alone"
    Leftover.objects.update(due_at=clock.now())
    sweep.clear_leftovers()
    assert cloud.machines == {}
    assert active.home.key in cloud.homes


def test_a_machine_that_no_row_knows_is_never_touched(active, cloud, provider):
    from dataclasses import replace

    spec = replace(machine_of(cloud, active).spec, name="bp-else", instance="0b8f6f4e-2222-4444-8888-000000000000")
    ref = cloud.create(spec)
    sweep.sweep(provider)
    assert not Leftover.objects.exists()
    assert ref in cloud.machines


def test_a_leftover_that_is_in_use_is_not_deleted(active, cloud):
    Leftover.objects.create(provider=active.provider, ref=active.ref, instance=active)
    sweep.clear_leftovers()
    assert active.ref in cloud.machines
    assert not Leftover.objects.exists()


# ---- leases and workers ----
def test_a_leased_instance_is_left_alone(instance, cloud):
    assert leases.take(instance.pk) is not None
    reconcile.run(instance.pk)
    assert cloud.calls == []


def test_a_killed_workers_lease_runs_out_and_the_instance_is_due_again(instance, cloud):
    leases.take(instance.pk)
    assert instance not in leases.due()
    Instance.objects.filter(pk=instance.pk).update(leased_until=clock.now() - timedelta(seconds=1))
    assert instance in leases.due()
    settle(instance)
    assert instance.state == "starting"


def test_a_lease_is_renewed_while_its_holder_lives(instance):
    held = leases.take(instance.pk)
    leases.renew()
    instance.refresh_from_db()
    assert instance.leased_until > held.leased_until
    leases.release(instance.pk, held.lease_token, None)


def test_a_lease_that_its_holder_never_learnt_of_runs_out(instance, monkeypatch):
    """The database went away just behind the taking: nobody would give back what was renewed."""
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_KEPT", ("nothing_of_the_kind",))
        with pytest.raises(FieldError):
            reconcile.run(instance.pk)
    instance.refresh_from_db()
    taken_until = instance.leased_until
    assert taken_until is not None
    leases.renew()
    instance.refresh_from_db()
    assert instance.leased_until == taken_until


def test_a_verb_during_a_run_is_served_by_that_run(request_one, provider, alice, transactional_db):
    cloud = use_cloud(provider, faulty.Gated(options(provider)))
    instance = request_one()

    def work():
        try:
            reconcile.run(instance.pk)
        finally:
            connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    assert cloud.reached.wait(20)
    services.delete(instance, by=alice)
    cloud.gate.set()
    worker.join(20)
    instance.refresh_from_db()
    assert instance.state == "deleted"
    assert cloud.machines == {}


def test_a_verb_behind_an_event_that_came_with_the_lease_is_not_forgotten(active, alice):
    """The event is written between the taking of the lease and the reading of the row, the verb while the step runs."""

    def heard_at_once(execute, sql, *rest):
        done = execute(sql, *rest)
        if "leased_until" in sql and sql.startswith("UPDATE"):
            Instance.objects.filter(pk=active.pk).update(due_at=clock.Now())
        return done

    with connection.execute_wrapper(heard_at_once):
        held = leases.take(active.pk)
    services.stop(active, by=alice)
    leases.release(active.pk, held.lease_token, None)
    assert active in leases.due()


def test_a_verb_during_a_step_that_takes_longer_than_a_lease_is_not_forgotten(active, alice, monkeypatch):
    monkeypatch.setattr(leases, "LEASE", timedelta(milliseconds=1))
    held = leases.take(active.pk)
    time.sleep(0.01)
    services.stop(active, by=alice)
    leases.release(active.pk, held.lease_token, None)
    assert active in leases.due()


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_make_one_machine(request_one, cloud):
    instance = request_one()
    barrier = threading.Barrier(12)

    def work():
        try:
            barrier.wait(20)
            for _ in range(5):
                reconcile.run(instance.pk)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(40)
    instance.refresh_from_db()
    assert instance.state == "starting"
    assert [verb for verb, _ in cloud.calls].count("create") == 1
    assert history(instance) == ["requested", "building", "starting"]


# ---- the gateway's word ----
def test_ready_with_another_routes_version_does_not_count(instance, cloud):
    settle(instance)
    assert transitions.mark_ready(instance.uid, version=instance.version - 1) is transitions.Marked.BUSY
    assert transitions.mark_ready(instance.uid, version=instance.version) is transitions.Marked.DONE


def test_ready_while_a_worker_holds_the_lease_asks_to_come_again(instance, cloud):
    settle(instance)
    held = leases.take(instance.pk)
    assert transitions.mark_ready(instance.uid) is transitions.Marked.BUSY
    leases.release(instance.pk, held.lease_token, None)
    assert transitions.mark_ready(instance.uid) is transitions.Marked.DONE


def test_ready_of_a_stopped_instance_is_of_no_interest(active, alice):
    services.stop(active, by=alice)
    settle(active)
    assert transitions.mark_ready(active.uid) is transitions.Marked.GONE


def test_ready_after_stop_was_asked_does_not_make_it_active(instance, cloud, alice):
    settle(instance)
    services.stop(instance, by=alice)
    transitions.mark_ready(instance.uid)
    settle(instance)
    assert instance.state == "stopped"
    assert "active" not in history(instance)


def hear(instance, answers: bool, *, later: float = 0) -> None:
    """Have a gateway report, so many seconds later."""
    forward(later)
    transitions.mark_reported({instance.uid: {"jupyter": answers}})
    instance.refresh_from_db()


def test_silence_makes_it_unavailable_and_one_answer_brings_it_back(active, cloud):
    for _ in range(3):
        hear(active, False, later=15)
    assert active.state == "active"
    hear(active, False, later=15)
    assert (active.state, active.reason) == ("unavailable", "not-answering")
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert active.state == "unavailable"
    hear(active, True)
    settle(active, 1)
    assert (active.state, active.reason) == ("active", "")


def test_an_answer_in_between_ends_the_silence(active):
    for answers in (False, False, False, True, False, False, False):
        hear(active, answers, later=15)
    assert active.state == "active"
    assert active.services_up == {"jupyter": False}
