"""Forgetting somebody: the wish, and its carrying out by an operator, or by the portal (auth/unused.py).

What stays is a tombstone: the user's id, and `deleted-<random>` for all names. Accounting and audit stay under it.
"""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Q, Value

from auth import access, identities, notices, registry, roles
from auth.claims import clean
from auth.models import ErasureRequest, Person, Session, User
from auth.registry import Hindrance
from portal import audit
from portal.audit import AuditEvent
from portal.lib.clock import Now
from portal.lib.errors import Conflict, Forbidden
from portal.lib.slugs import random_slug


class ErasureHindered(Conflict):
    code = "erasure-hindered"
    message = "This account cannot be erased yet."
    next_step = "End first what still belongs to it."

    def __init__(self, hindrances: list[Hindrance]) -> None:
        self.hindrances = hindrances
        super().__init__(f"{self.message} It still has: {', '.join(one.what for one in hindrances)}.")


# ---- the wish ----
def asked(user: User) -> ErasureRequest | None:
    """Return the newest request; it says how far it is."""
    return ErasureRequest.objects.filter(user=user).order_by("-pk").first()


def ask(user: User, reason: str = "") -> ErasureRequest:
    """Note somebody's wish to be forgotten; one is open at a time."""
    try:
        with transaction.atomic():
            request = ErasureRequest.objects.create(user=user, reason=clean(reason, 500))
            audit.record("erasure_asked", actor=user, about=("user", user.uid))
    except IntegrityError:
        raise Conflict("You have asked already.") from None
    return request


def withdraw(user: User) -> None:
    with transaction.atomic():
        open_one = ErasureRequest.objects.filter(user=user, outcome=ErasureRequest.Outcome.OPEN)
        if not open_one.update(outcome=ErasureRequest.Outcome.WITHDRAWN, decided_at=Now()):
            raise Conflict("There is no open request.")
        audit.record("erasure_withdrawn", actor=user, about=("user", user.uid))


def refuse(request: ErasureRequest, *, by: User, answer: str) -> None:
    """Say no to a wish, and why; the person reads it."""
    _require(request.user, by)
    with transaction.atomic():
        open_one = ErasureRequest.objects.filter(pk=request.pk, outcome=ErasureRequest.Outcome.OPEN)
        refused = ErasureRequest.Outcome.REFUSED
        if not open_one.update(outcome=refused, answer=clean(answer, 500), decided_at=Now(), decided_by=by):
            raise Conflict("This request is no longer open.")
        notices.tell(request.user, f"Your request to be erased was refused: {answer}")
        audit.record("erasure_refused", actor=by, about=("user", request.user.uid), on_behalf_of=request.user)


# ---- carrying it out ----
def erase(user: User, by: User | None, *, reason: str = "") -> str:
    """Forget a user; return the pseudonym that stays. Nothing is done while something stands in the way.

    `by` None is the portal itself, for the reason given.
    Of two at once one does it. What the registry says is deleted is; so are sessions, tokens and rights, at once.
    """
    if by is not None:
        _require(user, by)
    with transaction.atomic():
        registry.lock(user)  # first, as whoever makes something new does
        row = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if row.erased_at is not None:
            raise Conflict("This user is erased already.")
        if found := registry.hindrances(row):
            raise ErasureHindered(found)
        pseudonym = f"deleted-{random_slug(12)}"
        for identity in row.identities.all():
            identities.remember_erased(identity, suspended=row.suspended_at is not None)
        access.end(Session.objects.filter(user=row))
        _rename_in_audit(row, pseudonym)
        for held in registry.everything():
            if held.erase is not None:
                held.erase(held.of(row))
        _bury(row, pseudonym)
        ErasureRequest.objects.filter(user=row, outcome=ErasureRequest.Outcome.OPEN).update(
            outcome=ErasureRequest.Outcome.ERASED, decided_at=Now(), decided_by=by
        )
        audit.record("user_erased", actor=by, about=("user", row.uid), reason=reason)
    return pseudonym


def _require(user: User, by: User) -> None:
    """Let those who may erase; everybody else's attempt is noted."""
    if by.pk == user.pk or not roles.may(by, "erase-user", None):
        audit.record("user_erased", actor=by, about=("user", user.uid), result=AuditEvent.Result.REFUSED)
        raise Forbidden


def _bury(user: User, pseudonym: str) -> None:
    User.objects.filter(pk=user.pk).update(
        handle=pseudonym,
        display_name=pseudonym,
        email="",
        email_verified=False,
        is_active=False,
        suspended_reason="",
        aup_version="",
        erased_at=Now(),
        updated_at=Now(),
    )


def _rename_in_audit(user: User, pseudonym: str) -> None:
    """Put the pseudonym in the place of names; the acts stay as they are (the trigger sees to it)."""
    name = Value(pseudonym)
    AuditEvent.objects.filter(actor_uid=user.uid).update(actor_name=name, identity="")
    AuditEvent.objects.filter(for_uid=user.uid).update(for_name=name)
    persons = Person.objects.filter(user=user).select_related("facility")
    numbers = [f"{person.facility.slug}/{person.external_id}" for person in persons]
    telling = Q(object_type="person", object_id__in=numbers) | Q(object_type="home")
    theirs = AuditEvent.objects.filter(Q(actor_uid=user.uid) | Q(for_uid=user.uid))
    theirs.filter(telling).update(object_id=name)
