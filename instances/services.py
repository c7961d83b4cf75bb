"""The verbs of people. Pages, API and command line call these and nothing below; each leaves an audit row."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from django.db import transaction

from auth import access, roles
from auth.models import Facility, User
from auth.roles import InstanceRole
from experiments.models import Experiment
from instances import drain, homes, quotas, tasks, transitions
from instances.errors import (
    HomeNotDeleted,
    KeyUsed,
    NeedsExperiment,
    NotNow,
    RoleEnded,
    SeveralFacilities,
    WrongFacility,
)
from instances.lifecycle import SERVED, State, Target
from instances.models import WITHOUT_EXPERIMENT, Home, Instance, Member, Plan, Provider
from instances.providers.base import ProviderError
from portal import audit
from portal.lib.errors import BadRequest, Forbidden, NotFound

_NAME_LENGTH = 100
_KEY_LENGTH = 64
_SEE_STATE = "Reload the page and look at the present state."


@transaction.atomic
def request_instance(
    user: User, *, plan: Plan, experiments: Iterable[uuid.UUID], name: str, idempotency_key: str = ""
) -> Instance:
    """Make an instance of a plan for experiments that the user may see, within the user's quota.

    The same key gives the same instance again, two requests at once included, and KeyUsed once that was deleted; an
    empty key is none.
    """
    name = _clean_name(name)
    if len(idempotency_key) > _KEY_LENGTH:
        raise BadRequest("The idempotency key is longer than 64 characters.")
    account = quotas.lock_account(user)  # from here on a second request of this user waits
    if access.active_user(user.pk) is None:  # suspended or erased since this request came in
        raise Forbidden
    known = Instance.objects.filter(owner=user, idempotency_key=idempotency_key).first() if idempotency_key else None
    if known is not None:
        if known.state == State.DELETED:
            raise KeyUsed
        return known
    chosen = _visible(user, experiments)
    facility = _facility(user, plan, chosen)
    provider = _provider(plan, facility)
    drain.check(provider)
    quotas.check_and_reserve(user, account)
    instance = Instance.objects.create(
        name=name,
        owner=user,
        facility=facility,
        plan=plan,
        provider=provider,
        home=homes.get_or_make(user, facility, provider),
        idempotency_key=idempotency_key,
        by_role=not chosen,
    )
    instance.experiments.add(*chosen)
    Member.objects.create(instance=instance, user=user, role=InstanceRole.OWNER)
    transitions.born(instance, actor=user)
    audit.record(
        "instance.request",
        actor=user,
        about=("instance", instance.uid),
        plan=plan.slug,
        facility=facility.slug,
        experiments=[str(experiment.uid) for experiment in chosen],
    )
    tasks.wake(instance.pk)
    return instance


def _clean_name(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > _NAME_LENGTH or not name.isprintable():
        raise BadRequest(f"A name has 1 to {_NAME_LENGTH} characters that can be printed.")
    return name


def _visible(user: User, uids: Iterable[uuid.UUID]) -> list[Experiment]:
    """Return the experiments; one that is not there and one that the user may not see get the same answer."""
    wanted = set(uids)
    found = list(Experiment.objects.visible_to(user).filter(uid__in=wanted).select_related("proposal__facility"))
    if len(found) != len(wanted):
        raise NotFound("One of the experiments is not there, or it is not open to you.")
    return found


def _facility(user: User, plan: Plan, experiments: list[Experiment]) -> Facility:
    facilities = {experiment.proposal.facility_id: experiment.proposal.facility for experiment in experiments}
    if len(facilities) > 1:
        raise SeveralFacilities
    if facilities:
        return next(iter(facilities.values()))
    facility = plan.image.provider.facility
    if facility is None or not roles.may(user, WITHOUT_EXPERIMENT, facility):
        raise NeedsExperiment
    return facility


def _provider(plan: Plan, facility: Facility) -> Provider:
    """Return what carries a plan's instances, as it is now."""
    provider = Provider.objects.filter(enabled=True, images__plans__pk=plan.pk, images__plans__enabled=True).first()
    if provider is None:
        raise NotFound("This plan is not offered.", next_step="Choose one of the plans on the page.")
    if provider.facility_id not in (None, facility.pk):
        raise WrongFacility
    return provider


