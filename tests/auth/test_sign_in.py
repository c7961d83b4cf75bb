"""From the button to the session: attempts, states, pages, cookies."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client

from auth.models import Identity, LoginState, Session, User
from auth.sessions import SessionStore
from portal.audit import AuditEvent
from portal.lib.clock import Now
from tests.auth.conftest import Browser, leads_to, reason
from tests.auth.hostile_op import HostileOP, Reply
from tests.factories.auth import UserFactory, sign_in

pytestmark = pytest.mark.django_db

ODD = "/doi/10.1002/(SICI)1521-3951(199911)216:1%3C135::AID-PSSB135%3E3.0.CO;2-%23?launch=1,2#runs"


def test_the_whole_way_ends_signed_in_where_one_wanted_to_go(op: HostileOP, browser: Browser) -> None:
    response = browser.sign_in(op, ODD)
    assert response.status_code == 200
    assert leads_to(response) == ODD
    assert browser.is_signed_in()
    assert User.objects.get().display_name == "Jana Nováková"


def test_both_ends_are_pages_with_a_link_and_no_redirects(op: HostileOP, browser: Browser) -> None:
    started = browser.post("/auth/demo/login/", {"next": "/instances"})
    assert started.status_code == 200
    ended = browser.come_back(op.authorize(leads_to(started)))
    assert ended.status_code == 200
    assert b'<a href="/instances">' in ended.content
    assert "form-action 'self'" in ended.headers["Content-Security-Policy"].split("; ")


def test_a_get_shows_a_button_and_stores_nothing(op: HostileOP, browser: Browser) -> None:
    for path in ("/auth/sign-in/?next=/instances", "/auth/demo/login/?next=/instances"):
        response = browser.get(path)
        assert response.status_code == 200
        assert b'action="/auth/demo/login/"' in response.content
        assert b'name="next" value="/instances"' in response.content
        assert "Refresh" not in response.headers
    assert not Session.objects.exists()
    assert not LoginState.objects.exists()
    assert not op.asked


def test_the_start_needs_the_csrf_token(op: HostileOP) -> None:
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/auth/demo/login/", {"next": "/"}).status_code == 403
    assert not LoginState.objects.exists()


def test_an_unknown_provider_is_no_page(op: HostileOP, browser: Browser) -> None:
    assert browser.get("/auth/other/login/").status_code == 404
    assert browser.post("/auth/other/login/").status_code == 404
    assert browser.get("/auth/other/callback/?code=x&state=y").status_code == 404


def test_pkce_is_always_s256_and_the_redirect_uri_does_not_follow_the_host(op: HostileOP, browser: Browser) -> None:
    settings.ALLOWED_HOSTS.append("evil.example")
    try:
        response = browser.post("/auth/demo/login/", {"next": "/"}, headers={"Host": "evil.example"})
    finally:
        settings.ALLOWED_HOSTS.remove("evil.example")
    sent = {name: values[0] for name, values in parse_qs(urlsplit(leads_to(response)).query).items()}
    assert sent["code_challenge_method"] == "S256"
    assert len(sent["code_challenge"]) == 43
    assert sent["redirect_uri"] == f"{settings.PORTAL_URL}/auth/demo/callback/"
    assert sent["scope"].split()[0] == "openid"


def test_an_authorization_endpoint_with_a_query_keeps_it(op: HostileOP, browser: Browser) -> None:
    op.discovery = {"authorization_endpoint": f"{op.issuer}/authorize?tenant=7"}
    url = browser.start()
    assert parse_qs(urlsplit(url).query)["tenant"] == ["7"]
    assert parse_qs(urlsplit(url).query)["response_type"] == ["code"]


def test_the_session_key_changes_at_sign_in(op: HostileOP, browser: Browser) -> None:
    url = browser.start()
    before = browser.cookies[settings.SESSION_COOKIE_NAME].value
    browser.come_back(op.authorize(url))
    after = browser.cookies[settings.SESSION_COOKIE_NAME].value
    assert before != after
    assert SessionStore(before).live_row() is None


def test_a_planted_session_key_dies(op: HostileOP, browser: Browser) -> None:
    planted = "planted0planted0planted0planted0"
    browser.cookies[settings.SESSION_COOKIE_NAME] = planted
    browser.sign_in(op)
    assert browser.cookies[settings.SESSION_COOKIE_NAME].value != planted
    assert SessionStore(planted).live_row() is None


def test_no_token_of_the_provider_is_kept(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    with connection.cursor() as cursor:
        rows = []
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT row_to_json(kept) FROM "{table}" AS kept')
            rows += cursor.fetchall()
    text = str(rows)
    assert op.subject in text
    assert "access-" not in text
    assert "refresh-" not in text
    assert "eyJ" not in text


def test_the_session_knows_identity_and_the_providers_session(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    session = Session.objects.get()
    assert session.identity == Identity.objects.get()
    assert session.provider_sid == "session-at-op"


def test_two_tabs_keep_their_own_goal(op: HostileOP, browser: Browser) -> None:
    first, second = browser.start("/first"), browser.start("/second")
    assert leads_to(browser.come_back(op.authorize(second))) == "/second"
    assert leads_to(browser.come_back(op.authorize(first))) == "/first"
    assert browser.is_signed_in()


def test_of_eleven_attempts_the_oldest_is_forgotten(op: HostileOP, browser: Browser) -> None:
    urls = [browser.start(f"/{number}") for number in range(11)]
    assert LoginState.objects.count() == 10
    assert browser.come_back(op.authorize(urls[0])).status_code == 400
    assert leads_to(browser.come_back(op.authorize(urls[1]))) == "/1"


def test_a_replayed_callback_is_refused_and_the_session_goes_on(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    assert browser.come_back(answer).status_code == 200
    again = browser.come_back(answer)
    assert again.status_code == 400
    assert reason() == "unknown-state"
    assert browser.is_signed_in()
    assert len(op.token_requests) == 1


def test_an_old_attempt_is_refused(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    LoginState.objects.update(created_at=Now() - timedelta(minutes=10))
    assert browser.come_back(answer).status_code == 400
    assert not op.token_requests


def test_a_state_of_another_browser_is_refused(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    victim = Browser()
    assert victim.come_back(answer).status_code == 400
    victim.start()
    assert victim.come_back(answer).status_code == 400
    assert not victim.is_signed_in()
    assert not op.token_requests
    assert browser.come_back(answer).status_code == 200


@pytest.mark.parametrize("state", ["", "made-up", "\x00", "ü" * 500])
def test_a_made_up_state_is_refused(op: HostileOP, browser: Browser, state: str) -> None:
    browser.start()
    assert browser.come_back({"code": "code", "state": state}).status_code == 400


def test_a_state_begun_for_another_provider_is_refused(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    LoginState.objects.update(provider="other")
    assert browser.come_back(answer).status_code == 400
    assert not op.token_requests


@pytest.mark.parametrize("issuer", ["https://other.example", "", "http://127.0.0.1"])
def test_an_answer_that_names_another_issuer_never_reaches_the_token_endpoint(
    op: HostileOP, browser: Browser, issuer: str
) -> None:
    op.callback = {"iss": issuer}
    assert browser.sign_in(op).status_code == 400
    assert reason() == "answer-of-another-issuer"
    assert not op.token_requests


def test_a_missing_issuer_counts_when_the_provider_announces_it(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    del answer["iss"]
    assert browser.come_back(answer).status_code == 400
    assert reason() == "no-issuer-in-answer"


def test_a_provider_that_does_not_announce_it_may_leave_it_out(op: HostileOP, browser: Browser) -> None:
    op.discovery = {"authorization_response_iss_parameter_supported": False}
    answer = op.authorize(browser.start())
    del answer["iss"]
    assert browser.come_back(answer).status_code == 200


def test_repeated_parameters_are_refused(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    twice = f"/auth/demo/callback/?state={answer['state']}&iss={op.issuer}&code=mine&code={answer['code']}"
    assert browser.get(twice).status_code == 400


def test_an_error_from_the_provider_is_told_and_leaves_a_session_alone(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    answer = op.authorize(browser.start())
    text = "<script>alert(1)</script>\x00" + "x" * 500
    response = browser.come_back(
        {"error": "access_denied", "error_description": text, "state": answer["state"], "iss": op.issuer}
    )
    assert response.status_code == 400
    assert b"<script>alert" not in response.content
    assert b"&lt;script&gt;alert" in response.content
    assert b"x" * 201 not in response.content
    assert reason() == "provider-says-access-denied"
    assert browser.is_signed_in()


def test_a_foreign_error_callback_changes_nothing(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    assert browser.get("/auth/demo/callback/?error=access_denied&state=none").status_code == 400
    assert browser.is_signed_in()


def test_a_failed_sign_in_leaves_a_trace_with_its_reason(op: HostileOP, browser: Browser) -> None:
    op.claims = {"aud": "somebody-else"}
    response = browser.sign_in(op)
    event = AuditEvent.objects.get(action="login_failed")
    assert event.reason == "wrong-audience"
    assert event.result == AuditEvent.Result.REFUSED
    assert event.request_id == response.headers["X-Request-Id"]
    assert event.request_id.encode() in response.content


def test_a_sign_in_leaves_one_row_that_names_the_identity(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    event = AuditEvent.objects.get(action="login")
    assert event.identity == f"{op.subject} at {op.issuer}"
    assert event.actor_uid == User.objects.get().uid


def test_a_suspended_user_gets_no_session(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    User.objects.update(suspended_at=Now())
    fresh = Browser()
    assert fresh.sign_in(op).status_code == 403
    assert reason() == "suspended"
    assert not fresh.is_signed_in()
    assert not browser.is_signed_in()


def test_another_user_takes_over_the_browser_and_the_first_session_ends(op: HostileOP, browser: Browser) -> None:
    first = sign_in(browser, UserFactory())
    browser.sign_in(op)
    first.refresh_from_db()
    assert first.ended_at is not None
    assert Session.objects.filter(ended_at=None).get().user == Identity.objects.get(subject=op.subject).user


@pytest.mark.parametrize("evil", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_way_back_is_never_another_site(op: HostileOP, browser: Browser, evil: str) -> None:
    assert leads_to(browser.sign_in(op, evil)) == "/"


def test_the_way_back_is_checked_again_when_used(op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start("/fine"))
    LoginState.objects.update(next="//evil.example")
    assert leads_to(browser.come_back(answer)) == "/"


@pytest.mark.django_db(transaction=True)
def test_one_callback_sent_eight_times_at_once_wins_once(op: HostileOP, browser: Browser) -> None:
    op.replies["/userinfo"] = Reply.of({"sub": op.subject}, delay=0.1)
    answer = op.authorize(browser.start())
    key = browser.cookies[settings.SESSION_COOKIE_NAME].value
    gate = threading.Barrier(8)
    statuses: list[int] = []

    def send() -> None:
        one = Browser()
        one.cookies[settings.SESSION_COOKIE_NAME] = key
        gate.wait()
        try:
            statuses.append(one.come_back(answer).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [400] * 7
    assert len(op.token_requests) == 1


@pytest.mark.django_db(transaction=True)
def test_two_first_sign_ins_at_once_make_one_user(op: HostileOP) -> None:
    answers: list[tuple[Browser, Any]] = []
    for _ in range(6):
        one = Browser()
        answers.append((one, op.authorize(one.start())))
    gate = threading.Barrier(len(answers))
    statuses: list[int] = []

    def send(one: Browser, answer: Any) -> None:
        gate.wait()
        try:
            statuses.append(one.come_back(answer).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=send, args=pair) for pair in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * len(answers)
    assert User.objects.count() == Identity.objects.count() == 1
