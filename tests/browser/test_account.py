"""The account area in Chromium, with the demo's provider: adding a second account, tokens, the export."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from auth.models import ApiToken, Identity, Notice, Session, User
from portal.lib.clock import Now
from tests.auth.test_demo_provider import folder, started, stopped
from tests.browser.conftest import sign_in
from tests.browser.test_every_page import VIEWS, look_at
from tests.browser.test_pages import address
from tests.factories.auth import FacilityFactory

__all__ = ["address", "folder"]  # fixtures

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

ACCOUNT = "/auth/account/"


@pytest.fixture
def portal(folder: Path, tmp_path: Path, address: str, settings: Any) -> Iterator[str]:
    """The web process, and the demo's provider for it."""
    provider = started(folder, tmp_path, address)
    settings.DEMO_PROVIDER = provider.registered
    FacilityFactory(slug="xfel", name="European XFEL (demo)")
    yield address
    stopped(provider)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB", reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(20_000)
    yield page
    context.close()


def come_in(page: Page, portal: str, who: str, path: str) -> None:
    page.goto(portal + path)
    page.locator("main").get_by_role("button", name="Demo").click()
    sign_in(page, who)
    page.wait_for_url(portal + path)


def seen(page: Page, name: str) -> None:
    """The page as it stands passes axe and the ruler."""
    assert look_at(page, name, VIEWS) == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_two_accounts_become_one_users(portal: str, page: Page, chromium: Browser) -> None:
    identities = f"{portal}{ACCOUNT}identities/"
    come_in(page, portal, "scientist", f"{ACCOUNT}identities/")
    expect(page.get_by_text("your only one")).to_be_visible()
    page.get_by_role("button", name="Add an account at").click()
    sign_in(page, "collaborator")
    page.wait_for_url(f"{identities}link/")
    for name in ("Ada Lamprecht", "Ben Okafor"):
        expect(page.locator("main dl")).to_contain_text(name)
    seen(page, "link, confirm")
    assert Identity.objects.count() == 1
    page.get_by_role("button", name="Add it").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(identities)
    user = User.objects.get()
    assert user.identities.count() == 2
    expect(page.get_by_role("link", name="Remove")).to_have_count(2)
    expect(page.locator("#messages")).to_contain_text("too")
    seen(page, "identities, after adding")

    # the other account leads to the same user, in another browser
    other = chromium.new_context(locale="en-GB").new_page()
    come_in(other, portal, "collaborator", f"{ACCOUNT}sessions/")
    assert User.objects.count() == 1
    expect(other.get_by_role("button", name="End")).to_have_count(3)  # two sessions, and all others

    # and is taken away with that session
    page.get_by_role("link", name=f"Remove {user.identities.latest('pk').subject}").click()
    expect(page.get_by_role("heading", name="Remove this account?")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    page.wait_for_url(identities)
    assert user.identities.count() == 1
    other.reload()
    expect(other.get_by_role("button", name=re.compile("Sign in"))).not_to_have_count(0)
    page.goto(portal + ACCOUNT)
    expect(page.get_by_role("heading", name="What happened to your account")).to_be_visible()
    assert Notice.objects.filter(user=user).count() == 2
    other.context.close()


def test_an_account_of_somebody_else_is_refused(portal: str, page: Page, chromium: Browser) -> None:
    other = chromium.new_context(locale="en-GB").new_page()
    come_in(other, portal, "collaborator", ACCOUNT)
    come_in(page, portal, "scientist", f"{ACCOUNT}identities/")
    page.get_by_role("button", name="Add an account at").click()
    sign_in(page, "collaborator")
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("This account signs somebody else in.")
    seen(page, "link, refused")
    other.reload()
    expect(other.get_by_text("tried to add it to another user")).to_be_visible()
    assert sorted(user.identities.count() for user in User.objects.all()) == [1, 1]
    other.context.close()


def test_a_token_is_made_used_and_revoked_by_keyboard(portal: str, page: Page) -> None:
    come_in(page, portal, "scientist", f"{ACCOUNT}tokens/")
    page.get_by_role("button", name="Make the token").focus()
    page.get_by_label("Name: what it is for").fill("my laptop")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name="me:read")).to_be_checked()
    page.get_by_label("Valid for how many days").fill("7")
    page.keyboard.press("Enter")
    text = page.get_by_label("Token", exact=True).input_value()
    seen(page, "token, made")
    headers = {"Authorization": f"Bearer {text}"}
    assert requests.get(f"{portal}/api/v1/me", headers=headers, timeout=10).status_code == 200
    page.goto(f"{portal}{ACCOUNT}tokens/")
    assert text not in page.content()
    page.get_by_role("link", name="Revoke my laptop").click()
    page.get_by_role("button", name="Revoke").press("Enter")
    expect(page.get_by_role("cell", name="revoked")).to_be_visible()
    assert requests.get(f"{portal}/api/v1/me", headers=headers, timeout=10).status_code == 401


def test_a_form_that_is_wrong_says_where(portal: str, page: Page) -> None:
    come_in(page, portal, "scientist", f"{ACCOUNT}tokens/")
    page.get_by_label("Name: what it is for").fill("nothing chosen")
    page.get_by_role("button", name="Make the token").click()
    expect(page.get_by_text("Choose at least one.")).to_be_visible()
    expect(page.get_by_label("Name: what it is for")).to_have_value("nothing chosen")
    seen(page, "token, wrong")
    assert not ApiToken.objects.exists()


def test_my_data_come_as_a_file_after_showing_who_i_am(portal: str, page: Page) -> None:
    come_in(page, portal, "scientist", f"{ACCOUNT}data/export/")
    Session.objects.update(authenticated_at=Now() - timedelta(minutes=10))
    page.get_by_role("button", name="Download").click()
    page.locator("main").get_by_role("button", name=re.compile("Confirm|Show")).click()
    sign_in(page, "scientist")
    page.wait_for_url(f"{portal}{ACCOUNT}data/export/")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    held = json.loads(Path(download.value.path()).read_text())
    assert download.value.suggested_filename.startswith("beamport-")
    assert held["account"][0]["id"] == str(User.objects.get().uid)
    assert [one["action"] for one in held["acts"]].count("data_exported") == 1
    if shots := os.environ.get("BEAMPORT_SHOTS"):
        page.screenshot(path=Path(shots) / "export.png")


def test_erasure_is_asked_and_withdrawn(portal: str, page: Page) -> None:
    come_in(page, portal, "scientist", f"{ACCOUNT}data/")
    page.get_by_role("link", name="Have my account erased").click()
    page.get_by_role("button", name="Ask to be erased").click()
    expect(page.get_by_text("You asked on")).to_be_visible()
    seen(page, "erasure, asked")
    page.get_by_role("button", name="Withdraw my request").click()
    expect(page.get_by_text("You withdrew your last request")).to_be_visible()
