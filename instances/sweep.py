"""What is looked at for all instances of a provider at once: machines, leftovers, homes, rows that have expired.

One list call a provider and sweep. Absence from a list proves nothing: it only causes a direct look.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import datetime, timedelta

import structlog
from django.conf import settings

from auth import retention
from instances import clouds, reconcile, transitions
from instances.lifecycle import MOVING, Phase, State, Step
from instances.models import GatewaySession, Home, Instance, Leftover, Measured, Provider, Ticket
from instances.providers.base import Observation, ProviderError
from portal.lib import clock
from portal.lib.clock import Now

log = structlog.get_logger("instances.sweep")

EVERY = timedelta(seconds=4)
#: how long a machine without a live row is left alone after it was first seen
GRACE = timedelta(seconds=60)

Runner = Callable[[int, Observation | None], object]


def sweep(row: Provider, runner: Runner = reconcile.run) -> None:
    """Compare all machines of a provider with their rows, and hand every instance that has to move to `runner`."""
    at = clock.now()
    try:
        seen = [replace(observation, at=at) for observation in clouds.cloud_of(row).observe()]
    except Exception as error:
        _no_answer(row, error)
        return
    Provider.objects.filter(pk=row.pk).update(last_seen_at=Now(), last_error="")
    by_name = {observation.name: observation for observation in seen}
    current: set[str] = set()
    for instance in Instance.objects.alive().filter(provider=row):
        current.add(instance.machine_name)
        _compare(instance, by_name.get(instance.machine_name), at, runner)
    _set_aside(row, [o for o in seen if o.name not in current])


def _no_answer(row: Provider, error: Exception) -> None:
    """Keep the error; what was active is unavailable from the second failure in a row."""
    log.warning(
        "sweep failed", provider=row.name, error=str(error)[:500], exc_info=not isinstance(error, ProviderError)
    )
    again = bool(row.last_error)
    Provider.objects.filter(pk=row.pk).update(last_error=str(error)[:500] or type(error).__name__)
    if again:
        for instance in Instance.objects.filter(provider=row, state=State.ACTIVE):
            transitions.lose_sight(instance)


def _compare(instance: Instance, seen: Observation | None, at: datetime, runner: Runner) -> None:
    if instance.leased_until is not None and instance.leased_until > at:
        return
    if seen is None or not reconcile.is_about(instance, seen):
        forgotten = instance.state in MOVING and instance.due_at is None
        if (instance.ref and instance.state != State.ERROR) or forgotten:
            runner(instance.pk, None)
        return
    if instance.called_at is not None and at <= instance.called_at:
        return
    step = reconcile.decide_on(instance, seen.phase, at)
    if _moves(instance, step, at) or _tells_more(instance, seen):
        runner(instance.pk, seen)


def _moves(instance: Instance, step: Step, at: datetime) -> bool:
    new_reason = bool(step.reason) and step.reason != instance.reason and step.state is not State.ERROR
    calls = step.call is not None and not _waits(instance, at)
    return step.state != instance.state or calls or step.target is not None or new_reason


def _waits(instance: Instance, at: datetime) -> bool:
    """Whether its call was not done for a reason that a look does not remove: it is tried again in its own time."""
    failed = not instance.last_call and instance.reason not in ("", "provider-unavailable")
    return failed and instance.due_at is not None and instance.due_at > at


def _tells_more(instance: Instance, seen: Observation) -> bool:
    if seen.phase is not Phase.RUNNING or instance.state == State.ERROR:
        return False
    endpoints = [asdict(endpoint) for endpoint in seen.endpoints]
    return endpoints != instance.endpoints or (bool(seen.reason) and seen.reason != instance.reason)


# ---- machines without a live row ----
def _set_aside(row: Provider, strays: Iterable[Observation]) -> None:
    """Set machines of deleted instances and of earlier attempts aside; what no row knows is reported, never touched."""
    for stray in strays:
        instance = _row_of(stray)
        if instance is None or stray.deployment != settings.DEPLOYMENT_ID:
            log.warning("orphan", provider=row.name, ref=stray.ref, name=stray.name, deployment=stray.deployment)
            continue
        if instance.state != State.DELETED and instance.machine_name == stray.name:
            continue
        Leftover.objects.get_or_create(
            provider=row, ref=stray.ref, defaults={"instance": instance, "due_at": clock.now() + GRACE}
        )


def _row_of(stray: Observation) -> Instance | None:
    try:
        return Instance.objects.filter(uid=uuid.UUID(stray.instance)).first()
    except ValueError:
        return None


def clear_leftovers() -> None:
    """Delete the leftovers that are due; each is looked at first, and gone from the table only when it is missing."""
    for leftover in Leftover.objects.select_related("provider", "instance").filter(due_at__lte=Now())[:20]:
        mine = Leftover.objects.filter(pk=leftover.pk, due_at=leftover.due_at)
        if mine.update(due_at=Now() + timedelta(seconds=10)):
            try:
                _clear(leftover)
            except Exception as error:
                log.warning("leftover stays", ref=leftover.ref, error=str(error)[:500])


def _clear(leftover: Leftover) -> None:
    cloud = clouds.cloud_of(leftover.provider)
    seen = cloud.look(leftover.ref)
    if seen.phase is Phase.MISSING:
        leftover.delete()
        return
    instance = leftover.instance
    in_use = instance.state != State.DELETED and seen.name == instance.machine_name
    if in_use or seen.deployment != settings.DEPLOYMENT_ID:
        log.error("leftover is none", ref=leftover.ref, name=seen.name, deployment=seen.deployment)
        leftover.delete()
        return
    log.info("deleting leftover", ref=leftover.ref, instance=str(instance.uid))
    cloud.delete(leftover.ref)


# ---- homes and rows ----
def measure_homes(row: Provider) -> None:
    """Ask how full each home is; a home that cannot be measured keeps its last figure."""
    cloud = clouds.cloud_of(row)
    for home in Home.objects.filter(provider=row, deleting_at__isnull=True):
        try:
            usage = cloud.home_usage(clouds.home_of(home))
        except ProviderError as error:
            log.warning("home not measured", home=home.key, error=str(error)[:500])
            continue
        found: dict[str, object] = {"limit": usage.limit or home.limit}
        if usage.measured_at is not None:
            found |= {"used": usage.used, "measured_at": usage.measured_at}
        Home.objects.filter(pk=home.pk).update(**found)


def forget_expired() -> None:
    """Delete rows a day after they have lost all meaning."""
    day_ago = clock.now() - timedelta(days=1)
    Ticket.objects.filter(expires_at__lt=day_ago).delete()
    GatewaySession.objects.filter(expires_at__lt=day_ago).delete()
    Measured.objects.filter(at__lt=day_ago).delete()
    retention.forget()
