"""Roles are given and taken by acts that leave a row each; nobody gives what they lack, nor to themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command

from auth import grants, groups, providers
from auth.claims import MFA, profile_of
from auth.models import Facility, Group, GroupMember, GroupRole, GroupRule, Identity, RoleGrant, Session, User
from auth.providers import Provider
from auth.roles import Role, held_by, may
from portal.audit import AuditEvent
from portal.lib import bus
from portal.lib.clock import Now, now
from portal.lib.errors import BadRequest, Conflict, Forbidden, PortalError
from tests.factories.auth import FacilityFactory, IdentityFactory, RoleGrantFactory, UserFactory
from tests.factories.rights import (
    NAMESPACE,
    GroupFactory,
    GroupMemberFactory,
    GroupRoleFactory,
    GroupRuleFactory,
    entitlement,
)

pytestmark = pytest.mark.django_db
DONE, REFUSED = AuditEvent.Result.DONE, AuditEvent.Result.REFUSED


@pytest.fixture
def facility() -> Facility:
    return FacilityFactory()


@pytest.fixture
def operator() -> User:
    return RoleGrantFactory().user


@pytest.fixture
def local(facility: Facility) -> User:
    """An operator of one facility."""
    return RoleGrantFactory(facility=facility).user


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    heard: list[Any] = []
    monkeypatch.setattr(bus, "publish", lambda topic, message: heard.append(topic))
    return heard


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"title": "Demo", "issuer": "https://provider.example", "client_id": "c", "client_secret": "s"}
    demo = Provider(slug="demo", asserts_scopes=frozenset({NAMESPACE}), **given)
    monkeypatch.setattr(providers, "registry", lambda: {"demo": demo})


def only_event() -> AuditEvent:
    return AuditEvent.objects.get()


def refused(act: Callable[[], object], error: type[Exception] = Forbidden) -> None:
    """See that an act is refused, changes nothing and leaves exactly one row."""

    def everything() -> list[Any]:
        return [
            list(model.objects.order_by("pk").values())
            for model in (RoleGrant, Group, GroupRole, GroupRule, GroupMember)
        ]

    before, count = everything(), AuditEvent.objects.count()
    with pytest.raises(error) as why:
        act()
    assert everything() == before
    assert AuditEvent.objects.count() == count + 1
    event = AuditEvent.objects.latest("pk")
    assert event.result == REFUSED
    assert event.reason == (why.value.code if isinstance(why.value, PortalError) else "not-valid")


# ---- grants ----
def test_a_role_is_granted_with_an_end_and_withdrawn(operator: User, facility: Facility, told: list[Any]) -> None:
    user, until = UserFactory(), now() + timedelta(days=3)
    made = grants.grant(user, Role.VISITOR, facility=facility, until=until, by=operator)
    (held,) = held_by(user)
    assert (held.role, held.facility, held.until, held.source) == ("visitor", facility, until, f"granted by {operator}")
    event = only_event()
    assert (event.action, event.actor_uid, event.for_uid, event.object_id) == (
        "role_granted",
        operator.uid,
        user.uid,
        str(user.uid),
    )
    assert event.detail == {"role": "visitor", "at": facility.slug, "until": until.isoformat()}
    grants.withdraw(made, by=operator)
    assert held_by(user) == []
    event = AuditEvent.objects.latest("pk")
    assert (event.action, event.detail) == ("role_withdrawn", {"role": "visitor", "at": facility.slug})
    assert told == [bus.GATEWAY] * 2
    refused(lambda: grants.withdraw(made, by=operator), Conflict)


def test_granting_again_gives_another_end(operator: User) -> None:
    user = UserFactory()
    for until in (now() + timedelta(days=3), None):
        grants.grant(user, Role.STAFF, facility=None, until=until, by=operator)
        assert RoleGrant.objects.get(user=user).expires_at == until


def test_a_visitor_has_an_end(operator: User) -> None:
    refused(lambda: grants.grant(UserFactory(), Role.VISITOR, facility=None, until=None, by=operator), BadRequest)


def test_an_end_lies_ahead(operator: User) -> None:
    refused(lambda: grants.grant(UserFactory(), Role.STAFF, facility=None, until=now(), by=operator), BadRequest)


def test_nobody_grants_to_themselves(operator: User) -> None:
    refused(lambda: grants.grant(operator, Role.STAFF, facility=None, until=None, by=operator))


def test_who_is_suspended_gets_no_role(operator: User) -> None:
    user = UserFactory(suspended_at=Now())
    user.refresh_from_db()
    refused(lambda: grants.grant(user, Role.STAFF, facility=None, until=None, by=operator), Conflict)


def test_nobody_gives_or_takes_what_they_lack(operator: User, local: User, facility: Facility) -> None:
    user, other = UserFactory(), FacilityFactory()
    admin, elsewhere = RoleGrantFactory(role="admin"), RoleGrantFactory(role="staff", facility=other)
    refused(lambda: grants.grant(user, Role.ADMIN, facility=None, until=None, by=operator))
    refused(lambda: grants.grant(user, Role.ADMIN, facility=facility, until=None, by=local))
    refused(lambda: grants.grant(user, Role.STAFF, facility=other, until=None, by=local))
    refused(lambda: grants.grant(user, Role.STAFF, facility=None, until=None, by=local))
    refused(lambda: grants.withdraw(admin, by=operator))
    refused(lambda: grants.withdraw(elsewhere, by=local))
    refused(lambda: grants.grant(user, Role.VISITOR, facility=None, until=None, by=UserFactory()))
    grants.grant(user, Role.STAFF, facility=facility, until=None, by=local)


# ---- groups ----
def test_a_group_is_made_by_whose_it_is(operator: User, local: User, facility: Facility) -> None:
    grants.save_group(Group(slug="all", title="All"), by=operator)
    grants.save_group(Group(slug="here", title="Here", facility=facility), by=local)
    assert list(AuditEvent.objects.order_by("pk").values_list("action", "object_id")) == [
        ("group_saved", "all"),
        ("group_saved", f"{facility.slug}/here"),
    ]
    refused(lambda: grants.save_group(Group(slug="x", title="X"), by=local))
    refused(lambda: grants.save_group(Group(slug="x", title="X", facility=FacilityFactory()), by=local))
    refused(lambda: grants.save_group(Group(slug="x", title="X"), by=UserFactory()))
    refused(lambda: grants.save_group(Group(slug="all", title="Again"), by=operator), ValidationError)


def test_a_groups_roles_are_given_and_taken_by_who_has_them(operator: User, local: User, facility: Facility) -> None:
    group, user = GroupFactory(facility=facility), UserFactory()
    GroupMemberFactory(group=group, user=user)
    held = grants.give_to_group(group, Role.STAFF, facility, by=local)
    assert may(user, "instance-without-experiment", facility)
    refused(lambda: grants.give_to_group(group, Role.STAFF, None, by=local))
    refused(lambda: grants.give_to_group(group, Role.ADMIN, facility, by=local))
    refused(lambda: grants.give_to_group(group, Role.STAFF, facility, by=local), ValidationError)
    grants.take_from_group(held, by=local)
    assert held_by(user) == []
    assert [event.action for event in AuditEvent.objects.filter(result=DONE).order_by("pk")] == [
        "group_role_given",
        "group_role_taken",
    ]


def test_a_group_with_more_than_one_has_is_left_alone(operator: User, local: User, facility: Facility) -> None:
    """Neither members, nor rules, nor roles, nor its end."""
    group = GroupFactory(facility=facility)
    GroupRoleFactory(group=group, role=Role.STAFF, facility=None)
    member, rule, user = GroupMemberFactory(group=group), GroupRuleFactory(group=group), UserFactory()
    refused(lambda: grants.add_member(group, user, until=None, by=local))
    refused(lambda: grants.remove_member(member, by=local))
    refused(lambda: grants.save_rule(rule, by=local))
    refused(lambda: grants.delete_rule(rule, by=local))
    refused(lambda: grants.delete_group(group, by=local))
    refused(lambda: grants.give_to_group(group, Role.VISITOR, facility, by=local))
    GroupRoleFactory(group=group, role=Role.ADMIN)
    refused(lambda: grants.add_member(group, user, until=None, by=operator))


def test_members_come_and_go_by_hand(operator: User) -> None:
    group, user, until = GroupRoleFactory().group, UserFactory(), now() + timedelta(days=1)
    member = grants.add_member(group, user, until=until, by=operator)
    assert held_by(user)[0].until == until
    event = only_event()
    assert (event.action, event.for_uid, event.detail["user"]) == ("group_member_added", user.uid, str(user.uid))
    grants.remove_member(member, by=operator)
    assert held_by(user) == []
    refused(lambda: grants.add_member(group, operator, until=None, by=operator))
    grants.delete_group(group, by=operator)
    assert not Group.objects.exists()


# ---- rules ----
def sign_in(identity: Identity, *said: str) -> None:
    claims = {"entitlements": list(said)}
    groups.recompute(identity, claims, profile_of(claims), MFA)


def test_who_no_longer_fulfils_a_rule_leaves_when_it_is_saved(operator: User, provider: None) -> None:
    rule, staying, going = GroupRuleFactory(), IdentityFactory(), IdentityFactory()
    sign_in(staying, entitlement(), entitlement("night"))
    sign_in(going, entitlement())
    rule.path = "night"
    grants.save_rule(rule, by=operator)
    assert [member.identity for member in GroupMember.objects.all()] == [staying]
    event = AuditEvent.objects.get(action="group_rule_saved")
    assert (event.result, event.detail["left"]) == (DONE, 1)
    assert event.detail["rule"] == str(rule)


def test_sessions_of_whom_a_rule_makes_members_again_get_new_keys(operator: User, provider: None) -> None:
    rule, member, other = GroupRuleFactory(), IdentityFactory(), IdentityFactory()
    sign_in(member, entitlement())
    for identity in (member, other):
        Session.objects.create(user=identity.user, key_hash=identity.subject, expires_at=now() + timedelta(hours=1))
    GroupRule.objects.update(enabled=False)
    grants.save_rule(rule, by=operator)
    assert [session.user for session in Session.objects.filter(key_due=True)] == [member.user]


def test_a_rule_that_moves_to_another_group_takes_nobody_along(operator: User, provider: None) -> None:
    rule, identity = GroupRuleFactory(), IdentityFactory()
    sign_in(identity, entitlement())
    rule.group = GroupRoleFactory().group
    grants.save_rule(rule, by=operator)
    assert not GroupMember.objects.exists()
    assert held_by(identity.user) == []


def test_a_rule_is_not_taken_out_of_a_group_that_one_may_not_change(
    local: User, facility: Facility, provider: None
) -> None:
    rule = GroupRuleFactory(group=GroupFactory(facility=FacilityFactory()))
    rule.group = GroupFactory(facility=facility)
    refused(lambda: grants.save_rule(rule, by=local))


def test_a_rule_that_makes_no_sense_is_not_saved(operator: User, provider: None) -> None:
    rule = GroupRuleFactory()
    rule.path = ""
    refused(lambda: grants.save_rule(rule, by=operator), ValidationError)
    refused(
        lambda: grants.save_rule(GroupRuleFactory.build(group=rule.group, provider="gone"), by=operator),
        ValidationError,
    )


def test_a_new_rule_is_saved_and_deleted_with_its_members(operator: User, provider: None) -> None:
    rule, identity = GroupRuleFactory.build(group=GroupFactory()), IdentityFactory()
    grants.save_rule(rule, by=operator)
    sign_in(identity, entitlement())
    grants.delete_rule(rule, by=operator)
    assert not GroupMember.objects.exists()
    assert AuditEvent.objects.filter(action="group_rule_deleted", result=DONE).count() == 1


# ---- the first operator ----
def test_the_first_operator_comes_in_by_command(capsys: pytest.CaptureFixture[str]) -> None:
    user = UserFactory(handle="olga-abc")
    call_command("grant_role", "olga-abc", "operator")
    assert may(user, "grant-roles", None)
    assert "olga-abc (Olga-Abc) is operator at all facilities. It holds at once." in capsys.readouterr().out
    event = only_event()
    assert (event.action, event.actor_uid, event.for_uid, event.result) == ("role_granted", None, user.uid, DONE)
    assert event.detail == {"role": "operator", "at": None, "until": None, "by": "by command"}
    assert RoleGrant.objects.get().source == "by command"
    call_command("grant_role", str(user.uid), "operator", "--withdraw")
    assert held_by(user) == []
    assert AuditEvent.objects.count() == 2


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2099-03-31", datetime(2099, 3, 31, 22, tzinfo=UTC)),
        ("2099-03-31T18:00", datetime(2099, 3, 31, 16, tzinfo=UTC)),
        ("2099-03-31T18:00+00:00", datetime(2099, 3, 31, 18, tzinfo=UTC)),
    ],
)
def test_an_end_is_in_the_facilitys_time(text: str, end: datetime) -> None:
    facility = FacilityFactory(time_zone="Europe/Berlin")
    call_command("grant_role", UserFactory().handle, "visitor", "--facility", facility.slug, "--until", text)
    grant = RoleGrant.objects.get()
    assert (grant.facility, grant.expires_at) == (facility, end)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nobody", "operator"], "people become users when they first sign in"),
        (["gone", "operator"], "suspended, or erased"),
        (["jana", "operator", "--facility", "nowhere"], "There are: one."),
        (["jana", "visitor"], "needs an end"),
        (["jana", "staff", "--until", "2020-01-01"], "past"),
        (["jana", "staff", "--until", "tomorrow"], "Write 2027-03-31"),
        (["jana", "staff", "--withdraw"], "was not granted staff at all facilities"),
        (["jana", "emperor"], "invalid choice"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], says: str) -> None:
    UserFactory(handle="jana")
    UserFactory(handle="gone", suspended_at=Now())
    FacilityFactory(slug="one")
    with pytest.raises(CommandError, match=says):
        call_command("grant_role", *words)
    assert not RoleGrant.objects.exists()


def test_the_role_of_a_suspended_user_can_be_taken_back() -> None:
    grant = RoleGrantFactory(user=UserFactory(handle="gone", suspended_at=Now()))
    call_command("grant_role", "gone", grant.role, "--withdraw")
    assert not RoleGrant.objects.exists()
