"""A session is a row that decides; its key is nowhere but in the browser."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.core.handlers.wsgi import WSGIRequest
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from auth import access, services
from auth.middleware import SessionPolicy
from auth.models import Group, GroupMember, GroupRole, LoginState, Session, UsedLogoutToken
from auth.oidc.proof import SignInProof
from auth.sessions import SessionStore
from portal.lib import bus
from portal.lib.clock import Now
from portal.lib.errors import Conflict, Forbidden
from portal.lib.hashing import digest
from tests.factories.auth import FacilityFactory, IdentityFactory, RoleGrantFactory, UserFactory, sign_in

pytestmark = pytest.mark.django_db


def stored() -> SessionStore:
    store = SessionStore()
    store["colour"] = "green"
    store.save()
    return store


def published(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "portal.lib.bus.publish", lambda topic, message: heard.append(message) if topic == bus.GATEWAY else None
    )
    return heard


def seen_by(client: Client) -> WSGIRequest:
    """Send a request through the session middleware's own way and return what the view would see."""
    request = RequestFactory().get("/")
    key = client.cookies[settings.SESSION_COOKIE_NAME].value
    request.META["HTTP_COOKIE"] = f"{settings.SESSION_COOKIE_NAME}={key}"
    request.session = SessionStore(key)
    from django.contrib.auth import get_user

    request.user = get_user(request)
    SessionPolicy(lambda _: HttpResponse())(request)
    return request


def test_the_key_is_stored_only_as_its_digest() -> None:
    store = stored()
    row = Session.objects.get()
    assert row.key_hash == digest(store.session_key or "")
    assert store.session_key not in str(row.__dict__)


def test_a_session_comes_back_by_its_key() -> None:
    assert SessionStore(stored().session_key)["colour"] == "green"


def test_an_unknown_key_is_not_adopted() -> None:
    store = SessionStore("chosen-by-an-attacker-0123456789")
    store["colour"] = "red"
    store.save()
    assert store.session_key != "chosen-by-an-attacker-0123456789"


def test_looking_around_stores_no_session(client: Client) -> None:
    client.get("/auth/sign-in/")
    client.get("/api/v1/me")
    assert not Session.objects.exists()


def test_a_visitor_gets_a_row_when_something_has_to_be_noted() -> None:
    store = SessionStore()
    assert store.live_row() is None
    row = store.ensure_row()
    key = store.session_key or ""
    assert len(key) == 32
    assert store.modified
    assert store.ensure_row() == SessionStore(key).live_row() == SessionStore(key).ensure_row() == row
    assert Session.objects.count() == 1
    assert store.exists(key)
    assert not store.exists("another")
    fresh = SessionStore()
    fresh.create()
    assert SessionStore(fresh.session_key).live_row() == fresh.row


def test_use_is_noted_once_a_while(client: Client) -> None:
    row = sign_in(client, UserFactory())
    for ago, writes in ((timedelta(), 0), (timedelta(minutes=30), 1)):
        Session.objects.update(last_used_at=Now() - ago)
        with CaptureQueriesContext(connection) as asked:
            assert seen_by(client).auth_session == row  # type: ignore[attr-defined]
        assert sum(query["sql"].startswith("UPDATE") for query in asked) == writes


@pytest.mark.parametrize(
    "fate",
    [
        {"ended_at": Now()},
        {"expires_at": Now()},
        {"last_used_at": Now() - settings.SESSION_IDLE},
    ],
    ids=["ended", "too-old", "idle"],
)
def test_a_dead_session_is_neither_read_nor_written_again(fate: dict[str, Any]) -> None:
    in_flight = SessionStore(stored().session_key)
    assert in_flight["colour"] == "green"
    Session.objects.update(**fate)
    in_flight["colour"] = "red"
    with pytest.raises(UpdateError):
        in_flight.save()
    assert SessionStore(in_flight.session_key).get("colour") is None


def test_what_is_written_is_not_written_again(django_assert_num_queries: Any) -> None:
    store = SessionStore(stored().session_key)
    store["things"] = ["one"]
    store.save()
    with django_assert_num_queries(0):
        store["things"] = ["one"]
        store.save()
    store["things"].append("two")
    store.save()
    assert SessionStore(store.session_key)["things"] == ["one", "two"]


def test_what_was_read_is_written_when_it_changes_inside(django_assert_num_queries: Any) -> None:
    store = stored()
    Session.objects.update(data={"things": []})
    again = SessionStore(store.session_key)
    again["things"].append("one")
    again.save()
    assert SessionStore(store.session_key)["things"] == ["one"]


def test_a_new_key_revives_no_dead_session() -> None:
    in_flight = SessionStore(stored().session_key)
    assert in_flight["colour"] == "green"
    Session.objects.update(ended_at=Now())
    with pytest.raises(UpdateError):
        in_flight.cycle_key()
    assert Session.objects.count() == 1
    assert not access.live_sessions().exists()


