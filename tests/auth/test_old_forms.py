"""A form that was opened before somebody signed in with the same browser: not taken, and a way on."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from auth.models import ApiToken, LoginState, Session
from tests.auth.conftest import Browser, leads_to
from tests.auth.hostile_op import HostileOP
from tests.factories.auth import UserFactory, sign_in

pytestmark = pytest.mark.django_db

LOGIN = "/auth/demo/login/"
SIGN_IN = "/auth/sign-in/?next=/instances/"
TOKENS = "/auth/account/tokens/"


@pytest.fixture
def strict() -> Browser:
    return Browser(enforce_csrf_checks=True)


def token_on(page: Any) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.content.decode())
    assert found, "the page has no form"
    return found[1]


def press(browser: Client, token: str, **more: str) -> Any:
    return browser.post(LOGIN, {"csrfmiddlewaretoken": token, "next": "/instances/"} | more)


def way_on(answer: Any) -> str:
    assert answer.status_code == 403
    assert "<code>form-too-old</code>" in answer.content.decode()
    found = re.search(r'<a class="button" href="([^"]*)">Go on</a>', answer.content.decode())
    assert found
    return found[1]


def test_the_second_tabs_button_leads_where_it_was_to_lead(op: HostileOP, strict: Browser) -> None:
    first, second = token_on(strict.get(SIGN_IN)), token_on(strict.get(SIGN_IN))
    back = strict.come_back(op.authorize(leads_to(press(strict, first))))
    assert leads_to(back) == "/instances/"

    answer = press(strict, second)
    assert way_on(answer) == "/instances/"
    assert "You are signed in as <strong>Jana Nováková</strong>" in answer.content.decode()
    assert LoginState.objects.filter(consumed_at=None).count() == 0
    assert strict.is_signed_in()


def test_signed_out_it_leads_to_a_button_that_works(op: HostileOP, strict: Browser) -> None:
    strict.get(SIGN_IN)
    old = "a" * 64
    there = way_on(press(strict, old))
    assert there == f"{LOGIN}?next=%2Finstances%2F"
    assert not Session.objects.exists()
    assert leads_to(press(strict, token_on(strict.get(there)))).startswith(op.issuer)


def test_any_other_form_leads_back_to_its_page_and_did_nothing(strict: Browser) -> None:
    sign_in(strict, UserFactory())
    strict.get(TOKENS)
    sent = {"csrfmiddlewaretoken": "a" * 64, "name": "made-by-an-old-form", "scopes": "me:read", "days": "1"}
    answer = strict.post(TOKENS, sent, headers={"Referer": f"{settings.PORTAL_URL}{TOKENS}?a=1"})
    assert way_on(answer) == f"{TOKENS}?a=1"
    assert not ApiToken.objects.exists()


def test_who_must_show_who_they_are_again_gets_back_to_that_page(op: HostileOP, strict: Browser) -> None:
    sign_in(strict, UserFactory())
    answer = strict.post(
        LOGIN,
        {"csrfmiddlewaretoken": "a" * 64, "intent": "reauth", "next": "/"},
        headers={"Referer": f"{settings.PORTAL_URL}/auth/account/data/"},
    )
    assert way_on(answer) == "/auth/account/data/"


def test_a_browser_without_cookies_is_told_so(op: HostileOP) -> None:
    answer = press(Client(enforce_csrf_checks=True), "a" * 64)
    assert "your browser sent no cookie with it" in answer.content.decode()
    way_on(answer)


# ---- somebody else's form ----
@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "javascript:alert(1)", '/"><script>alert(1)</script>']
)
@pytest.mark.parametrize("signed_in", [True, False])
def test_a_strangers_form_is_neither_taken_nor_repeated(
    op: HostileOP, strict: Browser, wanted: str, signed_in: bool
) -> None:
    if signed_in:
        sign_in(strict, UserFactory())
    strict.get(SIGN_IN)
    answer = press(strict, "a" * 64, next=wanted, planted="planted-value")
    there = way_on(answer)
    assert there.startswith("/") and not there.startswith("//") if signed_in else there.startswith(f"{LOGIN}?next=%2F")
    page = answer.content.decode()
    assert "evil.example" not in page
    assert "<script>alert" not in page
    assert "planted-value" not in page
    assert 'name="next"' not in page
    assert not LoginState.objects.exists()


@pytest.mark.parametrize("referer", ["https://evil.example/x", f"{settings.PORTAL_URL}@evil.example/", "http://[", ""])
def test_a_page_elsewhere_is_nothing_to_go_back_to(strict: Browser, referer: str) -> None:
    strict.get(SIGN_IN)
    assert way_on(strict.post("/auth/logout/", {"x": "1"}, headers={"Referer": referer})) == "/"


def test_from_another_site_it_is_refused_before_that(op: HostileOP, strict: Browser) -> None:
    token = token_on(strict.get(SIGN_IN))
    answer = strict.post(LOGIN, {"csrfmiddlewaretoken": token}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "<code>forbidden</code>" in answer.content.decode()


def test_a_script_gets_the_code_alone(strict: Browser) -> None:
    strict.get(SIGN_IN)
    answer = strict.post("/auth/logout/", {"x": "1"}, headers={"Sec-Fetch-Dest": "empty"})
    assert answer.status_code == 403
    assert answer.json()["code"] == "form-too-old"
