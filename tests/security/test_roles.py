"""Who gets what at every address: asked, written down in docs/reference/access.md, and compared ever after.

A new address, or one that answers somebody otherwise than before, fails until the page says so:
`BEAMPORT_WRITE_ACCESS=1` writes it anew, and the difference is to be read in the commit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from auth import services as people
from auth import tokens
from auth.models import ApiToken, ErasureRequest, Identity, Session, User
from auth.roles import InstanceRole, Role
from instances.lifecycle import State, Target
from instances.models import Home, Instance, Member
from portal import asgi, internal
from tests.factories.auth import RoleGrantFactory, UserFactory, bearer, sign_in
from tests.factories.experiments import join_team
from tests.routes import TABLE, Route, World, patterns, world

__all__ = ["world"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "access.md"

#: in the order of the page's columns
ROLES = (
    "visitor",
    "stranger",
    "suspended",
    "team",
    "guest",
    "support",
    "user",
    "owner",
    "operator",
    "admin",
    "token",
)
#: the state in which a verb makes sense
FITTING = {
    "start": (State.STOPPED, Target.STOPPED),
    "stop": (State.ACTIVE, Target.ACTIVE),
    "reboot": (State.ACTIVE, Target.ACTIVE),
    "retry": (State.ERROR, Target.ACTIVE),
}


def callers(world: World) -> dict[str, Client]:
    """A browser for each role; `token` is a stranger's API token that may only read who he is."""
    found = {role: client_of(world, role) for role in ROLES}
    people.suspend(User.objects.get(handle="suspended"), by=User.objects.get(handle="admin"), reason="test")
    return found


def client_of(world: World, role: str) -> Client:
    client = Client(raise_request_exception=False, headers={"Sec-Fetch-Dest": "document"})
    if role == "visitor":
        return client
    user = world.owner if role == "owner" else UserFactory(handle=role)
    if role in ("team", "owner"):
        join_team(user, world.experiment)
    if role in (InstanceRole.GUEST, InstanceRole.SUPPORT, InstanceRole.USER):
        Member.objects.create(instance=world.instance, user=user, role=role)
    if role in (Role.OPERATOR, Role.ADMIN):
        RoleGrantFactory(user=user, role=role)
    if role == "token":
        _token, text = tokens.issue(user, scopes=["me:read"], lasts=timedelta(days=1))
        client.defaults["HTTP_AUTHORIZATION"] = bearer(text)["Authorization"]
    else:
        sign_in(client, user)
    return client


def state_of_things() -> Any:
    """What an act could have changed."""
    return (
        list(Instance.objects.order_by("pk").values_list("pk", "target", "reboot_asked_at", "attempt", "state")),
        list(Home.objects.order_by("pk").values_list("pk", "deleting_at")),
        list(Session.objects.order_by("pk").values_list("pk", "ended_at")),
        list(Identity.objects.order_by("pk").values_list("pk")),
        list(ApiToken.objects.order_by("pk").values_list("pk", "revoked_at")),
        list(ErasureRequest.objects.order_by("pk").values_list("pk", "outcome")),
    )


def answer(client: Client, method: str, route: Route, world: World) -> str:
    """What this caller gets, with nothing left behind: the status, and of a redirect what it means."""
    verb = route.address.rstrip("/").rpartition("/")[2]
    cookies = copy(client.cookies)
    with transaction.atomic():
        state, target = FITTING.get(verb, (State.ACTIVE, Target.ACTIVE))
        Instance.objects.filter(pk=world.instance.pk).update(state=state, target=target)
        before = state_of_things()
        response = client.generic(method, world.address(route), **body_of(route, method, world))
        changed = state_of_things() != before
        transaction.set_rollback(True)
    client.cookies = cookies
    status = response.status_code
    where = response.headers.get("Location", "")
    assert not changed or status in (200, 201, 202, 204, 302), "refused, and done all the same"
    if status in (301, 302, 303):
        if "/auth/sign-in/" in where:
            return "sign in"
        if ".portal/enter" in where:
            return "enters"
        return "done" if changed else "refused" if method == "POST" else str(status)
    return "done" if changed else str(status)


