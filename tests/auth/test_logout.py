"""Signing out: here first, then at the provider; and the provider's own word, which ends what it names."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings

from auth.models import Session, User
from auth.oidc import kept, logout
from auth.oidc.errors import ProviderSlow
from portal.audit import AuditEvent
from tests.auth.conftest import Browser, forget, leads_to
from tests.auth.hostile_op import HostileOP, Reply
from tests.factories.auth import UserFactory, sign_in

pytestmark = pytest.mark.django_db

END = "/end?from=here"


@pytest.fixture
def with_end(op: HostileOP) -> HostileOP:
    op.discovery = {"end_session_endpoint": op.issuer + END}
    return op


def sent_on(response: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(leads_to(response)).query).items()}


# ---- by its owner ----
def test_signing_out_goes_on_to_the_provider(with_end: HostileOP, browser: Browser) -> None:
    browser.sign_in(with_end)
    response = browser.post("/auth/logout/")
    assert response.status_code == 200
    assert leads_to(response).startswith(with_end.issuer + END + "&client_id=")
    sent = sent_on(response)
    assert sent.pop("state") == browser.cookies[logout.STATE_COOKIE].value
    assert sent == {
        "from": "here",
        "client_id": with_end.client_id,
        "post_logout_redirect_uri": f"{settings.PORTAL_URL}/auth/signed-out/",
    }
    assert "<h1>You are signed out here</h1>" in response.text
    assert browser.cookies["__Host-sid"].value == ""
    assert Session.objects.get().ended_at is not None
    assert not browser.is_signed_in()


def test_an_address_without_a_query_gets_one(op: HostileOP, browser: Browser) -> None:
    op.discovery = {"end_session_endpoint": f"{op.issuer}/end"}
    browser.sign_in(op)
    assert leads_to(browser.post("/auth/logout/")).startswith(f"{op.issuer}/end?client_id=")


def test_the_session_here_has_ended_before_the_provider_is_asked_anything(
    with_end: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.sign_in(with_end)
    ended: list[bool] = []

    def too_slow(_: object) -> None:
        ended.append(not Session.objects.filter(ended_at=None).exists())
        raise ProviderSlow("too-slow")

    monkeypatch.setattr(logout.discovery, "of", too_slow)
    response = browser.post("/auth/logout/")
    assert ended == [True]
    assert response.status_code == 200
    assert "Refresh" not in response.headers
    assert b"Demo account" in response.content
    assert not browser.is_signed_in()


@pytest.mark.parametrize("why", ["none", "switched off", "away", "no longer a provider"])
def test_without_an_address_for_it_only_this_session_ends_and_the_page_says_so(
    op: HostileOP, browser: Browser, why: str
) -> None:
    if why != "none":
        op.discovery = {"end_session_endpoint": op.issuer + END}
    browser.sign_in(op)
    if why == "switched off":
        op.configure(end_session=False)
    elif why == "away":
        op.replies["/.well-known/openid-configuration"] = Reply(status=503)
        forget(op)
    elif why == "no longer a provider":
        op.registered["renamed"] = op.registered.pop("demo")
    response = browser.post("/auth/logout/")
    assert response.status_code == 200
    assert "Refresh" not in response.headers
    assert logout.STATE_COOKIE not in response.cookies
    assert "may still know you in this browser" in response.text
    assert "Demo account" in response.text
    assert not browser.is_signed_in()


def test_the_id_token_is_kept_sealed_and_only_where_logout_wants_it(with_end: HostileOP, browser: Browser) -> None:
    browser.sign_in(with_end)
    assert Session.objects.get().id_token == ""
    assert "id_token_hint" not in sent_on(browser.post("/auth/logout/"))

    with_end.configure(keeps_id_token=True)
    browser.sign_in(with_end)
    row = Session.objects.get(ended_at=None)
    token = kept.unseal(row.id_token)
    assert token.count(".") == 2
    assert not any(part in row.id_token for part in token.split("."))
    assert sent_on(browser.post("/auth/logout/"))["id_token_hint"] == token
    row.refresh_from_db()
    assert row.id_token == ""


def test_another_key_opens_no_sealed_token(settings: Any) -> None:
    sealed = kept.seal("a.b.c")
    assert kept.unseal(sealed) == "a.b.c"
    settings.SECRET_KEY = "another"
    assert kept.unseal(sealed) == ""
    assert kept.unseal("") == kept.seal("") == ""
    assert kept.unseal("no such thing") == ""


def test_a_token_too_long_for_an_address_is_not_kept() -> None:
    assert kept.unseal(kept.seal("x" * kept.LONGEST)) == "x" * kept.LONGEST
    assert kept.seal("x" * (kept.LONGEST + 1)) == ""


def test_the_way_back_knows_its_own_state(with_end: HostileOP, browser: Browser) -> None:
    browser.sign_in(with_end)
    state = sent_on(browser.post("/auth/logout/"))["state"]
    back = browser.get("/auth/signed-out/", {"state": state})
    assert back.status_code == 200
    assert "signed out at your sign-in provider too" in back.text
    gone = back.cookies[logout.STATE_COOKIE]
    assert (gone.value, gone["path"], gone["samesite"]) == ("", "/", "Lax")
    assert "provider too" not in browser.get("/auth/signed-out/", {"state": state}).text


@pytest.mark.parametrize("state", [{}, {"state": ""}, {"state": "made-up"}, {"state": "é"}])
def test_a_wrong_state_is_a_safe_page_and_still_signed_out(
    with_end: HostileOP, browser: Browser, state: dict[str, str]
) -> None:
    browser.sign_in(with_end)
    browser.post("/auth/logout/")
    back = browser.get("/auth/signed-out/", state)
    assert back.status_code == 200
    assert "You are signed out" in back.text
    assert "provider too" not in back.text
    assert not browser.is_signed_in()


def test_a_state_of_nobody_says_nothing(browser: Browser) -> None:
    assert "provider too" not in browser.get("/auth/signed-out/?state=").text


def test_a_link_to_that_page_signs_nobody_out_and_tells_nobody_so(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    back = browser.get("/auth/signed-out/?state=x")
    assert (back.status_code, back.headers["Location"]) == (302, "/")
    assert browser.is_signed_in()


def test_that_page_is_only_looked_at(browser: Browser) -> None:
    assert browser.post("/auth/signed-out/").status_code == 405


def test_the_cookie_with_the_state_is_the_browsers_alone(with_end: HostileOP, browser: Browser) -> None:
    browser.sign_in(with_end)
    morsel = browser.post("/auth/logout/").cookies[logout.STATE_COOKIE]
    assert morsel.key.startswith("__Host-")
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "Lax")
    assert (morsel["path"], morsel["domain"], morsel["max-age"]) == ("/", "", 600)


def test_signing_out_leaves_one_trace_and_twice_is_once(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    assert browser.post("/auth/logout/").status_code == browser.post("/auth/logout/").status_code == 200
    event = AuditEvent.objects.get(action="logout")
    assert (event.object_id, event.actor_uid) == (str(Session.objects.get().uid), User.objects.get().uid)


def test_a_get_signs_nobody_out(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    assert browser.get("/auth/logout/").status_code == 405
    assert browser.is_signed_in()


def test_signing_out_needs_the_forms_token(op: HostileOP) -> None:
    strict = Browser(enforce_csrf_checks=True)
    sign_in(strict, UserFactory())
    assert strict.post("/auth/logout/").status_code == 403
    assert strict.is_signed_in()
