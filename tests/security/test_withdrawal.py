"""What is taken from somebody is gone at every door: one rule, asked by pages, API, sockets and the gateway's link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from auth import access, restored, services, tokens
from auth.models import ApiToken, Session, User
from auth.roles import InstanceRole
from auth.sessions import SessionStore
from instances import consumers, entry
from instances.lifecycle import State
from instances.models import GatewaySession, Instance
from portal.lib.clock import Now
from portal.lib.hashing import digest
from tests.factories.auth import RoleGrantFactory, UserFactory, bearer, sign_in
from tests.factories.instances import InstanceFactory

pytestmark = pytest.mark.django_db

NONCE = digest("nonce")


@dataclass
class Visit:
    """Somebody signed in, with a token, an instance, a ticket to it and a session on it."""

    user: User
    client: Client
    session: Session
    instance: Instance
    entered: GatewaySession
    ticket: str
    token: str

    @property
    def key(self) -> str:
        return str(self.client.cookies[settings.SESSION_COOKIE_NAME].value)


@pytest.fixture
def visit() -> Visit:
    instance = InstanceFactory(state=State.ACTIVE)
    user, client = instance.owner, Client(headers={"Sec-Fetch-Dest": "document"})
    session = sign_in(client, user)

    def ticket() -> str:
        return entry.issue_ticket(session, user, instance, InstanceRole.OWNER, NONCE)

    entered = entry.redeem(ticket(), NONCE, instance.slug)
    _, token = tokens.issue(user, scopes=["me:read"], lasts=timedelta(days=1))
    return Visit(user, client, session, instance, entered, ticket(), token)


# ---- the doors; each tells whether it is open ----
def _key_alone(visit: Visit) -> Client:
    """Django takes a dead session's cookie away; each door is asked with the one that was."""
    client = Client(headers={"Sec-Fetch-Dest": "document"})
    client.cookies[settings.SESSION_COOKIE_NAME] = visit.key
    return client


def page(visit: Visit) -> bool:
    return _key_alone(visit).get("/instances/").status_code == 200


def api(visit: Visit) -> bool:
    return _key_alone(visit).get("/api/v1/me").status_code == 200


def engine(visit: Visit) -> bool:
    return SessionStore(visit.key).live_row() is not None


def new_socket(visit: Visit) -> bool:
    return consumers._session_of.func(visit.key) is not None


def open_socket(visit: Visit) -> bool:
    return visit.session.pk in consumers._live.func({visit.session.pk})


def enter(visit: Visit) -> bool:
    answer = _key_alone(visit).get(f"/enter/{visit.instance.slug}?n={NONCE}")
    return answer.status_code == 303


def ticket(visit: Visit) -> bool:
    try:
        entry.redeem(visit.ticket, NONCE, visit.instance.slug)
    except entry.Refused:
        return False
    visit.ticket = entry.issue_ticket(visit.session, visit.user, visit.instance, InstanceRole.OWNER, NONCE)
    return True


def gateway(visit: Visit) -> bool:
    renewed, gone = entry.renew({visit.entered.sid: True})
    withdrawn = entry.withdrawn().filter(pk=visit.entered.pk).exists()
    assert bool(renewed) is not withdrawn is bool(gone)
    return bool(renewed)


def token(visit: Visit) -> bool:
    return Client().get("/api/v1/me", headers=bearer(visit.token)).status_code == 200


Door = Callable[[Visit], bool]
OF_SESSION: list[Door] = [page, api, engine, new_socket, open_socket, enter, ticket, gateway]
OF_USER: list[Door] = [*OF_SESSION, token]


def ended(visit: Visit) -> None:
    services.end_session(visit.session)


def signed_out(visit: Visit) -> None:
    assert visit.client.post("/auth/logout/").status_code == 200


def suspended(visit: Visit) -> None:
    services.suspend(visit.user, by=RoleGrantFactory(user=UserFactory()).user, reason="left")


def _user(**change: Any) -> Callable[[Visit], None]:
    return lambda visit: User.objects.filter(pk=visit.user.pk).update(**change) and None


def _session(**change: Any) -> Callable[[Visit], None]:
    return lambda visit: Session.objects.filter(pk=visit.session.pk).update(**change) and None


def made_operator(visit: Visit) -> None:
    Session.objects.filter(pk=visit.session.pk).update(created_at=Now() - timedelta(hours=4))
    RoleGrantFactory(user=visit.user)


FATES: dict[str, tuple[Callable[[Visit], None], list[Door]]] = {
    "ended": (ended, OF_SESSION),
    "signed out": (signed_out, OF_SESSION),
    "idle": (_session(last_used_at=Now() - settings.SESSION_IDLE), OF_SESSION),
    "too old": (_session(expires_at=Now()), OF_SESSION),
    "too old for an operator": (made_operator, OF_SESSION),
    "suspended": (suspended, OF_USER),
    "suspended past all services": (_user(suspended_at=Now()), OF_USER),
    "inactive": (_user(is_active=False), OF_USER),
    "erased": (_user(erased_at=Now()), OF_USER),
    "restored": (lambda visit: restored.declare() and None, OF_USER),
}


def test_every_door_is_open_before(visit: Visit) -> None:
    assert [door.__name__ for door in OF_USER if not door(visit)] == []


@pytest.mark.parametrize("fate", FATES)
def test_every_door_is_shut(visit: Visit, fate: str) -> None:
    befalls, doors = FATES[fate]
    befalls(visit)
    assert [door.__name__ for door in doors if door(visit)] == []


def test_what_ends_a_session_leaves_the_token(visit: Visit) -> None:
    ended(visit)
    assert token(visit)


def test_a_revoked_token_leaves_the_session(visit: Visit) -> None:
    ApiToken.objects.update(revoked_at=Now())
    assert [door.__name__ for door in OF_USER if door(visit)] == [door.__name__ for door in OF_SESSION]


def test_use_at_the_gateway_is_use_of_the_sign_in(visit: Visit) -> None:
    Session.objects.update(last_used_at=Now() - timedelta(hours=1))
    entry.renew({visit.entered.sid: False})
    assert Session.objects.get().last_used_at < visit.session.last_used_at - timedelta(minutes=59)
    entry.renew({visit.entered.sid: True})
    assert Session.objects.get().last_used_at >= visit.session.last_used_at
    assert access.live_sessions().exists()
