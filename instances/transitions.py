"""The only writer of an instance's state and target: one conditional UPDATE and one Transition row.

Every write that shows anywhere raises `version` and tells gateways and the members' open pages after the commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from auth.models import User
from instances import reasons
from instances.lifecycle import MOVING, PROBED, SERVED, Call, Phase, State, Step, Target, decide
from instances.models import Instance, Leftover, Member, Transition
from portal.lib import bus
from portal.lib.clock import Now

#: three reports of a gateway: so long no gateway hears a required service until it is called unavailable
SILENCE = timedelta(seconds=45)
#: what only workers look at
_WORKERS_OWN = frozenset({"last_call", "called_at", "missing_seen"})
#: a gateway neither probes nor serves what stays in these, and nobody has it open
_OUT_OF_REACH = frozenset({State.REQUESTED, State.BUILDING})
#: what pages show of an instance
_SHOWN = frozenset({"state", "target", "reason", "detail"})
#: what a write may have changed; whose the instance is, and of which plan, stays as it was read
_FACTS = [field.attname for field in Instance._meta.concrete_fields if not field.is_relation]


class Marked(StrEnum):
    """What came of a gateway's word: taken, come again in a moment, or no longer of interest."""

    DONE = "done"
    BUSY = "busy"
    GONE = "gone"


def lease_free() -> Q:
    return Q(leased_until__isnull=True) | Q(leased_until__lt=Now())


def _write(
    instance: Instance,
    *,
    event: str,
    actor: User | None = None,
    only: Q | None = None,
    record: bool = False,
    quiet: bool = False,
    **fields: Any,
) -> bool:
    """Write `fields` if state and target are still what `instance` says; return False if somebody was first.

    A Transition is recorded when state or target change, or when `record` asks for it. A `quiet` write is of no
    interest to gateways and pages, and raises no version. What was written is read again.
    """
    old, wished = State(instance.state), Target(instance.target)
    state, target = State(fields.get("state", old)), Target(fields.get("target", wished))
    if state is not old and state not in MOVING:
        fields["deadline_at"] = None
    if state not in SERVED or target is not Target.ACTIVE:
        fields["reboot_asked_at"] = None
    if state is not old:
        fields["state_changed_at"] = Now()
    if state is State.DELETED:
        fields["deleted_at"] = Now()
    rows = Instance.objects.filter(only or Q(), pk=instance.pk, state=old, target=wished)
    with transaction.atomic():
        if not quiet:
            fields |= {"version": F("version") + 1, "updated_at": Now()}
        if not rows.update(**fields):
            return False
        if state is not old or target is not wished or record:
            Transition.objects.create(
                instance=instance,
                old=old,
                new=state,
                target=target,
                event=event,
                actor=actor,
                reason=fields.get("reason", ""),
                detail=fields.get("detail", ""),
            )
        if not quiet and not {old, state} <= _OUT_OF_REACH:
            _tell_gateways(instance)
        if not quiet and fields.keys() & _SHOWN:
            _tell_pages(instance)
    instance.refresh_from_db(fields=_FACTS)
    return True


def _shows_nowhere(instance: Instance, fields: Mapping[str, Any]) -> bool:
    """Whether all but a worker's own notes is as before: it only tries once more."""
    return all(getattr(instance, name) == value for name, value in fields.items() if name not in _WORKERS_OWN)


def _tell_gateways(instance: Instance) -> None:
    """Wake gateways; they read the row again, so a lost message costs only time."""
    bus.publish(bus.GATEWAY, {"instance": str(instance.uid)})


def _tell_pages(instance: Instance) -> None:
    """Wake the members' open pages; they too read the row again."""
    for uid in Member.objects.filter(instance=instance).values_list("user__uid", flat=True):
        bus.notify(uid, {"type": "instance-changed", "id": str(instance.uid)})


def born(instance: Instance, *, actor: User) -> None:
    """Begin the history of a new instance: its first row, its deadline, and that it is due now.

    `instance` is not read again: nobody goes on with it before a worker does.
    """
    Instance.objects.filter(pk=instance.pk).update(deadline_at=_deadline(), due_at=Now())
    Transition.objects.create(
        instance=instance, new=instance.state, target=instance.target, event="request", actor=actor
    )
    _tell_pages(instance)


def _deadline() -> Any:
    return Now() + settings.INSTANCE_DEADLINE


