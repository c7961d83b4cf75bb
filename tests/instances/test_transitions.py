"""The only writer of state and target: what each function writes, and when it lets somebody else be first."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F

from instances import transitions
from instances.gateway.probes import ACTIVE_EVERY
from instances.lifecycle import Call, State, Step, Target, decide
from instances.models import Instance, Leftover, Member
from instances.transitions import Marked
from portal.lib import bus, clock
from portal.lib.clock import Now
from tests.factories.instances import InstanceFactory

LEASE = uuid.UUID(int=1)
LONG_AGO = timedelta(days=2)


@pytest.fixture
def make(alice, plan):
    """An instance whose every field is set, and all times long past, so that whatever is written shows."""

    def make(state: State, target: Target = Target.ACTIVE, **more: Any) -> Instance:
        past = clock.now() - LONG_AGO
        fields = {
            "lease_token": LEASE,
            "ref": "m-1",
            "last_call": "stop",
            "reason": "held",
            "detail": "words",
            "log": "lines",
            "missing_seen": 2,
            "endpoints": [{"service": "jupyter"}],
            "services_up": {"jupyter": True},
        }
        times = (
            "silent_since",
            "state_changed_at",
            "updated_at",
            "deadline_at",
            "due_at",
            "ready_at",
            "reboot_asked_at",
        )
        instance = InstanceFactory(owner=alice, plan=plan, state=state, target=target)
        called = {"called_at": past - timedelta(seconds=1)}
        Instance.objects.filter(pk=instance.pk).update(**fields | dict.fromkeys(times, past) | called | more)
        instance.refresh_from_db()
        return instance

    return make


@pytest.fixture
def told(monkeypatch):
    """What was published."""
    said: list[tuple[str, Any]] = []
    monkeypatch.setattr(bus, "publish", lambda channel, message: said.append((channel, message)))
    monkeypatch.setattr(bus, "notify", lambda uid, message: said.append((str(uid), message)))
    return said


def rows(instance: Instance) -> list[tuple[str, ...]]:
    found = instance.transitions.order_by("id")
    return [(row.old, row.new, row.target, row.event, row.reason, row.detail) for row in found]


def is_now(at: Any) -> bool:
    return at is not None and abs((at - clock.now()).total_seconds()) < 60


def in_deadline(at: Any) -> bool:
    return is_now(at - settings.INSTANCE_DEADLINE)


def is_past(at: Any) -> bool:
    return at is not None and not is_now(at) and at < clock.now()


# ---- every write ----
def test_a_write_leaves_a_row_a_version_and_news(make, told, alice, bob):
    instance, another = make(State.ACTIVE), make(State.ACTIVE)
    Member.objects.create(instance=instance, user=bob, role="user")
    version = instance.version
    assert transitions.aim(instance, Target.STOPPED, event="stop", actor=alice) is True
    assert instance.version == version + 1
    assert is_now(instance.updated_at)
    assert rows(instance) == [("active", "active", "stopped", "stop", "", "")]
    assert instance.transitions.get().actor == alice
    another.refresh_from_db()
    assert (another.target, another.version) == ("active", version)
    uid = str(instance.uid)
    assert (bus.GATEWAY, {"instance": uid}) in told
    pages = [(str(user.uid), {"type": "instance-changed", "id": uid}) for user in (instance.owner, bob)]
    assert sorted(told[1:], key=str) == sorted(pages, key=str)


@pytest.mark.parametrize(
    ("change", "pages"),
    [
        *(({name: value}, 1) for name, value in {"state": "stopped", "target": "stopped"}.items()),
        *(({name: "news"}, 1) for name in ("reason", "detail")),
        ({"ref": "m-2"}, 0),
    ],
)
def test_pages_hear_of_what_they_show(make, told, change, pages):
    instance = make(State.ACTIVE)
    assert transitions._write(instance, event="tried", **change)
    assert [where for where, _ in told] == [bus.GATEWAY, *[str(instance.owner.uid)] * pages]


@pytest.mark.parametrize(
    ("old", "new", "heard"), [("requested", "building", 0), ("building", "starting", 1), ("active", "stopped", 1)]
)
def test_gateways_hear_of_what_they_reach(make, told, old, new, heard):
    instance = make(State(old))
    assert transitions._write(instance, event="tried", state=new)
    assert [where for where, _ in told].count(bus.GATEWAY) == heard
    told.clear()
    assert transitions._write(instance, event="tried", quiet=True, detail="")
    assert told == []


@pytest.mark.parametrize("change", [{"state": "stopped"}, {"target": "deleted"}])
def test_who_comes_second_writes_nothing(make, told, change):
    instance = make(State.ACTIVE)
    Instance.objects.filter(pk=instance.pk).update(**change)
    before = Instance.objects.filter(pk=instance.pk).values().get()
    assert transitions.aim(instance, Target.STOPPED, event="stop") is False
    assert transitions.note(instance, lease=LEASE, ref="m-2") is False
    assert Instance.objects.filter(pk=instance.pk).values().get() == before
    assert (rows(instance), told) == ([], [])


def test_who_has_lost_the_lease_writes_nothing(make):
    instance = make(State.ACTIVE)
    other = uuid.UUID(int=2)
    assert transitions.note(instance, lease=other, ref="m-2") is False
    assert transitions.move(instance, Step(State.STOPPED), event="observed", lease=other) is False
    assert transitions.new_attempt(instance, lease=other, reason="failed") is False
    assert not Leftover.objects.exists()
    assert rows(instance) == []


def test_a_note_is_no_transition(make):
    instance = make(State.STARTING)
    changed = instance.state_changed_at
    assert transitions.note(instance, lease=LEASE, ref="m-2", reason="no-capacity") is True
    assert (instance.ref, instance.reason, instance.state_changed_at) == ("m-2", "no-capacity", changed)
    assert is_past(instance.deadline_at)
    assert rows(instance) == []


def test_a_row_carries_reason_and_detail(make):
    instance = make(State.ACTIVE)
    step = Step(State.ERROR)
    transitions.move(instance, step, event="observed", lease=LEASE, reason="vanished", detail="It is gone.", log="last")
    assert rows(instance) == [("active", "error", "active", "observed", "vanished", "It is gone.")]
    assert (instance.reason, instance.detail, instance.log) == ("vanished", "It is gone.", "last")


SAME = {"reason": "held", "detail": "words"}


@pytest.mark.parametrize(
    ("call", "changed"),
    [
        (Call.CREATE, {}),
        (None, {}),
        (Call.CREATE, {"reason": "no-capacity"}),
        (Call.CREATE, {"detail": "other words"}),
        (Call.CREATE, {"log": "other lines"}),
        (Call.REBOOT, {}),
    ],
)
def test_a_step_that_is_only_taken_once_more_shows_nowhere(make, told, call, changed):
    instance, another = make(State.BUILDING), make(State.BUILDING)
    version, step = instance.version, Step(State.BUILDING, call)
    shows = bool(changed) or call is Call.REBOOT  # which gets a deadline
    assert transitions.move(instance, step, event="create", lease=LEASE, **SAME | {"log": "lines"} | changed) is True
    assert (instance.version, bool(told), is_now(instance.updated_at)) == (version + shows, shows, shows)
    assert (instance.missing_seen, is_now(instance.called_at)) == (0, call is not None)
    assert rows(instance) == []
    another.refresh_from_db()
    assert (another.missing_seen, is_past(another.called_at)) == (2, True)


@pytest.mark.parametrize(("changed", "shows"), [({}, False), ({"reason": "no-capacity"}, True), ({"detail": ""}, True)])
def test_a_call_that_was_not_done_is_forgotten_and_a_new_reason_shows(make, told, changed, shows):
    instance = make(State.BUILDING)
    version = instance.version
    assert transitions.not_done(instance, lease=LEASE, **SAME | changed) is True
    assert (instance.last_call, instance.version, bool(told)) == ("", version + shows, shows)
    assert {"reason": instance.reason, "detail": instance.detail} == SAME | changed
    assert is_now(instance.updated_at) is shows
    assert rows(instance) == []
    assert transitions.not_done(instance, lease=uuid.UUID(int=2), reason="other", detail="") is False
    assert instance.reason == (SAME | changed)["reason"]


# ---- a deadline and a reboot end with what they were for ----
@pytest.mark.parametrize(("state", "kept"), [(State.STARTING, True), (State.ACTIVE, False), (State.ERROR, False)])
def test_a_deadline_ends_with_the_first_state_that_does_not_move(make, state, kept):
    instance = make(State.BUILDING)
    transitions.move(instance, Step(state), event="observed", lease=LEASE)
    assert (instance.deadline_at is not None) is kept
    assert is_now(instance.state_changed_at)


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (Step(State.UNAVAILABLE), True),
        (Step(State.STARTING), False),
        (Step(State.ACTIVE, target=Target.STOPPED), False),
        (Step(State.REBOOTING, Call.REBOOT), False),
    ],
)
def test_a_reboot_that_was_asked_is_forgotten_outside_active(make, step, kept):
    instance = make(State.ACTIVE)
    transitions.move(instance, step, event="observed", lease=LEASE)
    assert (instance.reboot_asked_at is not None) is kept


# ---- people's verbs ----
def test_born(alice, plan, told):
    instance, another = (InstanceFactory(owner=alice, plan=plan, state=State.REQUESTED) for _ in range(2))
    version = instance.version
    transitions.born(instance, actor=alice)
    instance.refresh_from_db()
    another.refresh_from_db()
    assert (another.deadline_at, another.due_at) == (None, None)
    assert rows(instance) == [("", "requested", "active", "request", "", "")]
    assert instance.transitions.get().actor == alice
    assert in_deadline(instance.deadline_at)
    assert is_now(instance.due_at)
    assert [topic for topic, _ in told] == [str(alice.uid)], "there is nothing yet that a gateway could reach"
    assert instance.version == version


@pytest.mark.parametrize(
    ("state", "target", "wish", "ref", "new", "reason"),
    [
        (State.ACTIVE, Target.ACTIVE, Target.STOPPED, "m-1", "active", ""),
        (State.STOPPED, Target.STOPPED, Target.ACTIVE, "m-1", "stopped", ""),
        (State.STOPPED, Target.STOPPED, Target.ACTIVE, "", "requested", ""),
        (State.STOPPED, Target.STOPPED, Target.DELETED, "", "stopped", ""),
        (State.STARTING, Target.STOPPED, Target.ACTIVE, "", "starting", ""),
        (State.ERROR, Target.ACTIVE, Target.DELETED, "m-1", "error", "held"),
    ],
)
def test_aim(make, state, target, wish, ref, new, reason):
    instance = make(state, target, ref=ref)
    assert transitions.aim(instance, wish, event="verb")
    assert (instance.state, instance.target, instance.reason) == (new, wish, reason)
    assert (instance.detail, instance.log) == (("words", "lines") if reason else ("", ""))
    assert is_now(instance.due_at)
    if wish is Target.DELETED:
        assert instance.deadline_at is None
    else:
        assert in_deadline(instance.deadline_at)


@pytest.mark.parametrize(("target", "state"), [(Target.ACTIVE, "building"), (Target.STOPPED, "stopping")])
def test_retry(make, alice, target, state):
    instance = make(State.ERROR, Target.ACTIVE)
    assert transitions.retry(instance, target, event="retry", actor=alice)
    assert (instance.state, instance.target, instance.last_call) == (state, target, "")
    assert (instance.reason, instance.detail, instance.log, instance.missing_seen) == ("", "", "", 0)
    assert in_deadline(instance.deadline_at)
    assert is_now(instance.due_at)
    assert rows(instance) == [("error", state, target, "retry", "", "")]
    assert instance.transitions.get().actor == alice


def test_ask_reboot(make, alice):
    instance = make(State.ACTIVE, reboot_asked_at=None)
    assert transitions.ask_reboot(instance, actor=alice)
    assert is_now(instance.reboot_asked_at)
    assert is_now(instance.due_at)
    assert (instance.reason, instance.detail) == ("", "")
    assert rows(instance) == [("active", "active", "active", "reboot", "", "")]
    assert instance.transitions.get().actor == alice


# ---- a worker's steps ----
def test_a_new_attempt_sets_the_old_machine_aside(make):
    instance = make(State.STARTING)
    assert transitions.new_attempt(instance, lease=LEASE, reason="host-failed") is True
    assert (instance.state, instance.attempt, instance.ref) == ("building", 2, "")
    assert (instance.endpoints, instance.last_call, instance.missing_seen) == ([], "", 0)
    assert (instance.reason, "computer" in instance.detail) == ("host-failed", True)
    assert in_deadline(instance.deadline_at)
    leftover = Leftover.objects.get()
    assert (leftover.ref, leftover.provider, leftover.instance) == ("m-1", instance.provider, instance)
    assert [row[3] for row in rows(instance)] == ["new-attempt"]


def test_a_new_attempt_in_the_same_state_is_recorded_too_and_sets_nothing_aside_where_nothing_was(make):
    instance = make(State.BUILDING, ref="")
    assert transitions.new_attempt(instance, lease=LEASE, reason="host-failed")
    assert [row[3] for row in rows(instance)] == ["new-attempt"]
    assert not Leftover.objects.exists()


def test_a_machine_that_is_set_aside_already_is_set_aside_once(make):
    instance = make(State.STARTING)
    Leftover.objects.create(provider=instance.provider, ref="m-1", instance=instance)
    assert transitions.new_attempt(instance, lease=LEASE, reason="failed")
    assert Leftover.objects.count() == 1


def test_a_step_with_a_call_says_when_it_was_made(make):
    instance = make(State.ACTIVE, Target.STOPPED)
    assert transitions.move(instance, Step(State.STOPPING, Call.STOP), event="stop", lease=LEASE) is True
    assert (instance.state, instance.last_call, instance.missing_seen) == ("stopping", "stop", 0)
    assert is_now(instance.called_at)
    assert is_past(instance.deadline_at)
    assert instance.endpoints == [{"service": "jupyter"}]
    assert is_past(instance.ready_at)


def test_a_step_without_a_call_leaves_the_last_one(make):
    instance = make(State.BUILDING)
    transitions.move(instance, Step(State.STARTING), event="observed", lease=LEASE)
    assert instance.last_call == "stop"
    assert is_past(instance.called_at)
    assert (instance.reason, instance.detail, instance.log) == ("", "", "")


def test_a_reboot_has_a_deadline_of_its_own(make):
    instance = make(State.ACTIVE)
    transitions.move(instance, Step(State.REBOOTING, Call.REBOOT), event="reboot", lease=LEASE)
    assert in_deadline(instance.deadline_at)


@pytest.mark.parametrize("state", [State.STOPPED, State.DELETED, State.ERROR])
def test_what_has_ended_answers_nowhere(make, state):
    instance = make(State.STOPPING, Target.STOPPED)
    transitions.move(instance, Step(state), event="observed", lease=LEASE)
    assert (instance.ready_at, instance.services_up, instance.endpoints) == (None, {}, [])
    assert (instance.deleted_at is not None) is (state is State.DELETED)
    assert instance.deleted_at is None or is_now(instance.deleted_at)


def test_the_wish_changes_where_a_step_says_so(make):
    instance = make(State.ACTIVE)
    transitions.move(instance, Step(State.STOPPED, target=Target.STOPPED), event="observed", lease=LEASE)
    assert (instance.state, instance.target) == ("stopped", "stopped")
    assert rows(instance)[0][:3] == ("active", "stopped", "stopped")


# ---- a gateway's word ----
def free(make, state: State, target: Target = Target.ACTIVE, **more: Any) -> Instance:
    return make(state, target, lease_token=None, leased_until=None, **more)


def test_the_words_for_a_gateway():
    """The gateway's link carries them."""
    assert {marked.name: marked.value for marked in Marked} == {"DONE": "done", "BUSY": "busy", "GONE": "gone"}


