"""The table of permissions: complete, closed by default, scoped by facility, to the second."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser

from auth.roles import ON_INSTANCE, PLATFORM, InstanceRole, Role, may, may_on_instance, require
from portal.lib.clock import Now
from portal.lib.errors import Forbidden
from tests.factories.auth import FacilityFactory, RoleGrantFactory, UserFactory

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


def test_a_suspended_operator_may_nothing() -> None:
    user = RoleGrantFactory().user
    type(user).objects.update(suspended_at=Now())
    user.refresh_from_db()
    assert not may(user, "open-admin")


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
