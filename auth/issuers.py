"""When a provider changes its issuer: its identities move in one supervised step, never by themselves.

(EGI Check-in did so when it moved to Keycloak.)
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Lower

from auth import roles
from auth.models import Identity, Session, User
from auth.providers import Provider
from portal import audit
from portal.lib.errors import Conflict


@dataclass(frozen=True)
class Move:
    """What a move would do; counted, not done."""

    old: str
    provider: Provider
    identities: int
    users: int
    sessions: int
    #: subjects that have signed in at the new issuer already, in any letter case: whose account is right?
    collisions: tuple[str, ...]


def plan(old: str, provider: Provider) -> Move:
    moving = _of(old)
    known = Identity.objects.alias(folded=Lower("subject")).filter(issuer=provider.issuer)
    meeting = moving.alias(mine=Lower("subject")).filter(Exists(known.filter(folded=OuterRef("mine"))))
    return Move(
        old,
        provider,
        moving.count(),
        moving.values("user").distinct().count(),
        Session.objects.filter(identity__in=moving, ended_at__isnull=True).count(),
        tuple(meeting.order_by("subject").values_list("subject", flat=True)),
    )


def move(old: str, provider: Provider, *, by: User, expected: int) -> int:
    """Give the identities of the old issuer to the new one, all or none; `expected` is how many were confirmed.

    Subjects stay what they are: whoever runs this knows that the provider kept them. It decides over everybody's
    account, so it asks for the right to give roles on the whole portal.
    """
    roles.require(by, "grant-roles", None)
    if old == provider.issuer:
        raise Conflict("The old and the new issuer are the same.")
    with transaction.atomic():
        locked = list(_of(old).select_for_update().values_list("pk", flat=True))
        collisions = plan(old, provider).collisions
        if collisions:
            raise Conflict(f"{len(collisions)} of the subjects have signed in at the new issuer already.")
        if len(locked) != expected:
            raise Conflict(f"There are {len(locked)} identities now, not {expected}: look again.")
        Identity.objects.filter(pk__in=locked).update(issuer=provider.issuer, provider=provider.slug)
        about = ("provider", provider.slug)
        audit.record("issuer_moved", actor=by, about=about, old=old, new=provider.issuer, identities=expected)
    return expected


def _of(issuer: str) -> QuerySet[Identity]:
    return Identity.objects.filter(issuer=issuer)
