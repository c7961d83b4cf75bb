"""A second way to sign in: an identity is added to a user by its owner's own two sign-ins and a yes, or taken away."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.db import IntegrityError, transaction
from django.db.models.functions import Lower

from auth import access, identities, notices, providers
from auth.models import Identity, Session, User
from portal import audit
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.errors import Conflict, NotFound

#: where the callback leaves the identity that was just shown
KEY = "pending_link"
LASTS = timedelta(minutes=5)


class IdentityTaken(Conflict):
    code = "identity-taken"
    message = "This account signs somebody else in."
    next_step = "If both are yours, ask an operator of the portal: two users are never joined by themselves."


class LastIdentity(Conflict):
    code = "last-identity"
    message = "This is your only way to sign in."
    next_step = "Add another one first."


class NothingToLink(Conflict):
    code = "nothing-to-link"
    message = "There is no account to add, or it was shown more than five minutes ago."
    next_step = "Begin again on the page with your sign-ins."


@dataclass(frozen=True)
class Pending:
    """An identity whose owner signed in at its provider a moment ago, to add it."""

    provider: str
    issuer: str
    subject: str
    name: str
    email: str

    @property
    def title(self) -> str:
        return title_of(self.provider)


def title_of(slug: str) -> str:
    """What people call a provider; one that is no longer configured goes by its slug."""
    try:
        return providers.get(slug).title
    except NotFound:
        return slug


def pending(session: SessionBase) -> Pending:
    """Return what the callback left in this session; NothingToLink when there is nothing, or it is too old."""
    said: Any = session.get(KEY)
    try:
        at = datetime.fromisoformat(said["at"])
        found = Pending(*(said[name] for name in ("provider", "issuer", "subject", "name", "email")))
    except (KeyError, ValueError, TypeError):
        raise NothingToLink from None
    if clock.now() - (at if at.tzinfo else at.replace(tzinfo=UTC)) > LASTS:
        raise NothingToLink
    return found


def link(user: User, wanted: Pending) -> Identity:
    """Add an identity to a user. One that is somebody else's is refused, and its owner is told."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        owner = _owner(wanted)
        identity = None if owner else _add(user, wanted)
    if identity is None:
        _refuse(user, wanted, owner or _owner(wanted))
        raise Conflict("This account is one of yours already.") if owner == user else IdentityTaken
    return identity


def _owner(wanted: Pending) -> User | None:
    """Whose it is, in whatever letter case: subjects differ in more than that."""
    found = Identity.objects.alias(folded=Lower("subject")).filter(issuer=wanted.issuer, folded=wanted.subject.lower())
    known = found.select_related("user").first()
    return known.user if known else None


def _add(user: User, wanted: Pending) -> Identity | None:
    if identities.is_barred(wanted.issuer, wanted.subject):
        return None
    try:
        with transaction.atomic():
            identity = Identity.objects.create(
                user=user, provider=wanted.provider, issuer=wanted.issuer, subject=wanted.subject
            )
    except IntegrityError:  # somebody signed in with it for the first time just now
        return None
    notices.tell(user, f"An account at {wanted.title} was added to the ways in which you sign in.")
    audit.record("identity_linked", actor=user, about=("identity", identity.uid), provider=wanted.provider)
    return identity


def _refuse(user: User, wanted: Pending, owner: User | None) -> None:
    if owner and owner != user:
        notices.tell(
            owner,
            f"Somebody signed in with your account at {wanted.title} and tried to add it to another user of this "
            "portal. It was refused. If that was not you, somebody knows how to sign in there as you.",
        )
    audit.record(
        "identity_linked",
        actor=user,
        about=("provider", wanted.provider),
        result=AuditEvent.Result.REFUSED,
        reason="already-mine" if owner == user else "taken" if owner else "barred",
    )


def unlink(user: User, identity: Identity) -> None:
    """Take one of a user's identities away; the sessions that it opened end. The last one stays."""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        row = Identity.objects.filter(pk=identity.pk, user=user).first()
        if row is None:
            raise NotFound
        last = not Identity.objects.filter(user=user).exclude(pk=row.pk).exists()
        if not last:
            access.end(Session.objects.filter(identity=row))
            row.delete()
            notices.tell(user, f"Your account at {title_of(row.provider)} no longer signs you in here.")
        audit.record(
            "identity_unlinked",
            actor=user,
            about=("identity", row.uid),
            result=AuditEvent.Result.REFUSED if last else AuditEvent.Result.DONE,
            reason="last-identity" if last else "",
            provider=row.provider,
        )
    if last:
        raise LastIdentity