def body_of(route: Route, method: str, world: World) -> dict[str, Any]:
    """A body that would do, were it not for the rights."""
    if method not in ("POST", "DELETE"):
        return {}
    if route.is_api:
        new = {"plan": world.instance.plan.slug, "name": "n", "experiments": [str(world.experiment.uid)]}
        token = {"name": "n", "scopes": ["me:read"], "days": 1}
        bodies = {"/api/v1/instances": new, "/api/v1/tokens": token}
        wanted = bodies.get(route.address) if method == "POST" else None
        return {"data": json.dumps(wanted) if wanted else b"", "content_type": "application/json"}
    form = f"plan={world.instance.plan.slug}&name=n&experiments={world.experiment.uid}&idempotency_key={'a' * 32}"
    form += f"&confirmation={world.instance.facility.slug}&scopes=me:read&days=1"
    return {"data": form, "content_type": "application/x-www-form-urlencoded"}


def rows(world: World, clients: dict[str, Client]) -> Iterator[tuple[str, list[str]]]:
    for route in TABLE.values():
        for method in route.methods.split():
            address = route.address.partition("?")[0]
            yield f"{method} {address}", [answer(clients[role], method, route, world) for role in ROLES]


HEAD = """# Who gets what

Written by a test that asks every address as everybody (`tests/security/test_roles.py`); not to be edited by hand.
The world it asks about: an instance and a home of *owner*; *guest*, *support* and *user* have those roles on the
instance; an experiment under embargo with *owner* and *team* in its team. *stranger* is signed in and has nothing to do
with any of it; *suspended* was the same until a moment ago; *operator* and *admin* have those roles on the portal;
*token* is a stranger's API token with the scope `me:read`.

A number is the HTTP status. *done*: something was changed or made. *refused*: back to the page with the reason, nothing
changed. *sign in*: sent to the sign-in page. *enters*: sent on to the instance with a ticket. 404 is the same for what
is hidden and what does not exist. The sign-in provider that is asked for does not exist.

"""

TAIL = """
Besides these: `/ws/events` (WebSocket) tells everybody signed in about their own instances alone and closes with 4401
for all others; `/static/` is public. The internal address, on a socket of its own, answers nobody without the gateway's
token.
"""


@pytest.mark.timeout(240)  # five hundred requests
@pytest.mark.django_db
def test_everybody_gets_what_the_page_says(world: World) -> None:
    table = list(rows(world, callers(world)))
    lines = [f"| | {' | '.join(ROLES)} |", "|---" * (len(ROLES) + 1) + "|"]
    lines += [f"| `{name}` | {' | '.join(cells)} |" for name, cells in table]
    text = HEAD + "\n".join(lines) + "\n" + TAIL
    if os.environ.get("BEAMPORT_WRITE_ACCESS"):
        PAGE.write_text(text)
    assert text.splitlines() == PAGE.read_text().splitlines()


# ---- what must hold of the page, whatever it says ----


def written() -> dict[str, dict[str, str]]:
    found = re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE.read_text(), re.M)
    return {name: dict(zip(ROLES, cells.split(" | "), strict=True)) for name, cells in found}


def test_every_address_is_on_the_page() -> None:
    assert sorted(patterns()) == sorted(TABLE)
    expected = {f"{m} {route.address.partition('?')[0]}" for route in TABLE.values() for m in route.methods.split()}
    assert set(written()) == expected


#: what everybody may do with what is theirs alone
OWN = ("logout", "/auth/account/", "/api/v1/tokens", "POST /instances/new", "POST /api/v1/instances")

