"""Tickets and gateway sessions: who may enter an instance's origin, and for how long.

A ticket is taken once, by one conditional UPDATE. A gateway session lives as long as the sign-in it came from, the
membership and the instance do; nothing marks it dead, `living()` says it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import DateTimeField, Exists, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce, Least

from auth import access, roles
from auth.models import Session, User
from instances.lifecycle import State
from instances.models import WITHOUT_EXPERIMENT, GatewaySession, Instance, Member, Ticket
from instances.routes import roles_that_open
from portal.lib.clock import Now
from portal.lib.hashing import digest, random_secret

TICKET_LIFE = timedelta(seconds=30)
#: how long a gateway may go on without a renewal
SESSION_LIFE = timedelta(minutes=5)


class Refused(Exception):
    """No such ticket, or used, expired, of another instance, or the right is gone."""


class OtherNonce(Refused):
    """The ticket is good, but was asked for with another nonce (another tab, or another browser)."""


def issue_ticket(session: Session, user: User, instance: Instance, role: str, nonce_hash: str) -> str:
    """Return a fresh ticket; only its hash is kept."""
    secret = random_secret()
    Ticket.objects.create(
        secret_hash=digest(secret),
        nonce_hash=nonce_hash,
        login_session=session,
        user=user,
        instance=instance,
        role=role,
        expires_at=Now() + TICKET_LIFE,
    )
    return secret


def redeem(secret: str, nonce_hash: str, slug: str) -> GatewaySession:
    """Exchange a ticket for a session, its instance with it; raises Refused or OtherNonce. Of many, one succeeds."""
    instance = Instance.objects.filter(slug=slug).first()
    if instance is None:
        raise Refused
    # columns of the row alone: a joined condition would be checked before the lock
    good = Ticket.objects.filter(
        secret_hash=digest(secret), instance_id=instance.pk, used_at__isnull=True, expires_at__gt=Now()
    )
    with transaction.atomic():
        if not good.filter(nonce_hash=nonce_hash).update(used_at=Now()):
            raise OtherNonce if good.exists() else Refused
        ticket = Ticket.objects.get(secret_hash=digest(secret))
        session = GatewaySession.objects.create(
            login_session_id=ticket.login_session_id,
            user_id=ticket.user_id,
            instance=instance,
            role=ticket.role,
            expires_at=Now() + SESSION_LIFE,
        )
        GatewaySession.objects.filter(pk=session.pk).update(expires_at=_expiry(ticket.login_session_id, instance.pk))
    found = living().filter(pk=session.pk).select_related("instance").first()
    if found is None:  # the right went between ticket and redemption
        GatewaySession.objects.filter(pk=session.pk).update(revoked_at=Now(), updated_at=Now())
        raise Refused
    return found


def _expiry(login_session: Any, instance: Any) -> Any:
    """Five minutes from now, or earlier when the sign-in ends, or the role by which the instance was made.

    Now, where that role has ended since somebody looked: LEAST passes over what is null.
    """
    sign_in = Session.objects.filter(pk=login_session).values("expires_at")
    until = roles.until_in_sql(WITHOUT_EXPERIMENT, OuterRef("owner_id"), OuterRef("facility_id"))
    role = Instance.objects.filter(pk=instance, by_role=True).values(end=Coalesce(until, Now()))
    return Least(Subquery(sign_in), Subquery(role), Now() + SESSION_LIFE, output_field=DateTimeField())


def living() -> QuerySet[GatewaySession]:
    """Return the sessions that count: sign-in alive, user active, still a member in this role, instance usable."""
    return GatewaySession.objects.filter(
        Exists(access.live_sessions().filter(pk=OuterRef("login_session_id"), user_id=OuterRef("user_id"))),
        Exists(
            Member.objects.filter(
                instance_id=OuterRef("instance_id"), user_id=OuterRef("user_id"), role=OuterRef("role")
            )
        ),
        Exists(Instance.objects.usable().filter(pk=OuterRef("instance_id"))),
        role__in=roles_that_open("jupyter"),
        revoked_at__isnull=True,
    ).exclude(instance__state__in=(State.DELETING, State.DELETED))


def unexpired() -> QuerySet[GatewaySession]:
    """Return the sessions that a gateway may still honour without asking."""
    return GatewaySession.objects.filter(expires_at__gt=Now())


def withdrawn() -> QuerySet[GatewaySession]:
    """Return the sessions that a gateway may still honour, and must not."""
    return unexpired().exclude(pk__in=living().values("pk"))


def renew(asked: dict[uuid.UUID, bool]) -> tuple[list[GatewaySession], list[uuid.UUID]]:
    """Prolong sessions (sid → used since last time); return those that live and the sids that do not.

    Use of an instance is use of the sign-in behind it.
    """
    alive = list(living().filter(sid__in=asked.keys()).select_related("instance"))
    GatewaySession.objects.filter(pk__in=[session.pk for session in alive]).update(
        expires_at=_expiry(OuterRef("login_session_id"), OuterRef("instance_id")),
        version=F("version") + 1,
        updated_at=Now(),
    )
    for login_session in {session.login_session_id for session in alive if asked[session.sid]}:
        access.touch(login_session)
    renewed = list(GatewaySession.objects.filter(pk__in=[session.pk for session in alive]).select_related("instance"))
    return renewed, sorted(asked.keys() - {session.sid for session in renewed})


def rows(sessions: Collection[GatewaySession]) -> list[dict[str, Any]]:
    """Return sessions as the gateway reads them; their instances must be loaded."""
    return [
        {
            "sid": str(session.sid),
            "slug": session.instance.slug,
            "instance": str(session.instance.uid),
            "role": session.role,
            "epoch": session.instance.secret_epoch,
            "expires": session.expires_at.timestamp(),
            "version": session.version,
        }
        for session in sessions
    ]
