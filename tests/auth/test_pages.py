"""The account page: mine alone, readable, and where a session is ended."""

from __future__ import annotations

import pytest
from django.contrib.auth import SESSION_KEY, authenticate
from django.test import Client

from auth.models import Session
from portal.audit import AuditEvent
from tests.factories.auth import FacilityFactory, IdentityFactory, PersonFactory, RoleGrantFactory, UserFactory, sign_in

pytestmark = pytest.mark.django_db


def test_a_stranger_is_asked_to_sign_in_first(client: Client) -> None:
    response = client.get("/auth/account/")
    assert response.status_code == 302
    assert response.headers["Location"] == "/auth/sign-in/?next=%2Fauth%2Faccount%2F"


def test_it_says_who_one_is(client: Client) -> None:
    identity = IdentityFactory(user__display_name="Jana <b>Nováková</b>", user__email="jana@facility.example")
    facility = FacilityFactory(name="European XFEL (demo)")
    PersonFactory(user=identity.user, facility=facility, external_id="X-1001")
    RoleGrantFactory(user=identity.user, facility=facility)
    sign_in(client, identity.user, identity)
    text = client.get("/auth/account/").content.decode()
    assert "Jana &lt;b&gt;Nováková" in text
    assert "not confirmed by your provider" in text
    assert "X-1001 at the user office of European XFEL (demo)" in text
    assert "operator at European XFEL (demo)" in text


def test_it_shows_my_sessions_and_nobody_elses(client: Client) -> None:
    user = UserFactory()
    mine, other = sign_in(client, user), sign_in(Client(), user)
    strangers = sign_in(Client(), UserFactory())
    text = client.get("/auth/account/sessions/").content.decode()
    assert f"/auth/account/sessions/{mine.uid}/end/" in text
    assert f"/auth/account/sessions/{other.uid}/end/" in text
    assert str(strangers.uid) not in text


def test_this_session_is_marked_and_stands_first(client: Client) -> None:
    user = UserFactory()
    mine = sign_in(client, user)
    sign_in(Client(), user)
    text = client.get("/auth/account/sessions/").text
    assert text.count("(this one)") == 1
    assert text.index("(this one)") < text.index(str(mine.uid)) < text.index("the session since")


def test_all_other_sessions_end_at_once_and_no_strangers(client: Client) -> None:
    user, others, stranger = UserFactory(), [Client(), Client()], Client()
    sign_in(stranger, UserFactory())
    for browser in (client, *others):
        sign_in(browser, user)
    assert client.post("/auth/account/sessions/end-others/").status_code == 302
    assert [browser.get("/api/v1/me").status_code for browser in (client, *others, stranger)] == [200, 401, 401, 200]
    (row,) = AuditEvent.objects.filter(action="other_sessions_ended")
    assert (row.actor_uid, row.detail) == (user.uid, {"sessions": 2})
    assert "no other session" in client.get("/auth/account/sessions/").text


def test_a_session_elsewhere_can_be_ended(client: Client) -> None:
    user, elsewhere = UserFactory(), Client()
    sign_in(client, user)
    other = sign_in(elsewhere, user)
    assert client.post(f"/auth/account/sessions/{other.uid}/end/").status_code == 302
    assert elsewhere.get("/api/v1/me").status_code == 401
    assert client.get("/api/v1/me").status_code == 200


def test_nobody_ends_anothers_session(client: Client) -> None:
    victim = sign_in(Client(), UserFactory())
    path = f"/auth/account/sessions/{victim.uid}/end/"
    assert client.post(path).status_code == 404
    sign_in(client, UserFactory())
    assert client.post(path).status_code == 404
    assert client.get(path).status_code == 405
    assert Session.objects.get(pk=victim.pk).ended_at is None


def test_the_sign_in_page_sends_the_signed_in_on(client: Client) -> None:
    sign_in(client, UserFactory())
    assert client.get("/auth/sign-in/?next=/instances").headers["Location"] == "/instances"
    assert client.get("/auth/sign-in/?next=//evil.example").headers["Location"] == "/"


def test_there_are_no_password_pages(client: Client) -> None:
    for path in ("/auth/login/", "/auth/password_reset/", "/accounts/login/"):
        assert client.get(path).status_code == 404
    assert client.get("/admin/login/").headers["Location"].startswith("/auth/sign-in/")


def test_a_password_signs_nobody_in(client: Client) -> None:
    """Not even one that somebody has planted in the database."""
    user = UserFactory(handle="planted", is_active=True)
    user.set_password("correct horse")
    user.save()
    given = {"username": "planted", "handle": "planted", "password": "correct horse"}
    assert authenticate(None, **given) is None
    assert not client.login(**given)
    for path in ("/auth/sign-in/", "/admin/", "/admin/login/"):
        assert SESSION_KEY not in client.session, path
        assert client.post(path, given).status_code in (302, 403, 404, 405), path
    assert SESSION_KEY not in client.session