def test_ready_makes_a_starting_one_active(make):
    instance = free(make, State.STARTING)
    assert transitions.mark_ready(instance.uid, version=instance.version) is Marked.DONE
    instance.refresh_from_db()
    assert (instance.state, instance.silent_since) == ("active", None)
    assert (instance.reason, instance.detail, instance.log) == ("", "", "")
    assert is_now(instance.ready_at)
    assert [row[3] for row in rows(instance)] == ["ready"]


@pytest.mark.parametrize(("state", "target"), [(State.STARTING, Target.STOPPED), (State.UNAVAILABLE, Target.ACTIVE)])
def test_ready_where_a_call_or_a_look_comes_next_is_noted_and_due(make, state, target):
    instance = free(make, state, target)
    version = instance.version
    assert transitions.mark_ready(instance.uid) is Marked.DONE
    instance.refresh_from_db()
    assert (instance.state, instance.version, instance.silent_since) == (state, version, None)
    assert is_now(instance.ready_at)
    assert is_now(instance.due_at)
    assert rows(instance) == []


@pytest.mark.parametrize("state", [State.BUILDING, State.STOPPED, State.STOPPING, State.ERROR, State.DELETED])
def test_ready_elsewhere_is_of_no_interest(make, state):
    assert transitions.mark_ready(free(make, state).uid) is Marked.GONE
    assert transitions.mark_ready(uuid.uuid4()) is Marked.GONE


