"""The table of permissions: complete, closed by default, scoped by facility, to the second."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db.models import OuterRef, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auth import services
from auth.models import Facility, RoleGrant, User
from auth.roles import (
    FOR_GOOD,
    ON_INSTANCE,
    PLATFORM,
    SOMEWHERE,
    Held,
    InstanceRole,
    Role,
    held_by,
    may,
    may_grant,
    may_in_sql,
    may_on_instance,
    may_over,
    require,
    until_in_sql,
)
from portal.audit import AuditEvent
from portal.lib.clock import Now, now
from portal.lib.errors import Forbidden
from tests.factories.auth import FacilityFactory, PersonFactory, RoleGrantFactory, UserFactory
from tests.factories.rights import GroupFactory, GroupMemberFactory, GroupRoleFactory

pytestmark = pytest.mark.django_db

RUN = {"admin", "operator"}
EXPECTED = {
    "open-admin": RUN,
    "see-people": RUN,
    "see-audit": RUN,
    "grant-roles": RUN,
    "manage-groups": RUN,
    "tie-person": RUN,
    "end-any-session": RUN,
    "suspend-user": RUN,
    "erase-user": {"admin"},
    "manage-policies": {"admin"},
    "stop-any-instance": RUN,
    "run-providers": RUN,
    "see-all-instances": RUN | {"it-support"},
    "see-current-instances": RUN | {"it-support", "instrument-control"},
    "see-instances-of-instrument": RUN | {"it-support", "instrument-scientist"},
    "instance-without-experiment": RUN | {"staff", "visitor"},
}


def test_the_table_is_the_one_that_was_agreed() -> None:
    assert {action: {role.value for role in roles} for action, roles in PLATFORM.items()} == EXPECTED


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_exactly_what_the_table_says(role: Role) -> None:
    user = RoleGrantFactory(role=role.value).user
    assert {action for action in PLATFORM if may(user, action)} == {
        action for action, roles in EXPECTED.items() if role.value in roles
    }


@pytest.mark.parametrize("action", PLATFORM)
def test_without_a_role_nothing_is_allowed(action: str) -> None:
    assert not may(UserFactory(), action)
    assert not may(AnonymousUser(), action)
    with pytest.raises(Forbidden):
        require(UserFactory(), action)


def test_an_action_that_is_not_listed_does_not_exist() -> None:
    with pytest.raises(KeyError):
        may(RoleGrantFactory(role="admin").user, "do-anything")


def test_a_role_at_a_facility_ends_at_its_fence() -> None:
    mine, other = FacilityFactory(), FacilityFactory()
    user = RoleGrantFactory(facility=mine).user
    assert may(user, "stop-any-instance", mine)
    assert may(user, "stop-any-instance")
    assert not may(user, "stop-any-instance", other)


def test_a_role_without_facility_is_valid_everywhere() -> None:
    assert may(RoleGrantFactory(facility=None).user, "stop-any-instance", FacilityFactory())


def test_an_expired_role_is_gone() -> None:
    grant = RoleGrantFactory(expires_at=Now() + timedelta(hours=1))
    assert may(grant.user, "open-admin")
    type(grant).objects.update(expires_at=Now())
    assert not may(grant.user, "open-admin")
    assert not grant.user.is_staff


@pytest.mark.parametrize(
    ("asked", "everywhere", "there", "elsewhere"),
    [("somewhere", True, True, True), ("there", True, True, False), ("whole portal", True, False, False)],
)
def test_a_facility_is_not_the_whole_portal(asked: str, everywhere: bool, there: bool, elsewhere: bool) -> None:
    here = FacilityFactory()
    where = {"somewhere": SOMEWHERE, "there": here, "whole portal": None}[asked]
    allowed = [
        may(RoleGrantFactory(facility=facility).user, "suspend-user", where)
        for facility in (None, here, FacilityFactory())
    ]
    assert allowed == [everywhere, there, elsewhere]


def test_roles_by_grant_and_in_groups_are_held_alike_in_one_statement(
    django_assert_num_queries: Callable[..., Any],
) -> None:
    user, facility = UserFactory(), FacilityFactory()
    until = now() + timedelta(days=1)
    RoleGrantFactory(user=user, role="staff", facility=facility, expires_at=until, source="granted by Olga")
    RoleGrantFactory(user=UserFactory(), role="admin")
    group = GroupRoleFactory(role="visitor").group
    GroupRoleFactory(group=group, role="it-support", facility=facility)
    GroupMemberFactory(group=group, user=user, expires_at=until)
    GroupMemberFactory(group=GroupFactory(), user=user)
    with django_assert_num_queries(1):
        held = held_by(user)
        assert [str(one.facility) for one in held] == [facility.name, facility.name, "None"]
    assert held == [
        Held(Role.IT_SUPPORT, facility, until, f"group {group.title}"),
        Held(Role.STAFF, facility, until, "granted by Olga"),
        Held(Role.VISITOR, None, until, f"group {group.title}"),
    ]


def test_nobody_signed_in_holds_nothing() -> None:
    assert held_by(AnonymousUser()) == []


def test_a_suspended_operator_may_nothing() -> None:
    user = RoleGrantFactory().user
    type(user).objects.update(suspended_at=Now())
    user.refresh_from_db()
    assert not may(user, "open-admin")


# ---- over somebody ----
HERE, THERE, EVERYWHERE = "here", "there", None
PLACES = [HERE, THERE, EVERYWHERE]
HOLDINGS = st.lists(st.tuples(st.sampled_from(list(Role)), st.sampled_from(PLACES)), max_size=4, unique=True)


@pytest.fixture
def places() -> dict[str | None, Facility | None]:
    return {HERE: FacilityFactory(), THERE: FacilityFactory(), EVERYWHERE: None}


@pytest.mark.parametrize(
    ("by", "person", "held", "allowed"),
    [
        ("everywhere", None, [], True),
        ("everywhere", None, [None], True),
        ("here", None, [], False),
        ("here", "here", [], True),
        ("here", "there", [], False),
        ("here", "here", ["here"], True),
        ("here", "here", ["there"], False),
        ("here", "here", ["here", "there"], False),
        ("here", "here", [None], False),
        ("there", "here", [], False),
        (None, "here", [], False),
    ],
)
@pytest.mark.parametrize("suspended", [False, True])
def test_who_may_suspend_whom(
    places: dict[str | None, Facility | None],
    by: str | None,
    person: str | None,
    held: list[str | None],
    suspended: bool,
    allowed: bool,
) -> None:
    """An operator of one facility: its own persons, unless they have a role beyond; suspended already or not."""
    user, who = UserFactory(suspended_at=now() if suspended else None), UserFactory()
    if by:
        RoleGrantFactory(user=who, facility=places[None if by == "everywhere" else by])
    if person:
        PersonFactory(user=user, facility=places[person])
    for number, place in enumerate(held):
        RoleGrantFactory(user=user, role=["staff", "admin"][number % 2], facility=places[place])
    act = services.reinstate if suspended else functools.partial(services.suspend, reason="left")
    assert may_over(who, "suspend-user", user) is allowed
    if allowed:
        act(user, by=who)
    else:
        with pytest.raises(Forbidden):
            act(user, by=who)
    event = AuditEvent.objects.get()
    assert (event.actor_uid, event.object_id) == (who.uid, str(user.uid))
    said = "" if suspended else "left"
    assert (event.result, event.reason) == (("done", said) if allowed else ("refused", "forbidden"))


# ---- nobody grants what they lack ----
def powers_at(held: list[tuple[Role, str | None]], place: str | None) -> set[str]:
    """Reckoned from the agreed table alone."""
    there = {role.value for role, where in held if where in (None, place)}
    return {action for action, roles in EXPECTED.items() if roles & there}


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(HOLDINGS, st.sampled_from(list(Role)), st.sampled_from(PLACES))
def test_nobody_grants_what_they_lack(
    places: dict[str | None, Facility | None], held: list[tuple[Role, str | None]], role: Role, place: str | None
) -> None:
    """Over all roles at two facilities and at all: what somebody may grant would give them nothing new anywhere."""
    by = UserFactory()
    for own, where in held:
        RoleGrantFactory(user=by, role=own, facility=places[where])
    allowed = may_grant(by, role, places[place])
    with_it = [*held, (role, place)]
    gains = any(powers_at(with_it, where) - powers_at(held, where) for where in PLACES)
    assert allowed is ("grant-roles" in powers_at(held, place) and not gains)


@pytest.mark.parametrize("role", list(Role))
def test_who_grants_what(role: Role) -> None:
    here, there = FacilityFactory(), FacilityFactory()
    admin, operator = RoleGrantFactory(role="admin").user, RoleGrantFactory(role="operator").user
    local = RoleGrantFactory(role="operator", facility=here).user
    below_admin = role != Role.ADMIN
    assert [may_grant(admin, role, where) for where in (here, there, None)] == [True, True, True]
    assert [may_grant(operator, role, where) for where in (here, there, None)] == [below_admin] * 3
    assert [may_grant(local, role, where) for where in (here, there, None)] == [below_admin, False, False]
    for other in set(Role) - {Role.ADMIN, Role.OPERATOR}:
        assert not may_grant(RoleGrantFactory(role=other).user, role, here)


ENDS = st.sampled_from(["gone", "soon", "later", "never"])


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Role)), st.sampled_from(PLACES), ENDS, st.booleans()), max_size=4),
    st.sampled_from(list(PLATFORM)),
)
def test_python_and_sql_say_the_same(
    places: dict[str | None, Facility | None], held: list[tuple[Role, str | None, str, bool]], action: str
) -> None:
    user, at, facility = UserFactory(), now(), places[HERE]
    ends = {"gone": at, "soon": at + timedelta(hours=1), "later": at + timedelta(hours=2), "never": None}
    for role, place, end, in_group in held:
        if in_group:
            group = GroupRoleFactory(role=role, facility=places[place]).group
            GroupMemberFactory(user=user, group=group, expires_at=ends[end])
        else:
            RoleGrant.objects.update_or_create(
                user=user, role=role, facility=places[place], defaults={"expires_at": ends[end]}
            )
    assert facility is not None
    counting = [one for one in held_by(user) if one.role in PLATFORM[action] and one.covers(facility)]
    row = User.objects.annotate(
        may=may_in_sql(action, OuterRef("pk"), Value(facility.pk)),
        until=until_in_sql(action, OuterRef("pk"), Value(facility.pk)),
    ).get(pk=user.pk)
    assert row.may is may(user, action, facility) is bool(counting)
    assert row.until == max((one.until or FOR_GOOD for one in counting), default=None)


@pytest.mark.parametrize("role", [*InstanceRole, None])
def test_roles_on_an_instance(role: InstanceRole | None) -> None:
    allowed = {action for action in ON_INSTANCE if may_on_instance(role, action)}
    assert (
        allowed
        == {
            InstanceRole.OWNER: set(ON_INSTANCE),
            InstanceRole.USER: set(ON_INSTANCE) - {"delete", "share"},
            InstanceRole.GUEST: {"see"},
            InstanceRole.SUPPORT: {"see"},
            None: set(),
        }[role]
    )
