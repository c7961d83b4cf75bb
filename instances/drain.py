"""A provider that is to be emptied: nothing new starts on it, people are told, and an operator sees what is left.

Nothing is stopped or moved by itself: what runs goes on until its people or an operator end it.
"""

from __future__ import annotations

from django.db import transaction
from django.utils.timesince import timesince

from auth.models import User
from instances.errors import Draining
from instances.lifecycle import MOVING, SERVED, State, Target
from instances.models import Instance, Provider
from portal import audit
from portal.lib.clock import Now

#: of a provider that carries more the rest follows when these are gone
MOST_LISTED = 500


@transaction.atomic
def begin(provider: Provider, *, by: User, because: str) -> None:
    """Let nothing new start on a provider; of one that is drained already the words change."""
    rows = Provider.objects.filter(pk=provider.pk)
    rows.filter(draining_at__isnull=True).update(draining_at=Now())
    rows.update(draining_because=because)
    audit.record("provider.drain", actor=by, about=("provider", provider.name), reason=because)


@transaction.atomic
def end(provider: Provider, *, by: User) -> None:
    """Let things start on it again."""
    Provider.objects.filter(pk=provider.pk).update(draining_at=None, draining_because="")
    audit.record("provider.open", actor=by, about=("provider", provider.name))


def check(provider: Provider) -> None:
    """Raise Draining where nothing may be started; the row is to be a fresh one."""
    if provider.is_draining:
        raise Draining(sentence(provider))


def sentence(provider: Provider) -> str:
    """Return what people are told."""
    because = provider.draining_because.strip()
    return f"No instances are started here for now{f': {because}' if because else '.'}"


def left(provider: Provider) -> list[tuple[Instance, str]]:
    """Return the instances that are still on a provider, each with what has to happen before it is gone from there."""
    on_it = Instance.objects.alive().filter(provider=provider).select_related("owner")
    rows = on_it.order_by("state", "-last_active_at")[:MOST_LISTED]
    return [(instance, blocks(instance)) for instance in rows]


def blocks(instance: Instance) -> str:
    """Return what keeps an instance on its provider."""
    if instance.reason == "node-lost":
        return "its computer does not answer, and it may still be running there"
    if instance.target == Target.DELETED:
        return instance.detail or "is being deleted"
    if instance.state in SERVED:
        used = f"last used {timesince(instance.last_active_at)} ago" if instance.last_active_at else "use not known"
        return f"runs; {used}"
    if State(instance.state) in MOVING:
        return "on its way; look again"
    return "does not run; its disk is here until its owner deletes it"