def test_ready_of_an_older_route_or_under_a_lease_comes_again(make):
    instance = free(make, State.STARTING)
    assert transitions.mark_ready(instance.uid, version=instance.version + 1) is Marked.BUSY
    Instance.objects.filter(pk=instance.pk).update(leased_until=Now() + timedelta(seconds=10))
    assert transitions.mark_ready(instance.uid) is Marked.BUSY
    Instance.objects.filter(pk=instance.pk).update(leased_until=Now() - timedelta(seconds=1))
    assert transitions.mark_ready(instance.uid) is Marked.DONE


@pytest.mark.parametrize("state", [State.STARTING, State.UNAVAILABLE])
def test_ready_is_said_of_one_instance(make, state):
    instance, another = free(make, state), free(make, state)
    assert instance.version == another.version
    transitions.mark_ready(instance.uid)
    instance.refresh_from_db()
    another.refresh_from_db()
    assert is_now(instance.ready_at)
    assert (another.state, is_past(another.ready_at), is_past(another.due_at)) == (state, True, True)


@pytest.mark.parametrize("state", [State.STARTING, State.UNAVAILABLE])
def test_ready_of_a_route_that_changes_meanwhile_comes_again(make, monkeypatch, state):
    instance = free(make, state)

    def change_and_decide(*given: Any) -> Step:
        Instance.objects.update(version=F("version") + 1)
        return decide(*given)

    monkeypatch.setattr(transitions, "decide", change_and_decide)
    assert transitions.mark_ready(instance.uid, version=instance.version) is Marked.BUSY
    instance.refresh_from_db()
    assert (instance.state, is_past(instance.ready_at)) == (state, True)


