"""Who may do what: the only table of permissions. A service asks `require(user, action, thing)`.

Platform roles are grants (auth.RoleGrant); roles on an instance are memberships (instances.Member) and come in as
`role_on`. Expired means gone, to the second.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from django.db.models import Q

from portal.lib.clock import Now
from portal.lib.errors import Forbidden

if TYPE_CHECKING:
    from django.db.models import QuerySet

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


#: platform action → roles that may; an action that is not listed does not exist
PLATFORM: dict[str, frozenset[Role]] = {
    "open-admin": frozenset({Role.ADMIN, Role.OPERATOR}),
    "see-all-instances": frozenset({Role.ADMIN, Role.OPERATOR, Role.IT_SUPPORT}),
    "stop-any-instance": frozenset({Role.ADMIN, Role.OPERATOR}),
    "instance-without-experiment": frozenset({Role.ADMIN, Role.STAFF, Role.VISITOR}),
    "suspend-user": frozenset({Role.ADMIN, Role.OPERATOR}),
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


def grants_of(user: User) -> QuerySet[RoleGrant]:
    """Return the roles that a user holds now."""
    from auth.models import RoleGrant

    return RoleGrant.objects.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=Now()), user=user)


def may(user: User | Any, action: str, facility: Facility | None = None) -> bool:
    """Tell whether a platform role of this user allows the action, at the facility asked for (None: anywhere)."""
    allowed = PLATFORM[action]
    if not user.is_authenticated or not user.may_sign_in:
        return False
    grants = grants_of(user).filter(role__in=allowed)
    if facility is not None:
        grants = grants.filter(Q(facility__isnull=True) | Q(facility=facility))
    return grants.exists()


def require(user: User | Any, action: str, facility: Facility | None = None) -> None:
    """Raise `Forbidden` unless `may`."""
    if not may(user, action, facility):
        raise Forbidden


def may_on_instance(role: InstanceRole | str | None, action: str) -> bool:
    """Tell whether the role that somebody has on an instance allows the action; no role allows nothing."""
    return role is not None and InstanceRole(role) in ON_INSTANCE[action]
