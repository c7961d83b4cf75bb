"""The acts by which people get and lose roles: grants, groups, their roles, their rules, members by hand.

Nobody gives what they lack, at a facility or in all, nor anything to themselves. `by` None is the command line, which
is whoever runs the host. Each act leaves one audit row, refused ones too, and open connections hear of it at once.
Who gets a role goes on in the sessions they have, with new keys; at a sign-in the key changes anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from auth import access, groups, roles
from auth.models import Facility, Group, GroupMember, GroupRole, GroupRule, RoleGrant, User
from auth.roles import Role
from portal import audit
from portal.lib import bus, clock
from portal.lib.errors import BadRequest, Conflict, Forbidden

#: who acts, where nobody is signed in
COMMAND = "by command"


# ---- grants ----
def grant(user: User, role: Role, *, facility: Facility | None, until: datetime | None, by: User | None) -> RoleGrant:
    """Give a user a role at a facility (None: at all), or give it another end. A visitor's has one."""
    about = ("user", user.uid)
    with _act("role_granted", by, about, for_=user, role=role, at=_at(facility), until=until and until.isoformat()):
        _check(by, role, facility)
        if by is not None and by.pk == user.pk:
            raise Forbidden("Nobody gives a role to themselves.", next_step="Ask another operator.")
        if not user.may_sign_in:
            raise Conflict("This user is suspended or erased.")
        if until is not None and until <= clock.now():
            raise BadRequest("The end lies in the past.")
        if until is None and role == Role.VISITOR:
            raise BadRequest("A visitor's role needs an end.")
        source = f"granted by {by}" if by else COMMAND
        made, _new = RoleGrant.objects.update_or_create(
            user=user, role=role, facility=facility, defaults={"expires_at": until, "source": source[:100]}
        )
        access.renew_keys(User.objects.filter(pk=user.pk))
        return made


def withdraw(grant: RoleGrant, *, by: User | None) -> None:
    """Take a granted role away."""
    role, facility = Role(grant.role), grant.facility
    with _act("role_withdrawn", by, ("user", grant.user.uid), for_=grant.user, role=role, at=_at(facility)):
        _check(by, role, facility)
        if not RoleGrant.objects.filter(pk=grant.pk).delete()[0]:
            raise Conflict("This role was withdrawn already.")


# ---- groups ----
def save_group(group: Group, *, by: User) -> Group:
    """Make a group, or change its title."""
    with _act("group_saved", by, _name(group), title=group.title):
        roles.require(by, "manage-groups", group.facility)
        group.full_clean()
        group.save()
    return group


def delete_group(group: Group, *, by: User) -> None:
    """Delete a group with its rules, and with it its members' roles."""
    with _act("group_deleted", by, _name(group)):
        _check_group(by, group)
        group.delete()


def give_to_group(group: Group, role: Role, facility: Facility | None, *, by: User) -> GroupRole:
    """Let all members of a group hold a role."""
    with _act("group_role_given", by, _name(group), role=role, at=_at(facility)):
        _check_group(by, group)
        _check(by, role, facility)
        made = GroupRole(group=group, role=role, facility=facility)
        made.full_clean()
        made.save()
        access.renew_keys(User.objects.filter(group_memberships__group=group))
        return made


def take_from_group(held: GroupRole, *, by: User) -> None:
    """Take a role from all members of a group."""
    with _act("group_role_taken", by, _name(held.group), role=held.role, at=_at(held.facility)):
        _check_group(by, held.group)
        held.delete()


def add_member(group: Group, user: User, *, until: datetime | None, by: User) -> GroupMember:
    """Put a user into a group by hand."""
    about = _name(group)
    with _act("group_member_added", by, about, for_=user, user=str(user.uid), until=until and until.isoformat()):
        _check_group(by, group)
        if by.pk == user.pk:
            raise Forbidden("Nobody puts themselves into a group.", next_step="Ask another operator.")
        made, _new = GroupMember.objects.update_or_create(
            group=group, user=user, identity=None, rule=None, defaults={"expires_at": until}
        )
        access.renew_keys(User.objects.filter(pk=user.pk))
        return made


def remove_member(member: GroupMember, *, by: User) -> None:
    """Take somebody out of a group; who is in it by a rule comes back with the next sign-in."""
    with _act("group_member_removed", by, _name(member.group), for_=member.user, user=str(member.user.uid)):
        _check_group(by, member.group)
        member.delete()


# ---- rules ----
def save_rule(rule: GroupRule, *, by: User) -> GroupRule:
    """Save a rule: who no longer fulfils it leaves at once, who now does comes in at the next sign-in."""
    with _act("group_rule_saved", by, _name(rule.group), rule=str(rule), enabled=rule.enabled) as detail:
        if rule.pk is not None:
            _check_group(by, GroupRule.objects.get(pk=rule.pk).group)
        _check_group(by, rule.group)
        rule.full_clean()
        rule.save()
        gone = [foreseen.identity for foreseen in groups.dry_run(rule) if foreseen.effect == groups.Effect.LOSES]
        left = GroupMember.objects.filter(rule=rule)
        left.filter(identity__in=gone).delete()
        left.exclude(group=rule.group).delete()
        detail["left"] = len(gone)
        access.renew_keys(User.objects.filter(group_memberships__rule=rule))  # of a rule that is in force again
    return rule


def delete_rule(rule: GroupRule, *, by: User) -> None:
    """Delete a rule; who is a member by it alone is none any more."""
    with _act("group_rule_deleted", by, _name(rule.group), rule=str(rule)):
        _check_group(by, rule.group)
        rule.delete()


# ---- parts ----
@contextmanager
def _act(
    action: str, by: User | None, about: tuple[str, object], *, for_: User | None = None, **detail: Any
) -> Iterator[dict[str, Any]]:
    if by is None:
        detail["by"] = COMMAND
    with audit.attempt(action, actor=by, about=about, on_behalf_of=for_, **detail) as more:
        yield more
        bus.publish(bus.GATEWAY, {"rights": action})


def _check(by: User | None, role: Role, facility: Facility | None) -> None:
    if by is not None and not roles.may_grant(by, role, facility):
        raise Forbidden("You cannot give or take a role that you do not have there yourself.")


def _check_group(by: User, group: Group) -> None:
    """Who changes a group may give every role that it holds."""
    roles.require(by, "manage-groups", group.facility)
    for held in group.roles.select_related("facility"):
        _check(by, Role(held.role), held.facility)


def _name(group: Group) -> tuple[str, str]:
    return "group", f"{group.facility.slug}/{group.slug}" if group.facility else group.slug


def _at(facility: Facility | None) -> str | None:
    return facility.slug if facility else None
