"""Whom those who run the portal may look at: at one facility those who are somebody there, at all everybody.

What they may do to somebody is `roles.may_over`.
"""

from __future__ import annotations

from django.db.models import Exists, OuterRef, Q, QuerySet

from auth.models import GroupMember, Person, PosixIdentity, RoleGrant, User

#: keys of facilities; None: the whole portal
Reach = frozenset[int] | None


def users_within(reach: Reach) -> QuerySet[User]:
    """Return the users who have a person, a uid, a role or a group at one of these facilities."""
    if reach is None:
        return User.objects.all()
    user = OuterRef("pk")
    ties = (
        Person.objects.filter(user=user, facility__in=reach),
        PosixIdentity.objects.filter(user=user, facility__in=reach),
        RoleGrant.objects.filter(user=user, facility__in=reach),
        GroupMember.objects.filter(user=user, group__facility__in=reach),
    )
    return User.objects.filter(Q(*map(Exists, ties), _connector=Q.OR))