# ---- verbs on an instance ----
def _allowed(instance: Instance, by: User, action: str) -> Instance:
    """Return the row locked; NotFound for a stranger, Forbidden for a member whose role does not suffice."""
    row = Instance.objects.alive().select_for_update(of=("self",)).filter(pk=instance.pk).first()
    member = Member.objects.filter(instance=instance, user=by).first()
    if row is None:
        raise NotFound
    helps = action == "stop" and roles.may(by, "stop-any-instance", row.facility)
    if member is None and not helps:
        raise NotFound
    if not helps and not roles.may_on_instance(member.role if member else None, action):
        raise Forbidden
    if action in ("start", "reboot", "retry") and not Instance.objects.usable().filter(pk=row.pk).exists():
        raise RoleEnded
    return row


def _refuse_unless(fits: bool, sentence: str) -> None:
    if not fits:
        raise NotNow(sentence, next_step=_SEE_STATE)


def _record(row: Instance, by: User, action: str) -> Instance:
    """Note the act; who neither owns nor uses the instance has acted for its owner."""
    own = Member.objects.filter(instance=row, user=by, role__in=(InstanceRole.OWNER, InstanceRole.USER)).exists()
    for_ = None if own else row.owner
    audit.record(f"instance.{action}", actor=by, about=("instance", row.uid), on_behalf_of=for_, state=row.state)
    tasks.wake(row.pk)
    return row


@transaction.atomic
def start(instance: Instance, *, by: User) -> Instance:
    """Start a stopped instance, or take one out of error; one that is to be active already is left as it is."""
    row = _allowed(instance, by, "start")
    _refuse_unless(row.target != Target.DELETED, "This instance is being deleted.")
    if row.target == Target.ACTIVE and row.state != State.ERROR:
        return row
    drain.check(row.provider)
    if row.state == State.ERROR:
        transitions.retry(row, Target.ACTIVE, event="start", actor=by)
    else:
        transitions.aim(row, Target.ACTIVE, event="start", actor=by)
    return _record(row, by, "start")


@transaction.atomic
def stop(instance: Instance, *, by: User) -> Instance:
    """Stop an instance and keep its machine's disk; a stopped one is left as it is."""
    row = _allowed(instance, by, "stop")
    _refuse_unless(row.target != Target.DELETED, "This instance is being deleted.")
    _refuse_unless(row.state != State.ERROR, "This instance has an error. Retry or delete it.")
    if row.target == Target.STOPPED:
        return row
    transitions.aim(row, Target.STOPPED, event="stop", actor=by)
    return _record(row, by, "stop")


@transaction.atomic
def reboot(instance: Instance, *, by: User) -> Instance:
    """Reboot a running instance, once."""
    row = _allowed(instance, by, "reboot")
    runs = row.state in SERVED and row.target == Target.ACTIVE
    _refuse_unless(runs, "Only a running instance can be rebooted.")
    if row.reboot_asked_at is not None:
        return row
    transitions.ask_reboot(row, actor=by)
    return _record(row, by, "reboot")


@transaction.atomic
def retry(instance: Instance, *, by: User) -> Instance:
    """Try again what ended in an error: the stop if that was wanted and the machine is there, else the start."""
    row = _allowed(instance, by, "retry")
    _refuse_unless(row.state == State.ERROR and row.target != Target.DELETED, "Only an error can be retried.")
    stopping = row.target == Target.STOPPED and row.reason not in ("vanished", "failed")
    if not stopping:
        drain.check(row.provider)
    transitions.retry(row, Target.STOPPED if stopping else Target.ACTIVE, event="retry", actor=by)
    return _record(row, by, "retry")


@transaction.atomic
def delete(instance: Instance, *, by: User) -> Instance:
    """Delete the machine and its scratch, never the home; asking twice is asking once."""
    row = _allowed(instance, by, "delete")
    if row.target == Target.DELETED:
        return row
    transitions.aim(row, Target.DELETED, event="delete", actor=by)
    return _record(row, by, "delete")


# ---- homes ----
def delete_home(home: Home, *, by: User) -> None:
    """Delete a home of one's own with all files in it; refused while an instance that is not deleted uses it."""
    if not Home.objects.filter(pk=home.pk, user=by).exists():
        raise NotFound
    about = ("home", home.key)
    since = homes.begin_deleting(home)
    audit.record("home.delete", actor=by, about=about)
    try:
        homes.finish_deleting(home)  # the provider is asked outside any transaction
    except ProviderError as error:
        homes.reopen(home, since)
        audit.record("home.delete", actor=by, about=about, result=audit.AuditEvent.Result.FAILED, reason=error.code)
        raise HomeNotDeleted from error