#: rule → does a row of the page keep it
RULES: dict[str, Callable[[str, dict[str, str]], bool]] = {
    "a crash is nobody's right": lambda name, row: all(not cell.startswith("50") for cell in row.values()),
    "a suspended user is a visitor": lambda name, row: row["suspended"] == row["visitor"],
    "a role on the portal opens nobody's things": lambda name, row: (
        "new" in name or "/admin/" in name or (row["operator"] == row["stranger"] == row["admin"])
    ),
    "the administration is there for operators and admins alone": lambda name, row: (
        "/admin/" not in name
        or {cell for role, cell in row.items() if role not in (Role.OPERATOR, Role.ADMIN)} <= {"404", "sign in"}
    ),
    "a guest changes nothing": lambda name, row: row["guest"] != "done" or any(own in name for own in OWN),
    "only the owner deletes": lambda name, row: (
        not ("delete" in name or name.startswith("DELETE"))
        or {role for role, cell in row.items() if cell == "done"} <= {"owner"}
    ),
    "a token does what its scopes say": lambda name, row: row["token"] != "done",
    "reading changes nothing": lambda name, row: not name.startswith("GET") or "done" not in row.values(),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_page_keeps_the_rule(rule: str) -> None:
    assert {name: row for name, row in written().items() if not RULES[rule](name, row)} == {}


def test_what_is_open_to_everybody_is_a_short_list() -> None:
    """A new public address is a decision, not an accident."""
    public = {name for name, row in written().items() if row["visitor"] not in ("sign in", "401", "404")}
    assert public == {
        "GET /",
        "GET /healthz",
        "GET /readyz",
        "GET /auth/sign-in/",
        "GET /auth/person/",
        "GET /auth/policies/privacy/",
        "POST /auth/logout/",
        "GET /auth/signed-out/",
        "GET /search",
        "GET /experiments",
        "GET /api/v1/openapi.json",
        "GET /api/v1/experiments",
    }


# ---- what is not in Django's URL configuration ----


def test_there_is_one_websocket() -> None:
    router = asgi.application.application_mapping["websocket"]
    assert [str(route.pattern) for route in router.routes] == ["ws/events"]


def test_what_the_gateway_may_ask_is_listed_and_not_routed() -> None:
    assert set(internal._ANSWERS) == {"/redeem", "/renew", "/ready", "/report"}
    paths = {*internal._ANSWERS, "/stream", "/snapshot"}
    assert not [path for path in paths for known in patterns() if path.strip("/") == known.strip("/")]


# ---- what a body may not set ----

FORBIDDEN: dict[str, Any] = {
    "owner": "mallory",
    "owner_id": 1,
    "user": 1,
    "quota": 99,
    "state": "active",
    "target": "deleted",
    "is_staff": True,
    "is_superuser": True,
    "provider": "other",
    "provider_id": 1,
    "ref": "vm-of-another",
    "expires_at": "2099-01-01T00:00:00Z",
    "host_ip": "169.254.169.254",
    "endpoints": [{"kind": "tcp", "host": "127.0.0.1", "port": 5432}],
    "slug": "aaaaaaaaaaaaaaaa",
    "uid": "00000000-0000-0000-0000-000000000001",
    "secret_epoch": 2,
    "home": 1,
    "members": [{"user": 1, "role": "owner"}],
    "role": "owner",
}


@pytest.mark.django_db
@pytest.mark.parametrize("field", FORBIDDEN)
def test_a_body_sets_nothing_but_what_it_may(field: str, world: World) -> None:
    join_team(world.owner, world.experiment)
    client = Client()
    sign_in(client, world.owner)
    wanted = {"plan": world.instance.plan.slug, "name": "n", "experiments": [str(world.experiment.uid)]}
    call = client.post("/api/v1/instances", {**wanted, field: FORBIDDEN[field]}, content_type="application/json")
    assert call.status_code == 400
    assert field in call.json()["errors"]
    form = {**wanted, "idempotency_key": "a" * 32, field: str(FORBIDDEN[field])}
    assert client.post("/instances/new", form).status_code == 302
    made = Instance.objects.exclude(pk=world.instance.pk).get()
    assert (made.owner, made.state, made.target) == (world.owner, State.REQUESTED, Target.ACTIVE)
    assert (made.provider, made.ref, made.endpoints, made.secret_epoch) == (world.instance.provider, "", [], 1)
    assert str(made.slug) != FORBIDDEN["slug"]
    assert str(made.uid) != FORBIDDEN["uid"]
    assert [(member.user, member.role) for member in made.memberships.all()] == [(world.owner, "owner")]
    world.owner.refresh_from_db()
    assert not getattr(world.owner, "is_staff", False)
    assert not getattr(world.owner, "is_superuser", False)
    for verb in ("stop", "start", "reboot", "retry"):
        path = f"/api/v1/instances/{made.uid}/{verb}"
        assert client.post(path, {field: FORBIDDEN[field]}, content_type="application/json").status_code == 400