def report(instance: Instance, **answers: bool) -> None:
    transitions.mark_reported({instance.uid: answers})
    instance.refresh_from_db()


def ago(seconds: float) -> Any:
    return clock.now() - timedelta(seconds=seconds)


def test_so_long_a_service_is_silent_until_it_is_unavailable():
    """Three reports of a gateway, which come every 15 s."""
    assert timedelta(seconds=3 * ACTIVE_EVERY) == transitions.SILENCE


def test_silence_for_three_periods_makes_it_unavailable(make):
    instance = free(make, State.ACTIVE, silent_since=None)
    report(instance, jupyter=False)
    since = instance.silent_since
    assert is_now(since)
    assert (instance.state, instance.services_up, is_past(instance.ready_at)) == ("active", {"jupyter": False}, True)
    report(instance)
    assert (instance.state, instance.silent_since, instance.services_up) == ("active", since, {})
    Instance.objects.filter(pk=instance.pk).update(silent_since=ago(40))
    report(instance)
    assert (instance.state, is_past(instance.ready_at)) == ("active", True)
    Instance.objects.filter(pk=instance.pk).update(silent_since=ago(46))
    report(instance)
    assert (instance.state, instance.reason, instance.ready_at) == ("unavailable", "not-answering", None)
    assert "does not answer" in instance.detail
    assert [row[1:5] for row in rows(instance)] == [("unavailable", "active", "silent", "not-answering")]


