"""Who may do what: the only table of permissions. A service asks `require(user, action, facility)`.

Platform roles are held by grant (auth.RoleGrant) or as a member of a group (auth.GroupMember), at one facility or at
all; roles on an instance are memberships (instances.Member). Expired means gone, to the second, by the database's
clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Any, Final

from django.db import connection
from django.db.models import Exists, F, Max, Q, Subquery, Value
from django.db.models.functions import Coalesce, Concat, Greatest

from portal.lib.clock import Now
from portal.lib.errors import Forbidden

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.db.models.expressions import Combinable

    from auth.models import Facility, RoleGrant, User


class Role(StrEnum):
    """What somebody is on the portal, at one facility or all."""

    ADMIN = "admin"
    OPERATOR = "operator"
    STAFF = "staff"
    INSTRUMENT_CONTROL = "instrument-control"
    INSTRUMENT_SCIENTIST = "instrument-scientist"
    IT_SUPPORT = "it-support"
    SCIENTIFIC_COMPUTING = "scientific-computing"
    VISITOR = "visitor"


class InstanceRole(StrEnum):
    """What somebody is on one instance."""

    OWNER = "owner"
    USER = "user"
    GUEST = "guest"
    SUPPORT = "support"


class Where(Enum):
    """Asked instead of a facility: is there any place where somebody may?"""

    SOMEWHERE = auto()


SOMEWHERE: Final = Where.SOMEWHERE
#: an end for roles without one, where an end is reckoned with
FOR_GOOD: Final = datetime(9999, 1, 1, tzinfo=UTC)

_RUN: Final = frozenset({Role.ADMIN, Role.OPERATOR})

#: platform action → roles that may; an action that is not listed does not exist. None of them opens an experiment.
PLATFORM: dict[str, frozenset[Role]] = {
    "open-admin": _RUN,
    "see-people": _RUN,
    "see-audit": _RUN,
    "grant-roles": _RUN,
    "manage-groups": _RUN,
    "tie-person": _RUN,
    "end-any-session": _RUN,
    "suspend-user": _RUN,
    "erase-user": frozenset({Role.ADMIN}),
    "manage-policies": frozenset({Role.ADMIN}),
    "stop-any-instance": _RUN,
    "run-providers": _RUN,
    "see-all-instances": _RUN | {Role.IT_SUPPORT},
    "see-current-instances": _RUN | {Role.IT_SUPPORT, Role.INSTRUMENT_CONTROL},
    "see-instances-of-instrument": _RUN | {Role.IT_SUPPORT, Role.INSTRUMENT_SCIENTIST},
    "instance-without-experiment": _RUN | {Role.STAFF, Role.VISITOR},
}

#: action on an instance → roles on it that may
ON_INSTANCE: dict[str, frozenset[InstanceRole]] = {
    "see": frozenset(InstanceRole),
    "open-jupyter": frozenset({InstanceRole.OWNER, InstanceRole.USER}),
    "start": frozenset({InstanceRole.OWNER, InstanceRole.USER}),
    "stop": frozenset({InstanceRole.OWNER, InstanceRole.USER}),
    "reboot": frozenset({InstanceRole.OWNER, InstanceRole.USER}),
    "retry": frozenset({InstanceRole.OWNER, InstanceRole.USER}),
    "delete": frozenset({InstanceRole.OWNER}),
    "share": frozenset({InstanceRole.OWNER}),
}


# ---- what somebody holds ----
@dataclass(frozen=True)
class Held:
    """One role that somebody holds now."""

    role: Role
    #: None: at all of them
    facility: Facility | None
    #: None: for good
    until: datetime | None
    #: where it comes from, in words
    source: str

    def covers(self, facility: Facility | Where | None) -> bool:
        """Tell whether it is valid there; only a role for all facilities is valid for the whole portal (None)."""
        return self.facility is None or facility is SOMEWHERE or self.facility == facility


_UNEXPIRED = Q(expires_at__isnull=True) | Q(expires_at__gt=Now())


def live_grants() -> QuerySet[RoleGrant]:
    """Return the grants that count now."""
    from auth.models import RoleGrant

    return RoleGrant.objects.filter(_UNEXPIRED)


def live_memberships() -> QuerySet[Any]:
    """Return the memberships that count now, once for each `role` that the group holds, at the facility `at`.

    Those by hand, and those by a rule that is in force from an identity of this user. A provider's word makes nobody
    admin unless the rule asks for assurance and a second factor, however the role came to the group.
    """
    from auth.models import GroupMember, GroupRule

    by_hand, in_force = Q(rule=None), Q(rule__enabled=True, identity__user=F("user"))
    strict = Q(rule__requires_mfa=True, rule__minimum_assurance__in=GroupRule.FIT_FOR_ADMIN)
    each_role = GroupMember.objects.annotate(role=F("group__roles__role"), at=F("group__roles__facility"))
    return each_role.filter(_UNEXPIRED, by_hand | in_force, by_hand | strict | ~Q(role=Role.ADMIN), role__isnull=False)


def held_by(user: User | Any) -> list[Held]:
    """Return every role that the user holds now, by grant or in a group; one statement. Nobody suspended holds one."""
    return given_to(user) if user.is_authenticated and user.may_sign_in else []


def given_to(user: User) -> list[Held]:
    """Return every role that somebody would hold if they were not suspended."""
    granted = live_grants().filter(user=user)
    in_groups = live_memberships().filter(user=user)
    facility, in_group = ("facility_id", "facility__slug", "facility__name"), "group__roles__facility__"
    rows = granted.values_list("role", *facility, "expires_at", "source").union(
        in_groups.values_list(
            "role", "at", f"{in_group}slug", f"{in_group}name", "expires_at", Concat(Value("group "), F("group__title"))
        ),
        all=True,
    )
    return sorted((_held(*row) for row in rows), key=lambda held: (held.role, str(held.facility), str(held.until)))


def _held(role: str, pk: int | None, slug: str, name: str, until: datetime | None, source: str) -> Held:
    from auth.models import Facility

    fields = ("id", "slug", "name")
    facility = Facility.from_db(connection.alias, fields, (pk, slug, name)) if pk is not None else None
    return Held(Role(role), facility, until, source)


# ---- the questions ----
def may(user: User | Any, action: str, facility: Facility | Where | None = SOMEWHERE) -> bool:
    """Tell whether a role of this user allows the action: at a facility, on the whole portal (None), or somewhere."""
    allowed = PLATFORM[action]
    return any(held.role in allowed and held.covers(facility) for held in held_by(user))


def reach(held: Iterable[Held], action: str) -> frozenset[int] | None:
    """Return the facilities (their keys) at which these roles allow an action; None: the whole portal."""
    allowing = [one for one in held if one.role in PLATFORM[action]]
    if any(one.facility is None for one in allowing):
        return None
    return frozenset(one.facility.pk for one in allowing if one.facility)


def require(user: User | Any, action: str, facility: Facility | Where | None = SOMEWHERE) -> None:
    """Raise `Forbidden` unless `may`."""
    if not may(user, action, facility):
        raise Forbidden


def may_over(by: User | Any, action: str, user: User) -> bool:
    """Tell whether somebody may do this to a user, who belongs to no one facility.

    One who may on the whole portal; else one who may where the user is a person and has no role that reaches further.
    """
    places = {person.facility for person in user.persons.select_related("facility")}
    beyond = {held.facility for held in given_to(user)}
    return may(by, action, None) or any(may(by, action, place) and beyond <= {place} for place in places)


def require_over(by: User | Any, action: str, user: User) -> None:
    """Raise `Forbidden` unless `may_over`."""
    if not may_over(by, action, user):
        raise Forbidden


def may_in_sql(action: str, user: Combinable, facility: Combinable) -> Q:
    """Return `may` as a condition on columns; it leaves out whether the user is suspended."""
    return Q(*map(Exists, _allowing(action, user, facility)), _connector=Q.OR)


def until_in_sql(action: str, user: Combinable, facility: Combinable) -> Combinable:
    """Return until when `may_in_sql` will hold as things are; null where it does not."""
    ends = Max(Coalesce("expires_at", Value(FOR_GOOD)))
    return Greatest(
        *(
            Subquery(rows.order_by().values("user").annotate(end=ends).values("end"))
            for rows in _allowing(action, user, facility)
        )
    )


def _allowing(action: str, user: Combinable, facility: Combinable) -> tuple[QuerySet[Any], QuerySet[Any]]:
    """The grants and the memberships by which this user may, there."""
    allowed = PLATFORM[action]
    return (
        live_grants().filter(Q(facility=None) | Q(facility=facility), user=user, role__in=allowed),
        live_memberships().filter(Q(at=None) | Q(at=facility), user=user, role__in=allowed),
    )


def powers(role: Role) -> frozenset[str]:
    """Return the actions that a role allows."""
    return frozenset(action for action, allowed in PLATFORM.items() if role in allowed)


def may_grant(by: User | Any, role: Role, facility: Facility | None) -> bool:
    """Tell whether somebody may give this role at this facility (None: at all): only one with all its powers there."""
    held = [held for held in held_by(by) if held.covers(facility)]
    own = frozenset[str]().union(*(powers(held.role) for held in held))
    return "grant-roles" in own and powers(role) <= own


def may_on_instance(role: InstanceRole | str | None, action: str) -> bool:
    """Tell whether the role that somebody has on an instance allows the action; no role allows nothing."""
    return role is not None and InstanceRole(role) in ON_INSTANCE[action]
