"""Ties people who sign in to the persons a facility's user office knows: by one authoritative claim, never by e-mail,
name or ORCID."""

from __future__ import annotations

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction

from auth.models import Facility, Person, RoleGrant, User
from auth.roles import Role
from portal import audit
from portal.audit import AuditEvent
from portal.lib.clock import Now

log = structlog.get_logger("auth.persons")

#: the source of the grants that settings.PERSON_ROLES makes; others are left alone
FROM_SETTINGS = "PERSON_ROLES"


def tie_by_claim(user: User, facility_slug: str, external_id: str, name: str) -> Person | None:
    """Tie the user to the person with this id; a person who is somebody else's is not moved.

    The claim comes from a provider that is authoritative for the facility, so an id that the sync has not brought yet
    makes the person.
    """
    facility = Facility.objects.filter(slug=facility_slug).first()
    if facility is None:
        log.warning("no such facility", facility=facility_slug)
        return None
    person, _ = Person.objects.get_or_create(facility=facility, external_id=external_id, defaults={"name": name})
    if person.user_id == user.pk:
        return person
    about = ("person", f"{facility.slug}/{external_id}")
    if not _take(person, user):
        audit.record("person_tied", actor=user, about=about, result=AuditEvent.Result.REFUSED, reason="tied-to-another")
        return None
    person.refresh_from_db()
    audit.record("person_tied", actor=user, about=about, by=Person.TiedBy.CLAIM.value)
    return person


def grant_configured_roles(user: User, person: Person | None) -> None:
    """Give the roles that the settings list for this person, and take back those they no longer list."""
    listed = person_roles().get(person.external_id, set()) if person else set()
    ours = RoleGrant.objects.filter(user=user, source=FROM_SETTINGS)
    gone, _ = ours.exclude(role__in=listed, facility=person.facility if person else None).delete()
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
    """Return settings.PERSON_ROLES as {external id: roles}; entries that make no sense give nothing."""
    roles: dict[str, set[Role]] = {}
    for entry in settings.PERSON_ROLES:
        external_id, _, role = entry.rpartition("=")
        if external_id and role in {known.value for known in Role}:
            roles.setdefault(external_id, set()).add(Role(role))
        else:
            log.error("PERSON_ROLES has an entry that is no <person>=<role>", entry=entry)
    return roles


def _take(person: Person, user: User) -> bool:
    try:
        with transaction.atomic():
            return bool(
                Person.objects.filter(pk=person.pk, user__isnull=True).update(
                    user=user, tied_by=Person.TiedBy.CLAIM, tied_at=Now()
                )
            )
    except IntegrityError:  # the user is another person of this facility already
        return False