def test_many_gateways_do_not_make_it_unavailable_sooner(make):
    instance = free(make, State.ACTIVE, silent_since=ago(40), services_up={})
    for answers in ({}, {"jupyter": False}) * 5:
        report(instance, **answers)
    assert (instance.state, is_past(instance.ready_at), rows(instance)) == ("active", True, [])


def test_one_gateway_that_hears_it_is_enough(make):
    instance = free(make, State.ACTIVE, silent_since=None)
    for _ in range(8):
        report(instance, jupyter=False)
        report(instance, jupyter=True)
        report(instance, jupyter=False)
        Instance.objects.filter(pk=instance.pk).update(silent_since=F("silent_since") - timedelta(seconds=20))
    assert (instance.state, is_past(instance.ready_at), rows(instance)) == ("active", True, [])


def test_one_that_answers_as_ever_after_a_call_is_heard_anew(make):
    """A stop that the provider refused, then start again: the machine has never been away."""
    before = clock.now() - timedelta(seconds=60)
    instance = make(State.UNAVAILABLE, ready_at=before, services_up={"jupyter": True}, called_at=before)
    report(instance, jupyter=True)
    assert is_now(instance.ready_at)
    assert is_now(instance.due_at)


def test_a_gateway_that_hears_it_at_the_last_moment_is_enough(make, monkeypatch):
    instance = free(make, State.ACTIVE)

    def hear_and_decide(*given: Any) -> Step:
        transitions.mark_reported({instance.uid: {"jupyter": True}})
        return decide(*given)

    monkeypatch.setattr(transitions, "decide", hear_and_decide)
    report(instance, jupyter=False)
    assert (instance.state, instance.silent_since, rows(instance)) == ("active", None, [])
    assert is_now(instance.ready_at)


