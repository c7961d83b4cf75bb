"""Who may do what: the only table of permissions. A service asks `require(user, action, thing)`.

Platform roles are grants (auth.RoleGrant); roles on an instance are memberships (instances.Member) and come in as
`role_on`. Expired means gone, to the second.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auth.models import Facility, User


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


#: platform action → roles that may; everybody signed in may do what is not listed in here only if EVERYBODY has it
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


def may(user: User | Any, action: str, facility: Facility | None = None) -> bool:
    """Tell whether a platform role of this user allows the action, at the facility asked for (None: anywhere)."""
    raise NotImplementedError  # replaced with the sign-in part


def may_on_instance(role: InstanceRole | str | None, action: str) -> bool:
    """Tell whether the role that somebody has on an instance allows the action; no role allows nothing."""
    return role is not None and InstanceRole(role) in ON_INSTANCE[action]
