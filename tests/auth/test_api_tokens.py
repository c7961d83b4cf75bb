"""Our own tokens: hashed, scoped, short-lived, shown once."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from auth import tokens
from auth.models import ApiToken, User
from portal.lib import clock
from portal.lib.clock import Now
from portal.lib.errors import BadRequest
from tests.factories.auth import FacilityFactory, PersonFactory, RoleGrantFactory, UserFactory, bearer, sign_in

pytestmark = pytest.mark.django_db

ME = "/api/v1/me"


def issued(user: User | None = None, scopes: tuple[str, ...] = ("me:read",)) -> str:
    return tokens.issue(user or UserFactory(), scopes=scopes, lasts=timedelta(days=1))[1]


def test_a_token_says_who_one_is(client: Client) -> None:
    user = UserFactory()
    facility = FacilityFactory(slug="xfel")
    RoleGrantFactory(user=user, facility=facility)
    PersonFactory(user=user, facility=facility, external_id="X-1")
    answer = client.get(ME, headers=bearer(issued(user)))
    assert answer.status_code == 200
    assert answer.json() == {
        "id": str(user.uid),
        "handle": user.handle,
        "name": user.display_name,
        "email": user.email,
        "roles": [{"role": "operator", "facility": "xfel"}],
        "persons": [{"facility": "xfel", "id": "X-1"}],
    }


def test_the_database_does_not_know_the_token() -> None:
    text = issued()
    row = ApiToken.objects.get()
    assert text.startswith(f"bpt_{row.prefix}_")
    assert text.removeprefix(f"bpt_{row.prefix}_") not in str(row.__dict__)


def test_asking_without_a_token_is_unauthorised(client: Client) -> None:
    answer = client.get(ME)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["code"] == "not-signed-in"


@pytest.mark.parametrize(
    "text", ["", "bpt", "bpt__", "bpt_x_y", "eyJhbGciOiJub25lIn0.e30.", "bpt_\x00_x", "é", "bpt_a_b c"]
)
def test_what_is_no_token_of_ours_is_refused(client: Client, text: str) -> None:
    issued()
    header = f"Bearer {text}".encode().decode("latin-1")
    assert client.get(ME, HTTP_AUTHORIZATION=header).status_code == 401


def test_a_wrong_secret_is_refused(client: Client) -> None:
    assert client.get(ME, headers=bearer(issued()[:-1] + "!")).status_code == 401


def test_a_session_does_not_help_a_wrong_token(client: Client) -> None:
    sign_in(client, UserFactory())
    assert client.get(ME).status_code == 200
    assert client.get(ME, headers=bearer("bpt_x_y")).status_code == 401


def test_a_token_in_the_query_string_is_not_looked_at(client: Client) -> None:
    text = issued()
    for name in ("token", "access_token", "bearer_token"):
        assert client.get(ME, {name: text}).status_code == 401


@pytest.mark.parametrize("fate", [{"revoked_at": Now()}, {"expires_at": Now()}])
def test_a_revoked_or_expired_token_is_refused(client: Client, fate: dict[str, Any]) -> None:
    text = issued()
    assert client.get(ME, headers=bearer(text)).status_code == 200
    ApiToken.objects.update(**fate)
    assert client.get(ME, headers=bearer(text)).status_code == 401


@pytest.mark.parametrize("fate", [{"suspended_at": Now()}, {"is_active": False}, {"erased_at": Now()}])
def test_a_suspended_users_token_is_refused(client: Client, fate: dict[str, Any]) -> None:
    text = issued()
    User.objects.update(**fate)
    assert client.get(ME, headers=bearer(text)).status_code == 401


def test_a_token_does_only_what_its_scopes_say(client: Client) -> None:
    answer = client.get(ME, headers=bearer(issued(scopes=("instances:write",))))
    assert answer.status_code == 403
    assert answer.json()["code"] == "forbidden"


def test_use_is_noted(client: Client) -> None:
    text = issued()
    client.get(ME, headers=bearer(text))
    assert ApiToken.objects.get().last_used_at is not None


@pytest.mark.parametrize("scopes", [(), ("everything",), ("me:read", "admin:write")])
def test_scopes_that_do_not_exist_are_refused(scopes: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest):
        tokens.issue(UserFactory(), scopes=scopes, lasts=timedelta(days=1))


@pytest.mark.parametrize("days", [0, -1, 91])
def test_a_token_lasts_ninety_days_at_most(days: int) -> None:
    with pytest.raises(BadRequest):
        tokens.issue(UserFactory(), scopes=["me:read"], lasts=timedelta(days=days))
    assert not ApiToken.objects.exists()


def test_the_command_prints_a_token_that_works_and_keeps_none(client: Client) -> None:
    user = UserFactory(handle="jana-x7")
    out = StringIO()
    call_command("api_token", "jana-x7", "--scopes", "me:read,instances:read", "--days", "7", stdout=out, stderr=out)
    text = next(line for line in out.getvalue().splitlines() if line.startswith("bpt_"))
    assert client.get(ME, headers=bearer(text)).json()["id"] == str(user.uid)
    row = ApiToken.objects.get()
    assert row.scopes == ["instances:read", "me:read"]
    assert timedelta(days=6) < row.expires_at - clock.now() <= timedelta(days=7)


def test_the_command_finds_a_user_by_the_persons_or_accounts_id_too(client: Client) -> None:
    user = UserFactory()
    out = StringIO()
    call_command("api_token", str(user.uid), stdout=out, stderr=out)
    assert "bpt_" in out.getvalue()


def test_the_command_says_what_is_wrong() -> None:
    with pytest.raises(CommandError, match="nobody"):
        call_command("api_token", "nobody")
    UserFactory(handle="jana-x7")
    with pytest.raises(CommandError, match="Scopes are"):
        call_command("api_token", "jana-x7", "--scopes", "all")
    with pytest.raises(CommandError, match="90 days"):
        call_command("api_token", "jana-x7", "--days", "365")
    User.objects.update(is_active=False)
    with pytest.raises(CommandError, match="may not sign in"):
        call_command("api_token", "jana-x7")