def test_a_silent_one_under_a_lease_or_about_to_stop_is_left_to_the_worker(make):
    instance = make(State.ACTIVE, leased_until=clock.now() + timedelta(seconds=10))
    report(instance, jupyter=False)
    assert (instance.state, instance.ready_at) == ("active", None)
    Instance.objects.filter(pk=instance.pk).update(leased_until=None)
    report(instance, jupyter=False)
    assert instance.state == "unavailable", "the next report says it again"
    stopping = free(make, State.ACTIVE, Target.STOPPED)
    report(stopping, jupyter=False)
    assert (stopping.state, stopping.reason) == ("active", "held")


def test_what_is_unavailable_for_another_reason_is_not_ready_either_when_it_is_silent(make):
    instance = free(make, State.UNAVAILABLE, services_up={})
    report(instance)
    assert (instance.state, instance.reason, instance.ready_at, rows(instance)) == ("unavailable", "held", None, [])


def test_an_answer_ends_the_silence_and_is_due_to_be_looked_at(make):
    instance = free(make, State.UNAVAILABLE, ready_at=None, services_up={})
    report(instance, jupyter=True)
    assert (instance.silent_since, instance.services_up) == (None, {"jupyter": True})
    assert is_now(instance.ready_at)
    assert is_now(instance.due_at)


@pytest.mark.parametrize(
    "fields",
    [
        {"services_up": {"jupyter": True}, "silent_since": None},
        {"services_up": {"jupyter": False}, "ready_at": None, "state": State.UNAVAILABLE},
    ],
)
def test_a_report_that_says_nothing_new_writes_nothing(make, fields):
    instance = free(make, State.ACTIVE)
    Instance.objects.filter(pk=instance.pk).update(**fields)
    place = stored_at(instance)
    report(instance, **fields["services_up"])
    assert stored_at(instance) == place, "PostgreSQL moves a row that is written"


def test_a_silence_that_is_known_and_not_long_yet_writes_nothing(make):
    instance = free(make, State.ACTIVE, silent_since=ago(15), services_up={})
    place = stored_at(instance)
    report(instance)
    assert stored_at(instance) == place


def stored_at(instance: Instance) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT ctid::text FROM instances_instance WHERE id = %s", [instance.pk])
        return str(cursor.fetchone()[0])


