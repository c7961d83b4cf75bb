"""Our own tokens: hashed, scoped, short-lived, shown once."""

from __future__ import annotations

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from auth import tokens
from auth.models import ApiToken, User
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.clock import Now
from portal.lib.errors import BadRequest
from tests.factories.auth import FacilityFactory, PersonFactory, RoleGrantFactory, UserFactory, bearer, sign_in
from tests.races import ROUNDS, Racers

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


# ---- the page ----
PAGE = "/auth/account/tokens/"


def form(**more: Any) -> dict[str, Any]:
    return {"name": "laptop", "scopes": ["me:read"], "days": "7"} | more


@pytest.fixture
def alice() -> User:
    return UserFactory()


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client()
    sign_in(client, alice)
    return client


def text_on(page: Any) -> str:
    found = re.search(r'value="(bpt_[^"]+)"', page.text)
    assert found, page.text
    return found[1]


def test_a_token_made_on_the_page_is_shown_once_and_works(browser: Client, alice: User) -> None:
    made = browser.post(PAGE, form())
    text = text_on(made)
    assert "no-store" in made.headers["Cache-Control"]
    assert Client().get(ME, headers=bearer(text)).json()["id"] == str(alice.uid)
    again = browser.get(PAGE).text
    assert "laptop" in again
    assert text.split("_", 2)[2] not in again
    assert ApiToken.objects.get().prefix in again
    assert "never" not in again  # it was used


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\x00b"},
        {"scopes": []},
        {"scopes": ["admin:write"]},
        {"days": "0"},
        {"days": "91"},
        {"days": "soon"},
        {"days": ""},
    ],
)
def test_a_wrong_form_makes_none_and_keeps_what_was_typed(browser: Client, wrong: dict[str, Any]) -> None:
    page = browser.post(PAGE, form(**wrong))
    assert page.status_code == 400
    assert "field-error" in page.text
    assert not ApiToken.objects.exists()


def test_revoking_asks_once_more_and_is_at_once(browser: Client, alice: User) -> None:
    text = issued(alice)
    prefix = ApiToken.objects.get().prefix
    path = f"{PAGE}{prefix}/revoke/"
    assert "Keep it" in browser.get(path).text
    assert Client().get(ME, headers=bearer(text)).status_code == 200
    assert browser.post(path).status_code == 302
    assert Client().get(ME, headers=bearer(text)).status_code == 401
    assert "revoked" in browser.get(PAGE).text
    assert browser.post(path).status_code == 404
    assert AuditEvent.objects.get(action="token_revoked").object_id == prefix


def test_nobody_sees_or_revokes_anothers(browser: Client) -> None:
    issued()
    token = ApiToken.objects.get()
    assert token.prefix not in browser.get(PAGE).text
    assert browser.get(f"{PAGE}{token.prefix}/revoke/").status_code == 404
    assert browser.post(f"{PAGE}{token.prefix}/revoke/").status_code == 404
    assert browser.delete(f"{API}/{token.prefix}").status_code == 404
    token.refresh_from_db()
    assert token.revoked_at is None


# ---- the API ----
API = "/api/v1/tokens"


def test_a_session_makes_lists_and_revokes(browser: Client, alice: User) -> None:
    made = browser.post(API, {"name": "CI", "scopes": ["me:read"], "days": 90}, content_type="application/json")
    assert made.status_code == 201
    text = made.json()["token"]
    assert Client().get(ME, headers=bearer(text)).json()["id"] == str(alice.uid)
    (listed,) = browser.get(API).json()["results"]
    assert "token" not in listed
    assert (listed["name"], listed["scopes"], listed["last_used_at"] is None) == ("CI", ["me:read"], False)
    assert browser.delete(f"{API}/{listed['prefix']}").status_code == 204
    assert browser.get(API).json()["results"] == []
    assert Client().get(ME, headers=bearer(text)).status_code == 401


def test_a_token_makes_no_tokens_whatever_its_scopes(client: Client, alice: User) -> None:
    text = issued(alice, tuple(tokens.SCOPES))
    body = {"name": "more", "scopes": ["me:read"]}
    answer = client.post(API, body, content_type="application/json", headers=bearer(text))
    assert answer.status_code == 403
    assert ApiToken.objects.count() == 1


@pytest.mark.parametrize(("scopes", "reads", "revokes"), [(("tokens:read",), 200, 403), (("tokens:write",), 403, 204)])
def test_a_token_lists_and_revokes_by_its_scopes(
    client: Client, alice: User, scopes: tuple[str, ...], reads: int, revokes: int
) -> None:
    text = issued(alice, scopes)
    assert client.get(API, headers=bearer(text)).status_code == reads
    prefix = ApiToken.objects.get().prefix
    assert client.delete(f"{API}/{prefix}", headers=bearer(text)).status_code == revokes


def test_csrf_is_needed_with_a_session(alice: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    sign_in(strict, alice)
    assert strict.post(API, {"name": "x", "scopes": ["me:read"]}, content_type="application/json").status_code == 403
    assert strict.post(PAGE, form()).status_code == 403
    assert not ApiToken.objects.exists()


# ---- limits ----
def test_not_too_many_an_hour(browser: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_AN_HOUR", 2)
    for _ in range(2):
        issued(alice)
    page = browser.post(PAGE, form())
    assert page.status_code == 429
    assert "within an hour" in page.text
    call = browser.post(API, {"name": "x", "scopes": ["me:read"]}, content_type="application/json")
    assert (call.status_code, call.headers["Retry-After"]) == (429, "3600")
    ApiToken.objects.update(created_at=clock.now() - timedelta(hours=1, seconds=1))
    assert browser.post(PAGE, form()).status_code == 200


def test_not_too_many_at_a_time(browser: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 2)
    for _ in range(2):
        issued(alice)
    assert browser.post(PAGE, form()).status_code == 409
    ApiToken.objects.update(revoked_at=Now())
    assert browser.post(PAGE, form()).status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", ROUNDS)
def test_many_at_once_are_not_more(attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST", 3)
    user, racers = UserFactory(), Racers(10)
    try:
        answers = racers.run(lambda: issued(User.objects.get(pk=user.pk)))
    finally:
        racers.close()
    assert sum(isinstance(answer, str) for answer in answers) == 3, answers
    assert ApiToken.objects.count() == 3
