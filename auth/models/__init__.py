"""Facilities, people, persons, sign-in, sessions, roles and API tokens (app label `accounts`)."""

from auth.models.consent import Acceptance, ErasedIdentity, ErasureRequest, Policy
from auth.models.notices import Notice
from auth.models.people import Facility, Identity, Person, PersonLink, PosixIdentity, User, UserManager
from auth.models.rights import Group, GroupMember, GroupRole, GroupRule, RoleGrant
from auth.models.sessions import ApiToken, DatabaseMark, LoginState, Session, UsedLogoutToken

__all__ = [
    "Acceptance",
    "ApiToken",
    "DatabaseMark",
    "ErasedIdentity",
    "ErasureRequest",
    "Facility",
    "Group",
    "GroupMember",
    "GroupRole",
    "GroupRule",
    "Identity",
    "LoginState",
    "Notice",
    "Person",
    "PersonLink",
    "Policy",
    "PosixIdentity",
    "RoleGrant",
    "Session",
    "UsedLogoutToken",
    "User",
    "UserManager",
]