def aim(instance: Instance, target: Target, *, event: str, actor: User | None = None) -> bool:
    """Set what people want. A stopped instance that never had a machine goes back to the beginning."""
    deadline = None if target is Target.DELETED else _deadline()
    fields: dict[str, Any] = {"target": target, "due_at": Now(), "deadline_at": deadline}
    if target is Target.ACTIVE and instance.state == State.STOPPED and not instance.ref:
        fields["state"] = State.REQUESTED
    if instance.state != State.ERROR:
        fields |= {"reason": "", "detail": "", "log": ""}
    return _write(instance, event=event, actor=actor, **fields)


def retry(instance: Instance, target: Target, *, event: str, actor: User | None = None) -> bool:
    """Take an instance out of error. With no call on record, what is found decides (reconcile): missing → create,
    stopped → start, running → a new deadline, failed → a new attempt."""
    state = State.BUILDING if target is Target.ACTIVE else State.STOPPING
    return _write(
        instance,
        event=event,
        actor=actor,
        state=state,
        target=target,
        last_call="",
        missing_seen=0,
        deadline_at=_deadline(),
        due_at=Now(),
        reason="",
        detail="",
        log="",
    )


def new_attempt(instance: Instance, *, lease: uuid.UUID, reason: str) -> bool:
    """Give a failed machine up: it becomes a leftover for the sweep, and a new one is made under the next name."""
    old = instance.ref
    with transaction.atomic():
        written = _write(
            instance,
            event="new-attempt",
            only=Q(lease_token=lease),
            record=True,
            state=State.BUILDING,
            attempt=F("attempt") + 1,
            ref="",
            endpoints=[],
            last_call="",
            missing_seen=0,
            deadline_at=_deadline(),
            reason=reason,
            detail=reasons.sentence(reason),
        )
        if written and old:
            Leftover.objects.get_or_create(provider_id=instance.provider_id, ref=old, defaults={"instance": instance})
    return written


def ask_reboot(instance: Instance, *, actor: User | None = None) -> bool:
    """Ask for one reboot; it happens at most once, and is forgotten when the instance leaves active."""
    return _write(
        instance, event="reboot", actor=actor, record=True, reboot_asked_at=Now(), due_at=Now(), reason="", detail=""
    )


def move(
    instance: Instance, step: Step, *, event: str, lease: uuid.UUID, reason: str = "", detail: str = "", log: str = ""
) -> bool:
    """Take a step under a lease; with a call in it, `called_at` becomes the time before which nothing counts.

    The same call for the same reason shows nowhere.
    """
    fields: dict[str, Any] = {"state": step.state, "reason": reason, "detail": detail, "log": log, "missing_seen": 0}
    if step.target is not None:
        fields["target"] = step.target
    if step.call is not None:
        fields |= {"last_call": step.call, "called_at": Now()}
    if step.call is Call.REBOOT:
        fields["deadline_at"] = _deadline()
    if step.state in (State.STOPPED, State.DELETED, State.ERROR):
        fields |= {"ready_at": None, "services_up": {}, "endpoints": []}
    quiet = _shows_nowhere(instance, fields)
    return _write(instance, event=event, only=Q(lease_token=lease), quiet=quiet, **fields)


def not_done(instance: Instance, *, lease: uuid.UUID, **because: Any) -> bool:
    """Forget the last call, as nobody knows whether it was heard; the same reason as before shows nowhere."""
    quiet = _shows_nowhere(instance, because)
    return _write(instance, event="note", only=Q(lease_token=lease), quiet=quiet, last_call="", **because)


def note(instance: Instance, *, lease: uuid.UUID, **fields: Any) -> bool:
    """Write what was learnt (ref, endpoints, reason …) without moving."""
    return _write(instance, event="note", only=Q(lease_token=lease), **fields)


def withdraw_from(instance: Instance, endpoints: Iterable[Mapping[str, Any]]) -> None:
    """Withdraw the routes of others to addresses that are this instance's by now: who had them is gone from there."""
    others = Instance.objects.filter(provider=instance.provider_id, state__in=PROBED | SERVED).exclude(pk=instance.pk)
    for endpoint in endpoints:
        if not endpoint.get("uid"):
            continue
        address = {"host": endpoint["host"], "port": endpoint["port"]}
        for other in others.filter(endpoints__contains=[address]):
            _write(other, event="note", endpoints=[], ready_at=None, services_up={})