def test_async_code_changes_the_key_as_well() -> None:
    store = stored()
    before = store.session_key
    async_to_sync(store.acycle_key)()
    assert store.session_key != before
    assert SessionStore(store.session_key)["colour"] == "green"
    assert SessionStore(before).live_row() is None


def test_a_deleted_row_is_not_made_again() -> None:
    in_flight = SessionStore(stored().session_key)
    in_flight["colour"] = "red"
    Session.objects.all().delete()
    with pytest.raises(UpdateError):
        in_flight.save()
    assert not Session.objects.exists()


def test_a_session_lives_twelve_hours_at_most_and_two_unused(client: Client) -> None:
    row = sign_in(client, UserFactory())
    assert row.expires_at - row.created_at == pytest.approx(timedelta(hours=12), abs=timedelta(seconds=1))
    assert timedelta(hours=2) == settings.SESSION_IDLE


def made(ago: timedelta) -> None:
    Session.objects.update(created_at=Now() - ago)


@pytest.mark.parametrize("role", ["admin", "operator"])
def test_who_runs_the_portal_is_signed_in_for_four_hours_at_most(client: Client, role: str) -> None:
    sign_in(client, RoleGrantFactory(role=role, facility=FacilityFactory()).user)
    made(timedelta(hours=3, minutes=59))
    assert client.get("/api/v1/me").status_code == 200
    made(timedelta(hours=4))
    assert client.get("/api/v1/me").status_code == 401


def test_others_stay_for_twelve(client: Client) -> None:
    user = UserFactory()
    RoleGrantFactory(user=user, role="staff")
    RoleGrantFactory(user=user, role="admin", expires_at=Now())
    RoleGrantFactory(role="admin")
    sign_in(client, user)
    made(timedelta(hours=11, minutes=59))
    assert client.get("/api/v1/me").status_code == 200


def test_a_role_that_is_granted_meanwhile_shortens_the_session(client: Client) -> None:
    user = UserFactory()
    sign_in(client, user)
    made(timedelta(hours=5))
    assert client.get("/api/v1/me").status_code == 200
    RoleGrantFactory(user=user, role="operator")
    assert client.get("/api/v1/me").status_code == 401


def test_a_role_through_a_group_shortens_it_too(client: Client) -> None:
    user = UserFactory()
    group = Group.objects.create(slug="operators", title="Operators")
    GroupRole.objects.create(group=group, role="operator")
    member = GroupMember.objects.create(user=user, group=group)
    sign_in(client, user)
    made(timedelta(hours=5))
    assert not access.live_sessions().exists()
    member.delete()
    assert client.get("/api/v1/me").status_code == 200


def test_use_moves_the_idle_clock_but_not_the_end(client: Client) -> None:
    row = sign_in(client, UserFactory())
    Session.objects.update(last_used_at=Now() - timedelta(hours=1))
    assert client.get("/api/v1/me").status_code == 200
    after = Session.objects.get()
    assert after.last_used_at > row.last_used_at - timedelta(minutes=1)
    assert after.expires_at == row.expires_at


def test_use_never_revives_an_idle_session(client: Client) -> None:
    row = sign_in(client, UserFactory())
    Session.objects.update(last_used_at=Now() - settings.SESSION_IDLE)
    access.touch(row.pk)
    assert client.get("/api/v1/me").status_code == 401


def test_signing_in_changes_the_key_and_keeps_what_hangs_on_the_row(client: Client) -> None:
    store = stored()
    before = store.session_key
    request = RequestFactory().get("/")
    request.session = store
    session = services.open_session(request, IdentityFactory(), SignInProof())
    assert store.session_key != before
    assert Session.objects.get() == session
    assert SessionStore(before).get("colour") is None


def test_another_user_in_the_same_browser_ends_the_first_session(client: Client) -> None:
    request = RequestFactory().get("/")
    request.session = SessionStore()
    first = services.open_session(request, IdentityFactory(), SignInProof())
    second = services.open_session(request, IdentityFactory(), SignInProof())
    first.refresh_from_db()
    assert first.pk != second.pk
    assert first.ended_at is not None


def test_the_same_user_again_keeps_the_row_with_a_new_key(client: Client) -> None:
    identity = IdentityFactory()
    request = RequestFactory().get("/")
    request.session = SessionStore()
    first = services.open_session(request, identity, SignInProof())
    key = request.session.session_key
    second = services.open_session(request, identity, SignInProof())
    assert first.pk == second.pk
    assert request.session.session_key != key


def test_the_request_knows_its_session_row(client: Client) -> None:
    identity = IdentityFactory()
    row = sign_in(client, identity.user, identity)
    assert row.identity == identity
    request = seen_by(client)
    assert request.auth_session == row  # type: ignore[attr-defined]


def test_a_doubled_session_cookie_is_refused(client: Client) -> None:
    sign_in(client, UserFactory())
    key = client.cookies[settings.SESSION_COOKIE_NAME].value
    doubled = f"__Host-sid=planted; __Host-sid={key}"
    assert Client().get("/auth/account/", headers={"Cookie": doubled}).status_code == 400