@pytest.mark.parametrize("fields", [{"silent_since": None}, {"services_up": {}}, {"ready_at": None}])
def test_an_answer_is_taken_where_anything_of_it_is_new(make, fields):
    instance = free(make, State.ACTIVE, **{"silent_since": None, "services_up": {"jupyter": True}} | fields)
    if fields == {"silent_since": None}:
        Instance.objects.filter(pk=instance.pk).update(silent_since=ago(1))
    report(instance, jupyter=True)
    assert (instance.silent_since, instance.services_up) == (None, {"jupyter": True})
    assert is_now(instance.ready_at) == is_now(instance.due_at) == ("ready_at" in fields)


@pytest.mark.parametrize("answers", [True, False])
def test_a_report_is_on_one_instance(make, answers):
    fields = {"ready_at": None, "services_up": {}}
    instance, another = (free(make, State.ACTIVE, **fields) for _ in range(2))
    report(instance, jupyter=answers)
    assert instance.services_up == {"jupyter": answers}
    another.refresh_from_db()
    assert (another.state, is_past(another.silent_since), another.services_up) == ("active", True, {})
    assert another.ready_at is None


@pytest.mark.parametrize("answers", [True, False])
def test_a_report_on_what_moves_meanwhile_writes_nothing(make, monkeypatch, answers):
    instance = free(make, State.ACTIVE, ready_at=None, services_up={})

    def move_and_say(*_given: Any) -> bool:
        Instance.objects.update(state=State.STOPPING)
        return answers

    monkeypatch.setattr(transitions, "_all_required", move_and_say)
    report(instance, jupyter=answers)
    assert (instance.state, is_past(instance.silent_since), instance.services_up) == ("stopping", True, {})
    assert instance.ready_at is None


def test_only_required_services_count(make, plan):
    plan.image.services = [{"name": "jupyter"}, {"name": "desktop", "required": False}]
    plan.image.save()
    instance = free(make, State.ACTIVE, silent_since=None)
    report(instance, jupyter=True, desktop=False)
    assert (instance.silent_since, instance.services_up) == (None, {"jupyter": True, "desktop": False})
    report(instance, desktop=True)
    assert is_now(instance.silent_since)


@pytest.mark.parametrize("state", [State.STARTING, State.STOPPED])
def test_a_report_on_what_is_not_served_is_of_no_interest(make, state):
    instance = free(make, state, services_up={})
    report(instance, jupyter=True)
    assert instance.services_up == {}


# ---- a provider that gives no answer ----
@pytest.mark.parametrize(
    ("state", "target", "moved"),
    [
        (State.ACTIVE, Target.ACTIVE, True),
        (State.ACTIVE, Target.STOPPED, False),
        (State.STARTING, Target.ACTIVE, False),
        (State.UNAVAILABLE, Target.ACTIVE, False),
    ],
)
def test_lose_sight(make, state, target, moved):
    instance = free(make, state, target)
    assert transitions.lose_sight(instance) is moved
    if moved:
        assert (instance.state, instance.reason) == ("unavailable", "provider-unavailable")
        assert "no answer" in instance.detail
        assert [row[3] for row in rows(instance)] == ["observed"]
    else:
        assert (instance.state, rows(instance)) == (state, [])


def test_what_a_worker_holds_is_not_lost_sight_of(make):
    instance = make(State.ACTIVE, leased_until=clock.now() + timedelta(seconds=10))
    assert transitions.lose_sight(instance) is False


def test_an_outage_spares_a_running_deadline_and_shortens_none(make):
    soon, late, none = (
        make(State.STARTING, deadline_at=at)
        for at in (clock.now() + timedelta(seconds=30), clock.now() + timedelta(hours=1), None)
    )
    for instance in (late, none):
        before = soon.deadline_at, instance.deadline_at
        transitions.spare(instance, 300)
        soon.refresh_from_db()
        instance.refresh_from_db()
        assert (soon.deadline_at, instance.deadline_at) == before
    transitions.spare(soon, 300)
    soon.refresh_from_db()
    assert timedelta(seconds=200) < soon.deadline_at - clock.now() <= timedelta(seconds=300)
