"""The sign-in in a real browser: content security policies of both sides, cookies, and pages that move on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.auth.test_demo_provider import folder, started, stopped
from tests.factories.auth import FacilityFactory

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
        yield browser.new_page()
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