@pytest.mark.parametrize("fate", [{"suspended_at": Now()}, {"is_active": False}, {"erased_at": Now()}])
def test_who_may_not_sign_in_has_no_session(client: Client, fate: dict[str, Any]) -> None:
    user = UserFactory()
    row = sign_in(client, user)
    assert client.get("/api/v1/me").status_code == 200
    type(user).objects.filter(pk=user.pk).update(**fate)
    assert client.get("/api/v1/me").status_code == 401
    assert not access.live_sessions().filter(pk=row.pk).exists()
    assert access.active_user(user.pk) is None


def test_suspension_ends_every_session_and_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = published(monkeypatch)
    user, operator = UserFactory(), RoleGrantFactory().user
    rows = {sign_in(client, user).pk, sign_in(Client(), user).pk}
    services.suspend(user, by=operator, reason="asked by the security contact")
    assert {message["login_session"] for message in heard} == rows
    assert not Session.objects.filter(user=user, ended_at=None).exists()
    user.refresh_from_db()
    assert not user.may_sign_in


def test_suspension_is_undone_but_its_sessions_stay_dead(client: Client) -> None:
    user, operator = UserFactory(), RoleGrantFactory().user
    sign_in(client, user)
    services.suspend(user, by=operator, reason="mistake")
    with pytest.raises(Conflict):
        services.suspend(user, by=operator, reason="twice")
    services.reinstate(user, by=operator)
    assert client.get("/api/v1/me").status_code == 401
    sign_in(client, user)
    assert client.get("/api/v1/me").status_code == 200


def test_nobody_else_suspends() -> None:
    user = UserFactory()
    with pytest.raises(Forbidden):
        services.suspend(user, by=UserFactory(), reason="envy")
    user.refresh_from_db()
    assert user.may_sign_in


def test_logout_is_a_post_and_tells_the_gateways(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = published(monkeypatch)
    row = sign_in(client, UserFactory())
    assert client.get("/auth/logout/").status_code == 405
    assert client.get("/api/v1/me").status_code == 200
    assert client.post("/auth/logout/").status_code == 200
    assert heard == [{"login_session": row.pk}]
    assert client.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize("column", ["ended_at", "expires_at"])
def test_dead_rows_are_kept_a_day_and_then_go(column: str) -> None:
    stays = stored()
    dead = Session.objects.exclude(pk=stays.ensure_row().pk)
    stored()
    dead.update(**{column: Now() - timedelta(hours=23)})
    SessionStore.clear_expired()
    assert dead.exists()
    dead.update(**{column: Now() - timedelta(hours=25)})
    SessionStore.clear_expired()
    assert Session.objects.get() == stays.row


def test_a_deleted_session_takes_no_other_along() -> None:
    gone, stays = stored(), stored()
    gone.delete()
    assert SessionStore(gone.session_key).live_row() is None
    assert SessionStore(stays.session_key).live_row() == stays.row
    gone.delete(stays.session_key)
    assert not access.live_sessions().exists()


def test_attempts_and_used_logout_tokens_go_with_them() -> None:
    store = stored()
    assert store.row is not None
    LoginState.objects.create(state_hash="old", session=store.row, created_at=Now() - timedelta(hours=25))
    LoginState.objects.create(state_hash="new", session=store.row, created_at=Now() - timedelta(hours=23))
    UsedLogoutToken.objects.create(issuer="i", jti_hash="old", expires_at=Now() - timedelta(seconds=1))
    UsedLogoutToken.objects.create(issuer="i", jti_hash="new", expires_at=Now() + timedelta(seconds=60))
    SessionStore.clear_expired()
    assert LoginState.objects.get().state_hash == "new"
    assert UsedLogoutToken.objects.get().jti_hash == "new"


def test_an_ended_session_keeps_neither_data_nor_id_token(client: Client) -> None:
    row = sign_in(client, UserFactory())
    Session.objects.update(id_token="sealed")
    services.end_session(row)
    row.refresh_from_db()
    assert (row.data, row.id_token) == ({}, "")


@pytest.mark.parametrize("path", ["/instances/", "/api/v1/me"])
def test_a_script_whose_session_has_ended_gets_401_as_json(client: Client, path: str) -> None:
    row = sign_in(client, UserFactory())
    script = {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}
    assert client.get(path, headers=script).status_code == 200
    services.end_session(row)
    answer = client.get(path, headers=script)
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")
    assert answer.json()["code"] == "not-signed-in"
    assert client.get("/instances/").status_code == 302


@pytest.mark.parametrize(
    ("method", "headers", "counts"),
    [("get", {}, True), ("get", {"HX-Request": "true"}, False), ("post", {"HX-Request": "true"}, True)],
)
def test_a_page_that_refreshes_itself_is_nobody_at_work(
    client: Client, method: str, headers: dict[str, str], counts: bool
) -> None:
    sign_in(client, UserFactory())
    Session.objects.update(last_used_at=Now() - timedelta(hours=1))
    before = Session.objects.get().last_used_at
    getattr(client, method)("/", headers=headers)
    assert (Session.objects.get().last_used_at > before) is counts