def mark_ready(uid: uuid.UUID | str, *, version: int | None = None) -> Marked:
    """Take the gateway's word that every required service answers, and the step to active when no call is in it.

    `version` is that of the route that was probed: an answer of an earlier life of the machine does not count.
    BUSY: a worker holds the instance or the route has changed; probe and post again.
    """
    instance = Instance.objects.filter(uid=uid).first()
    if instance is None or instance.state not in SERVED | {State.STARTING}:
        return Marked.GONE
    if version is not None and version != instance.version:
        return Marked.BUSY
    step = decide(State(instance.state), Target(instance.target), Phase.READY)
    same_route = Q(version=instance.version)
    seen: dict[str, Any] = {"ready_at": Now(), "silent_since": None}
    if instance.state == State.STARTING and step.call is None:
        fields = seen | {"state": step.state, "reason": "", "detail": "", "log": ""}
        done = _write(instance, event="ready", only=same_route & lease_free(), **fields)
    else:
        rows = Instance.objects.filter(same_route, pk=instance.pk)
        done = bool(rows.update(**seen, due_at=Now()))
    return Marked.DONE if done else Marked.BUSY


def mark_limit(instance: Instance, reason: str, detail: str) -> bool:
    """Note that a running machine has come to a limit; not over another reason, nor under a worker's lease."""
    return _write(instance, event="limit", only=lease_free() & Q(reason=""), reason=reason, detail=detail)


def mark_reported(reported: Mapping[uuid.UUID, Mapping[str, bool]]) -> None:
    """Take what a gateway reports of all its instances; most of it is known already, which one query says.

    Several gateways may speak of the same instance: it is unavailable when for SILENCE none of them has heard it.
    No report changes nothing.
    """
    served = Instance.objects.filter(uid__in=reported.keys(), state__in=SERVED).select_related("plan__image")
    for instance in served.annotate(long_silent=_long_silent()):
        answers = dict(reported[instance.uid])
        silent, new = instance.silent_since is not None, instance.services_up != answers
        if _all_required(instance, answers):
            if new or silent or not instance.is_heard:
                _mark_heard(instance, answers)
        elif new or not silent or (instance.long_silent and (instance.ready_at or instance.state == State.ACTIVE)):
            _mark_silent(instance, answers)


def _long_silent() -> Q:
    return Q(silent_since__lte=Now() - SILENCE)


def _all_required(instance: Instance, answers: Mapping[str, bool]) -> bool:
    required = (service["name"] for service in instance.plan.image.services if service.get("required", True))
    return all(answers.get(name, False) for name in required)


def _mark_heard(instance: Instance, answers: dict[str, bool]) -> None:
    rows = Instance.objects.filter(pk=instance.pk, state=instance.state)
    rows.update(silent_since=None, services_up=answers)
    # heard again: the next look, which is due now, makes it active
    rows.filter(Q(ready_at__isnull=True) | Q(ready_at__lte=F("called_at"))).update(ready_at=Now(), due_at=Now())


def _mark_silent(instance: Instance, answers: dict[str, bool]) -> None:
    """Each write asks again for how long: another gateway may hear it at this moment."""
    rows = Instance.objects.filter(pk=instance.pk, state=instance.state)
    rows.update(silent_since=Coalesce("silent_since", Now()), services_up=answers)
    if not rows.filter(_long_silent()).update(ready_at=None):
        return
    step = decide(State(instance.state), Target(instance.target), Phase.RUNNING)
    if instance.state == State.ACTIVE and step.state is State.UNAVAILABLE:
        detail = reasons.sentence(step.reason)
        fields: dict[str, Any] = {"state": step.state, "reason": step.reason, "detail": detail}
        # under a lease it is the worker's; the next report says it again
        _write(instance, event="silent", only=lease_free() & _long_silent(), **fields)


def lose_sight(instance: Instance) -> bool:
    """Note that the provider has given no usable answer twice: what was active is unavailable, nothing else changes."""
    step = decide(State(instance.state), Target(instance.target), Phase.UNKNOWN)
    if step.state is State(instance.state):
        return False
    detail = reasons.sentence(step.reason)
    return _write(instance, event="observed", only=lease_free(), state=step.state, reason=step.reason, detail=detail)


def spare(instance: Instance, seconds: float) -> None:
    """Push a running deadline on while the provider gives no answer: an outage is nobody's slow start."""
    Instance.objects.filter(pk=instance.pk, deadline_at__lt=Now() + timedelta(seconds=seconds)).update(
        deadline_at=Now() + timedelta(seconds=seconds)
    )
