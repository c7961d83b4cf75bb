"""The ways in which a right ends, as the portal itself goes: what prepares it, what ends it, what undoes that.

Imported once the models may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

import requests

from auth import grants, linking, services
from auth.models import Facility, Group, GroupMember, GroupRole, Identity, RoleGrant, User
from auth.roles import Role
from instances.models import Instance
from portal.lib.clock import now
from tests.bench.api_for_bench import Account, Api

HOUR = timedelta(hours=1)
#: an issuer that nobody signs in at
SECOND = "https://second.example"


@dataclass(frozen=True)
class Visit:
    """Somebody on their instance."""

    api: Api
    account: Account
    user: User


def _nothing(_visit: Visit) -> None:
    pass


@dataclass(frozen=True)
class Ending:
    name: str
    end: Callable[[Visit], None]
    prepare: Callable[[Visit], None] = _nothing
    undo: Callable[[Visit], None] = _nothing


def _admin() -> User:
    user, _ = User.objects.get_or_create(handle="bench-admin", defaults={"display_name": "Admin"})
    RoleGrant.objects.get_or_create(user=user, role=Role.ADMIN, facility=None)
    return user


def _group() -> Group:
    """Its members are visitors."""
    group, _ = Group.objects.get_or_create(slug="bench", title="Bench", facility=Facility.objects.get())
    GroupRole.objects.get_or_create(group=group, role=Role.VISITOR, facility=group.facility)
    return group


def sign_out(visit: Visit) -> None:
    """As the form on the page does."""
    api, secret = visit.api, "a" * 32
    headers = {"Host": api.portal, "Origin": api.url, "Sec-Fetch-Site": "same-origin"}
    headers["Cookie"] = f"__Host-sid={visit.account.session}; __Host-csrf={secret}"
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    form = urlencode({"csrfmiddlewaretoken": secret})
    answer = requests.post(f"{api.url}/auth/logout/", form, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text


def suspend(visit: Visit) -> None:
    services.suspend(visit.user, by=_admin(), reason="bench")


def reinstate(visit: Visit) -> None:
    services.reinstate(visit.user, by=_admin())


def _stays_by_role(visit: Visit) -> None:
    """The instance is theirs as long as a role allows one without an experiment."""
    Instance.objects.filter(owner=visit.user).update(by_role=True)


def hold_role(visit: Visit) -> None:
    RoleGrant.objects.create(user=visit.user, role=Role.VISITOR, expires_at=now() + HOUR)
    _stays_by_role(visit)


def withdraw_role(visit: Visit) -> None:
    grants.withdraw(RoleGrant.objects.get(user=visit.user), by=_admin())


def join(visit: Visit) -> None:
    grants.add_member(_group(), visit.user, until=now() + HOUR, by=_admin())
    _stays_by_role(visit)


def leave(visit: Visit) -> None:
    grants.remove_member(GroupMember.objects.get(user=visit.user), by=_admin())


def link(visit: Visit) -> None:
    Identity.objects.create(user=visit.user, issuer=SECOND, subject=str(visit.user.uid))


def unlink(visit: Visit) -> None:
    linking.unlink(visit.user, Identity.objects.exclude(issuer=SECOND).get(user=visit.user))


ENDINGS = (
    Ending("signed out", sign_out),
    Ending("suspended", suspend, undo=reinstate),
    Ending("role withdrawn", withdraw_role, prepare=hold_role),
    Ending("out of the group", leave, prepare=join),
    Ending("identity unlinked", unlink, prepare=link),
)
