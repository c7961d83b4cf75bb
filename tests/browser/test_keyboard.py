"""The whole story without a mouse: DOI page, sign-in, create, notebook, stop, delete with its question."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Running
from tests.browser.test_story import DOI, LAB_READY

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]

#: more presses than any page needs to its main button, with all experiments of the DOI in between
MOST = 80


def tab_to(page: Page, thing: Locator) -> None:
    """Press Tab until it has the focus, which must show."""
    expect(thing).to_be_visible()
    for _ in range(MOST):
        if thing.evaluate("thing => thing === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(thing).to_be_focused()
    ring = thing.evaluate("thing => { const s = getComputedStyle(thing); return s.outlineStyle + s.boxShadow; }")
    assert ring not in ("nonenone", "none"), "one must see where one is"


def press(page: Page, thing: Locator, key: str = "Enter") -> None:
    tab_to(page, thing)
    page.keyboard.press(key)


def test_the_story_by_keyboard_alone(running: Running, page: Page) -> None:
    page.goto(f"{running.url}/doi/{DOI}")
    press(page, page.get_by_role("button", name="Analyse"))
    page.wait_for_url(re.compile(re.escape(running.issuer)))
    tab_to(page, page.get_by_role("textbox", name="Account"))
    page.keyboard.type("scientist")
    tab_to(page, page.get_by_label("Password"))
    page.keyboard.type("scientist")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/instances/new"))
    press(page, page.get_by_role("button", name="Start", exact=True))
    page.wait_for_url(re.compile(r"/instances/[0-9a-f-]{36}/$"))
    own = page.url
    page.wait_for_url(re.compile(r"\.apps\.localhost:\d+/lab"), timeout=60_000)
    expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
    page.goto(own)
    press(page, page.get_by_role("link", name="Open JupyterLab"))
    page.wait_for_url(re.compile(r"\.apps\.localhost:\d+/lab"))
    page.goto(own)
    press(page, page.get_by_role("button", name="Stop", exact=True))
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible(timeout=60_000)
    press(page, page.get_by_role("link", name="Delete", exact=True))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Delete")
    press(page, page.get_by_role("link", name="Keep it"))
    page.wait_for_url(own)
    press(page, page.get_by_role("link", name="Delete", exact=True))
    press(page, page.get_by_role("button", name="Delete", exact=True))
    page.wait_for_url(re.compile(r"/instances/$"))
    expect(page.locator(f"main a[href='{own.removeprefix(running.url)}']")).to_have_count(0, timeout=60_000)
