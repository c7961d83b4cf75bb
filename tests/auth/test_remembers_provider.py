"""The sign-in page in a browser: it remembers which button was pressed last, and tells nobody."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from auth.providers import Provider
from tests.auth.test_browser import page, pytestmark

__all__ = ["page", "pytestmark"]


@pytest.fixture
def three(registered: dict[str, Provider], live_server: Any, settings: Any) -> str:
    """A portal with three providers, none of which answers."""
    settings.PORTAL_URL = live_server.url
    for slug in ("first", "second", "third"):
        issuer = f"http://127.0.0.1:1/{slug}"
        registered[slug] = Provider(slug, slug.title(), issuer, "beamport", "secret", allow_private=True)
    return str(live_server.url)


def buttons(page: Page) -> list[str]:
    texts = page.get_by_role("button", name="Sign in with").all_inner_texts()
    return [text.removeprefix("Sign in with ") for text in texts]


def told(page: Page) -> int:
    """How many buttons say that they were used last."""
    return sum(mark.is_visible() for mark in page.locator(".used-last").all())


def test_the_button_pressed_last_comes_first(three: str, page: Page) -> None:
    page.goto(f"{three}/auth/sign-in/?next=/instances/")
    assert buttons(page) == ["First", "Second", "Third"]
    assert told(page) == 0
    page.get_by_role("button", name="Sign in with Second").click()
    page.get_by_text("does not work properly at the moment").wait_for()
    page.goto(f"{three}/auth/sign-in/?next=/instances/")
    page.locator(".used-last:not([hidden])").wait_for()
    assert told(page) == 1
    assert buttons(page) == ["Second", "First", "Third"]
    assert {cookie["name"] for cookie in page.context.cookies()} <= {"__Host-sid", "__Host-csrf"}
