"""The sign-in in a real browser: content security policies of both sides, cookies, and pages that move on."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Page, expect, sync_playwright

from auth import persons, policies
from auth.models import LoginState
from tests.auth.test_demo_provider import folder, started, stopped
from tests.factories.auth import FacilityFactory, PersonFactory, RoleGrantFactory, UserFactory, sign_in

__all__ = ["folder"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium"),
]


@pytest.fixture
def portal(folder: Path, tmp_path: Path, live_server: Any, settings: Any) -> Iterator[str]:
    provider = started(folder, tmp_path, live_server.url)
    settings.PORTAL_URL = live_server.url
    settings.DEMO_PROVIDER = provider.registered
    FacilityFactory(slug="xfel", name="European XFEL (demo)")
    yield live_server.url
    stopped(provider)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    # Playwright's own loop runs in this thread; the ORM is used from it by the fixtures that clean up
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context().new_page()
        browser.close()


def test_sign_in_and_out_in_a_browser(portal: str, page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"{portal}/auth/account/")
    page.get_by_role("button", name="Sign in with").click()

    page.get_by_label("Account").fill("scientist")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Password").fill("scientist")
    page.get_by_role("button", name="Sign in").click()

    page.wait_for_url(f"{portal}/auth/account/")
    assert page.get_by_text("X-1001 at the user office of European XFEL (demo)").is_visible()
    page.get_by_role("link", name="Sessions").click()
    assert page.get_by_text("(this one)").is_visible()
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies(portal)}
    assert cookies["__Host-sid"]["httpOnly"]
    assert cookies["__Host-sid"]["secure"]
    assert cookies["__Host-sid"]["sameSite"] == "Lax"
    assert complaints == []

    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign out here too?").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="You are signed out").wait_for()
    assert page.get_by_text("signed out at your sign-in provider too").is_visible()
    page.goto(f"{portal}/auth/account/")
    assert page.get_by_role("button", name="Sign in with").is_visible()


def test_the_second_of_two_tabs_goes_on_where_it_was(portal: str, page: Page) -> None:
    """Both were opened before the first signed in, which gave the browser another token for its forms."""
    second = page.context.new_page()
    page.goto(f"{portal}/auth/sign-in/?next=/auth/account/")
    second.goto(f"{portal}/auth/sign-in/?next=/auth/account/sessions/")
    page.get_by_role("button", name="Sign in with").click()
    page.get_by_label("Account").fill("scientist")
    page.get_by_label("Password").fill("scientist")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{portal}/auth/account/")

    second.get_by_role("button", name="Sign in with").click()
    expect(second.get_by_role("heading", level=1)).to_have_text("This form was too old to be sent.")
    expect(second.locator("main")).to_contain_text("You are signed in as Ada Lamprecht")
    second.get_by_role("link", name="Go on").click()
    second.wait_for_url(f"{portal}/auth/account/sessions/")
    expect(second.get_by_text("(this one)")).to_be_visible()
    assert not LoginState.objects.filter(consumed_at=None).exists()


def test_the_code_of_a_persons_link_outlives_the_rules_of_use(page: Page, live_server: Any, settings: Any) -> None:
    settings.PORTAL_URL = live_server.url
    policies.publish("rules", "1", "Rules", "Be kind.")
    person, browser = PersonFactory(), Client()
    sign_in(browser, UserFactory())
    _, link = persons.make_link(person, RoleGrantFactory().user)
    (name, morsel), *_ = browser.cookies.items()
    url = live_server.url.replace("http:", "https:")
    page.context.add_cookies([{"name": name, "value": morsel.value, "url": url, "secure": True, "httpOnly": True}])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.headers.get('referer')}"))

    page.goto(link)
    accept = page.get_by_role("button", name="I accept")
    expect(accept).to_be_visible()
    expect(page).to_have_url(re.compile(r"/rules/accept/\?next=[^#]*$"))
    accept.click()
    page.wait_for_url(f"{live_server.url}/auth/person/")
    code = link.partition("#")[2]
    expect(page.get_by_label("Code")).to_have_value(code)
    page.get_by_role("button", name="This is me").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("You are known at")
    person.refresh_from_db()
    assert person.user is not None
    assert page.evaluate("sessionStorage.length") == 0
    assert [address for address in asked if code in address.partition("#")[0]] == []
