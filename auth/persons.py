"""Ties people who sign in to the persons whom facilities' user offices know.

By a claim of a provider that is authoritative for the facility, by a one-time link that the person was sent, or by an
operator; never by e-mail, name or ORCID. A person is one user's, and a user is one person at each facility.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.urls import reverse

from auth import roles
from auth.models import Facility, Person, PersonLink, RoleGrant, User
from auth.roles import Role
from portal import audit
from portal.audit import AuditEvent
from portal.lib import hashing
from portal.lib.clock import Now
from portal.lib.errors import Blame, Conflict, Forbidden, PortalError

log = structlog.get_logger("auth.persons")

#: the source of the grants that settings.PERSON_ROLES makes; others are left alone
FROM_SETTINGS = "PERSON_ROLES"
#: how long a link may be redeemed
LINK_LIFE: Final = timedelta(days=7)


class LinkDead(PortalError):
    """One answer for all links that are of no use."""

    code, status, blame = "person-link-dead", 404, Blame.USER
    message = "This link is not valid: it was used, withdrawn or replaced, or is too old."
    next_step = "Ask your user office for a new one."


class TiedAlready(Conflict):
    code = "person-tied"
    message = "This person of the user office belongs to another account, or this account to another person."
    next_step = "Sign in with the account that you used before, or ask an operator of the portal."


# ---- by claim ----
def tie_by_claim(user: User, facility_slug: str, external_id: str, name: str) -> Person | None:
    """Tie the user to the person with this id (empty: none was said); a person who is somebody else's is not moved.

    The claim comes from a provider that is authoritative for the facility, so an id that the sync has not brought yet
    makes the person.
    """
    if not external_id:
        return None
    known = user.persons.select_related("facility").filter(facility__slug=facility_slug, external_id=external_id)
    if (person := known.first()) is not None:
        return person
    facility = Facility.objects.filter(slug=facility_slug).first()
    if facility is None:
        log.warning("no such facility", facility=facility_slug)
        return None
    person, _ = Person.objects.get_or_create(facility=facility, external_id=external_id, defaults={"name": name})
    if person.user_id == user.pk:
        return person
    if not _take(person, user, Person.TiedBy.CLAIM):
        refused = AuditEvent.Result.REFUSED
        audit.record("person_tied", actor=user, about=about(person), result=refused, reason="tied-to-another")
        return None
    audit.record("person_tied", actor=user, about=about(person), by=Person.TiedBy.CLAIM.value)
    person.refresh_from_db()
    return person


def grant_configured_roles(user: User, facility_slug: str, person: Person | None) -> None:
    """Give the roles that the settings list for this person of the facility, and take back those no longer listed."""
    listed = person_roles().get(f"{facility_slug}/{person.external_id}", set()) if person else set()
    ours = RoleGrant.objects.filter(user=user, source=FROM_SETTINGS, facility__slug=facility_slug)
    gone, _ = ours.exclude(role__in=listed).delete()
    made = [
        role
        for role in sorted(listed)
        if person
        and RoleGrant.objects.get_or_create(
            user=user, role=role, facility=person.facility, defaults={"source": FROM_SETTINGS}
        )[1]
    ]
    if gone or made:
        audit.record("roles_from_settings", actor=user, about=("user", user.uid), granted=made, withdrawn=gone)


def person_roles() -> dict[str, set[Role]]:
    """Return settings.PERSON_ROLES as {facility/external id: roles}; entries that make no sense give nothing."""
    roles: dict[str, set[Role]] = {}
    for entry in settings.PERSON_ROLES:
        person, _, role = entry.rpartition("=")
        if all(person.partition("/")) and role in {known.value for known in Role} - {Role.ADMIN.value}:
            roles.setdefault(person, set()).add(Role(role))
        else:
            log.error("PERSON_ROLES has an entry that is no <facility>/<person>=<role> below admin", entry=entry)
    return roles


# ---- by a one-time link ----
def make_link(person: Person, by: User) -> tuple[PersonLink, str]:
    """Make the link by which whoever holds it becomes this person; return it with its address, shown this once.

    The secret is behind the `#`, which browsers send to nobody. Links made earlier for the person are withdrawn.
    """
    secret = hashing.random_secret()
    with audit.attempt("person_link_made", actor=by, about=about(person)) as detail:
        roles.require(by, "tie-person", person.facility)
        if _locked(person).user_id is not None:
            raise TiedAlready
        _withdraw(PersonLink.objects.filter(person=person))
        link = PersonLink.objects.create(
            person=person, token_hash=hashing.digest(secret), made_by=by, expires_at=Now() + LINK_LIFE
        )
        detail["link"] = link.pk
    link.refresh_from_db()
    return link, f"{settings.PORTAL_URL}{reverse('accounts:person-link')}#{secret}"


def withdraw_link(link: PersonLink, by: User) -> None:
    """Make a link worthless, unless it was used."""
    with audit.attempt("person_link_withdrawn", actor=by, about=about(link.person), link=link.pk):
        roles.require(by, "tie-person", link.person.facility)
        if not _withdraw(PersonLink.objects.filter(pk=link.pk)):
            raise Conflict("This link was used or withdrawn already.")


def open_links(person: Person) -> QuerySet[PersonLink]:
    return _open(PersonLink.objects.filter(person=person))


def redeem(user: User, token: str) -> Person:
    """Make a signed-in user the person that a link is for. Of many at once one succeeds; a refusal spends nothing."""
    link = PersonLink.objects.select_related("person__facility").filter(token_hash=hashing.digest(token)).first()
    if link is None:
        audit.record("person_tied", actor=user, result=AuditEvent.Result.REFUSED, reason="link-unknown")
        raise LinkDead
    with audit.attempt("person_tied", actor=user, about=about(link.person), by=Person.TiedBy.LINK.value, link=link.pk):
        _locked(link.person)
        if link.made_by_id == user.pk:
            raise Forbidden("A link is for somebody else than whoever made it.")
        if not _open(PersonLink.objects.filter(pk=link.pk)).update(redeemed_at=Now(), redeemed_by=user):
            raise LinkDead
        if not _take(link.person, user, Person.TiedBy.LINK):
            raise TiedAlready
    link.person.refresh_from_db()
    return link.person


# ---- by an operator ----
def tie_by_operator(person: Person, user: User, by: User) -> None:
    """Tie a user to a person on an operator's word; operators do not give themselves somebody's experiments."""
    operator = Person.TiedBy.OPERATOR
    with audit.attempt("person_tied", actor=by, on_behalf_of=user, about=about(person), by=operator.value):
        roles.require(by, "tie-person", person.facility)
        if user.pk == by.pk:
            raise Forbidden("Nobody ties their own account; ask another operator, or the user office for a link.")
        if not user.may_sign_in or not _take(person, user, operator):
            raise TiedAlready
        _withdraw(PersonLink.objects.filter(person=person))
    person.refresh_from_db()


def untie(person: Person, by: User) -> None:
    """Part a person from their user, who loses the person's experiments and place on the file systems at once."""
    with audit.attempt("person_untied", actor=by, on_behalf_of=person.user, about=about(person)):
        roles.require(by, "tie-person", person.facility)
        user = _locked(person).user
        if user is None:
            raise Conflict("This person is tied to nobody.")
        user.posix_identities.filter(facility=person.facility).delete()
        Person.objects.filter(pk=person.pk).update(user=None, tied_by="", tied_at=None)
    person.refresh_from_db()


# ---- parts ----
def about(person: Person) -> tuple[str, str]:
    return "person", f"{person.facility.slug}/{person.external_id}"


def _locked(person: Person) -> Person:
    return Person.objects.select_for_update(of=("self",)).select_related("user").get(pk=person.pk)


def _take(person: Person, user: User, by: Person.TiedBy) -> bool:
    """Tie if nobody has the person and the user is nobody else at the facility; both are the database's word."""
    try:
        with transaction.atomic():
            return bool(
                Person.objects.filter(pk=person.pk, user__isnull=True).update(user=user, tied_by=by, tied_at=Now())
            )
    except IntegrityError:  # the user is another person of this facility already
        return False


def _open(links: QuerySet[PersonLink]) -> QuerySet[PersonLink]:
    return links.filter(redeemed_at__isnull=True, withdrawn_at__isnull=True, expires_at__gt=Now())


def _withdraw(links: QuerySet[PersonLink]) -> int:
    return links.filter(redeemed_at__isnull=True, withdrawn_at__isnull=True).update(withdrawn_at=Now())
