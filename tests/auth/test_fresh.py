"""Showing once more who one is, and showing another identity to add it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from auth import fresh, linking, providers
from auth.models import Identity, LoginState, Session, User
from auth.oidc import states, views
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.clock import Now
from tests.auth.conftest import Browser, leads_to, reason
from tests.auth.hostile_op import MISSING, HostileOP
from tests.factories.auth import UserFactory, sign_in

pytestmark = pytest.mark.django_db

WANTED = "/auth/account/export/"


def begin(browser: Browser, intent: str, slug: str = "demo", next_path: str = WANTED) -> Any:
    return browser.post(f"/auth/{slug}/login/", {"next": next_path, "intent": intent})


def sent(response: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(leads_to(response)).query).items()}


def shown(op: HostileOP, ago: float = 0) -> None:
    op.claims = op.claims | {"auth_time": int(time.time() - ago)}


@pytest.fixture
def stale(op: HostileOP, browser: Browser) -> Browser:
    """Somebody who signed in an hour ago."""
    shown(op, 3600)
    browser.sign_in(op)
    return browser


# ---- what wants it ----
def asked(session: Session | None, method: str = "get", path: str = "/auth/account/export/?a=1", **headers: str) -> Any:
    @fresh.required
    def view(request: HttpRequest, word: str) -> HttpResponse:
        return HttpResponse(word)

    request: WSGIRequest = getattr(RequestFactory(), method)(path, headers=headers)
    request.auth_session = session  # type: ignore[attr-defined]
    request.user = session.user if session else None  # type: ignore[assignment]
    return view(request, "done")


@pytest.mark.parametrize(
    ("ago", "good"),
    [(0, True), (340, True), (360.3, False), (86_400, False), (-55, True), (-80, False)],
)
def test_it_counts_for_five_minutes_and_a_little(browser: Browser, ago: float, good: bool) -> None:
    row = sign_in(browser, UserFactory(), shown=timedelta(seconds=ago))
    answer = asked(row)
    assert (answer.status_code, answer.content == b"done") == ((200, True) if good else (403, False))


def test_an_api_view_asks_by_itself_and_gets_the_session(browser: Browser) -> None:
    request = RequestFactory().get("/api/v1/tokens")
    request.auth_session = row = sign_in(browser, UserFactory())  # type: ignore[attr-defined]
    assert fresh.check(request) == row


def test_a_view_keeps_its_name() -> None:
    @fresh.required
    def export(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert export.__name__ == "export"


def test_a_provider_that_does_not_say_when_never_did(browser: Browser) -> None:
    row = sign_in(browser, UserFactory())
    row.authenticated_at = None
    assert asked(row).status_code == 403


def test_who_is_stale_gets_a_form_that_leads_back_here(browser: Browser) -> None:
    row = sign_in(browser, UserFactory(), shown=timedelta(hours=1))
    page = asked(row).content.decode()
    assert 'action="/auth/demo/login/"' in page
    assert 'name="intent" value="reauth"' in page
    assert 'name="next" value="/auth/account/export/?a=1"' in page
    assert "For this you have to show once more who you are." in page
    assert 'value="/auth/account/export/?a=1"' in asked(row, "head").content.decode()


@pytest.mark.parametrize(
    ("referer", "leads"),
    [
        (f"{settings.PORTAL_URL}/auth/account/tokens/?x=1#y", "/auth/account/tokens/?x=1"),
        ("https://evil.example/auth/account/", "/auth/account/"),
        (f"{settings.PORTAL_URL}.evil.example/x", "/auth/account/"),
        (f"{settings.PORTAL_URL}//evil.example/x", "/"),
        ("http://[", "/auth/account/"),
        ("", "/auth/account/"),
    ],
)
def test_what_was_sent_leads_back_to_the_page_it_was_sent_from(browser: Browser, referer: str, leads: str) -> None:
    row = sign_in(browser, UserFactory(), shown=timedelta(hours=1))
    page = asked(row, "post", Referer=referer).content.decode()
    assert f'name="next" value="{leads}"' in page


def test_a_script_is_told_in_its_own_words(browser: Browser) -> None:
    row = sign_in(browser, UserFactory(), shown=timedelta(hours=1))
    for headers in ({"Sec-Fetch-Dest": "empty"}, {"HX-Request": "true"}):
        answer = asked(row, **headers)
        assert answer.status_code == 403
        assert b"<form method" not in answer.content or b"intent" not in answer.content
    assert asked(row, **{"Sec-Fetch-Dest": "empty"}).headers["Content-Type"] == "application/problem+json"
    problem = asked(row, path="/api/v1/tokens")
    assert problem.status_code == 403
    said = json.loads(problem.content)
    assert said["code"] == "sign-in-not-fresh"
    assert said["title"] == "For this you have to show once more who you are."
    assert said["detail"] == "Confirm it at your sign-in provider; you come back here."


def test_who_is_not_signed_in_signs_in_first() -> None:
    answer = asked(None)
    assert (answer.status_code, answer.headers["Location"]) == (
        302,
        "/auth/sign-in/?next=%2Fauth%2Faccount%2Fexport%2F%3Fa%3D1",
    )
    assert asked(None, **{"Sec-Fetch-Dest": "empty"}).status_code == 401
    assert asked(None, path="/api/v1/tokens").status_code == 401


def test_where_the_provider_is_gone_nobody_can_show_it(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    row = sign_in(browser, UserFactory(), shown=timedelta(hours=1))
    monkeypatch.setattr(providers, "registry", dict)
    answer = asked(row)
    assert answer.status_code == 403
    assert b"reauth" not in answer.content


# ---- showing it again ----
def test_showing_it_again_renews_the_session(op: HostileOP, stale: Browser) -> None:
    before, key = Session.objects.get(), stale.cookies["__Host-sid"].value
    assert not fresh.is_fresh(before)
    started = begin(stale, "reauth")
    assert sent(started)["max_age"] == "0"
    shown(op)
    op.claims |= {"acr": "https://refeds.org/profile/mfa", "sid": "a-newer-one"}
    back = stale.come_back(op.authorize(leads_to(started)))
    assert leads_to(back) == WANTED
    after = Session.objects.get()
    assert fresh.is_fresh(after)
    assert (after.provider_acr, after.provider_sid) == ("https://refeds.org/profile/mfa", "a-newer-one")
    assert (after.pk, after.created_at, after.expires_at) == (before.pk, before.created_at, before.expires_at)
    assert after.key_hash != before.key_hash
    old = Browser()
    old.cookies["__Host-sid"] = key
    assert (stale.is_signed_in(), old.is_signed_in()) == (True, False)
    event = AuditEvent.objects.get(action="login_renewed")
    assert (event.actor_uid, event.object_id) == (User.objects.get().uid, str(after.uid))


@pytest.mark.parametrize(
    ("auth_time", "why"),
    [
        (MISSING, "no-auth-time"),
        ("now", "no-auth-time"),
        (True, "no-auth-time"),
        (1e30, "no-auth-time"),
        (float(2**31), "not-shown-again"),
        (1_700_000_000, "not-shown-again"),
    ],
)
@pytest.mark.parametrize("intent", ["reauth", "link"])
def test_a_provider_must_say_that_it_was_just_now(
    op: HostileOP, other_op: HostileOP, browser: Browser, intent: str, auth_time: Any, why: str
) -> None:
    shown(op)
    browser.sign_in(op)
    Session.objects.update(authenticated_at=Now() - timedelta(minutes=4))
    before = Session.objects.get().authenticated_at
    asked_op = op if intent == "reauth" else other_op
    started = begin(browser, intent, asked_op.slug)
    asked_op.claims = {"auth_time": auth_time}
    back = browser.get(f"/auth/{asked_op.slug}/callback/", asked_op.authorize(leads_to(started)))
    assert (back.status_code, reason()) == (400, why)
    row = Session.objects.get()
    assert (row.authenticated_at, linking.KEY in row.data) == (before, False)


def test_another_account_of_the_same_provider_is_refused(op: HostileOP, stale: Browser) -> None:
    started = begin(stale, "reauth")
    shown(op)
    op.subject = "somebody-else@provider.example"
    back = stale.come_back(op.authorize(leads_to(started)))
    assert (back.status_code, reason()) == (400, "another-identity")
    assert not fresh.is_fresh(Session.objects.get())
    assert User.objects.count() == Identity.objects.count() == 1
    assert stale.is_signed_in()


def test_it_is_shown_where_one_signed_in(op: HostileOP, other_op: HostileOP, stale: Browser) -> None:
    assert begin(stale, "reauth", "other").status_code == 400
    assert not LoginState.objects.filter(intent="reauth").exists()


@pytest.mark.parametrize("intent", ["reauth", "link"])
def test_only_somebody_signed_in_can_begin_it(op: HostileOP, browser: Browser, intent: str) -> None:
    assert begin(browser, intent).status_code == 401
    assert not LoginState.objects.exists()


@pytest.mark.parametrize("intent", ["", "LOGIN", "admin", "login\x00"])
def test_other_intents_do_not_exist(op: HostileOP, stale: Browser, intent: str) -> None:
    assert begin(stale, intent).status_code == 400


@pytest.mark.parametrize("intent", ["reauth", "link"])
def test_a_state_is_its_users_alone(op: HostileOP, other_op: HostileOP, browser: Browser, intent: str) -> None:
    shown(op)
    browser.sign_in(op)
    asked_op = op if intent == "reauth" else other_op
    started = begin(browser, intent, asked_op.slug)
    LoginState.objects.update(user=UserFactory())
    shown(asked_op)
    answer = asked_op.authorize(leads_to(started))
    assert browser.get(f"/auth/{asked_op.slug}/callback/", answer).status_code == 400
    assert reason() == "state-of-another-user"
    assert len(asked_op.token_requests) == (1 if intent == "reauth" else 0)


def test_a_state_without_a_user_links_nothing(op: HostileOP, browser: Browser) -> None:
    shown(op)
    browser.sign_in(op)
    started = begin(browser, "reauth")
    LoginState.objects.update(user=None)
    assert browser.come_back(op.authorize(leads_to(started))).status_code == 400
    assert reason() == "state-of-another-user"


@pytest.mark.parametrize("intent", ["reauth", "link"])
def test_a_state_for_it_ends_with_the_session(
    op: HostileOP, other_op: HostileOP, browser: Browser, intent: str
) -> None:
    shown(op)
    browser.sign_in(op)
    asked_op = op if intent == "reauth" else other_op
    started = begin(browser, intent, asked_op.slug)
    Session.objects.update(ended_at=Now())
    answer = asked_op.authorize(leads_to(started))
    assert browser.get(f"/auth/{asked_op.slug}/callback/", answer).status_code == 400
    assert reason() == "no-attempt"


def test_a_session_that_ends_while_the_provider_answers_is_not_renewed(
    op: HostileOP, stale: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = begin(stale, "reauth")
    shown(op)
    real = views._fresh_answer

    def slow(*args: Any) -> Any:
        answer = real(*args)
        Session.objects.update(ended_at=Now())
        return answer

    monkeypatch.setattr(views, "_fresh_answer", slow)
    back = stale.come_back(op.authorize(leads_to(started)))
    assert (back.status_code, reason()) == (400, "session-ended-meanwhile")
    assert not Session.objects.filter(ended_at=None, user__isnull=False).exists()


def test_an_ordinary_sign_in_asks_for_no_age(op: HostileOP, browser: Browser) -> None:
    assert "max_age" not in sent(browser.post("/auth/demo/login/", {"next": "/"}))
    attempt = LoginState.objects.get()
    assert (attempt.intent, attempt.user) == ("login", None)


def test_a_sign_in_that_was_shown_when_it_says_is_fresh(op: HostileOP, browser: Browser) -> None:
    op.claims = {"auth_time": 1_800_000_000}
    browser.sign_in(op)
    assert Session.objects.get().authenticated_at == datetime.fromtimestamp(1_800_000_000, UTC)


# ---- another identity ----
@pytest.fixture
def confirm(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(views, "reverse", lambda name: f"/{name}")
    return "/accounts:link-confirm"


def test_another_identity_waits_in_the_session_and_signs_nobody_in(
    op: HostileOP, other_op: HostileOP, browser: Browser, confirm: str
) -> None:
    shown(op)
    browser.sign_in(op)
    before = Session.objects.get()
    started = begin(browser, "link", "other")
    assert sent(started)["max_age"] == "0"
    shown(other_op)
    other_op.subject, other_op.userinfo = "jana@other.example", {"email": "jana@other.example"}
    back = browser.get("/auth/other/callback/", other_op.authorize(leads_to(started)))
    assert leads_to(back) == confirm
    after = Session.objects.get()
    pending = after.data[linking.KEY]
    at = datetime.fromisoformat(pending.pop("at"))
    assert timedelta() <= clock.now() - at < timedelta(minutes=1)
    assert pending == {
        "provider": "other",
        "issuer": other_op.issuer,
        "subject": "jana@other.example",
        "name": "Jana Nováková",
        "email": "jana@other.example",
    }
    assert (after.user_id, after.identity_id) == (before.user_id, before.identity_id)
    assert Identity.objects.count() == User.objects.count() == 1


def test_linking_wants_somebody_who_has_just_shown_who_they_are(
    op: HostileOP, other_op: HostileOP, stale: Browser
) -> None:
    answer = begin(stale, "link", "other")
    assert answer.status_code == 403
    assert 'name="intent" value="reauth"' in answer.text
    assert not LoginState.objects.filter(intent="link").exists()


def test_ten_attempts_of_any_kind_and_the_oldest_goes(op: HostileOP, browser: Browser) -> None:
    shown(op)
    browser.sign_in(op)
    first = begin(browser, "reauth")
    for _ in range(states.MOST):
        begin(browser, "reauth")
    assert LoginState.objects.filter(consumed_at=None).count() == states.MOST
    assert browser.come_back(op.authorize(leads_to(first))).status_code == 400


def test_a_session_stays_small_whatever_was_begun(op: HostileOP, other_op: HostileOP, browser: Browser) -> None:
    shown(op)
    browser.sign_in(op)
    for intent, slug in [("reauth", "demo"), ("link", "other")] * 6:
        begin(browser, intent, slug, "/" + "x" * 1900)
    row = Session.objects.get()
    assert len(str(row.data)) < 8000
