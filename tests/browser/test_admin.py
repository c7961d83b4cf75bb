"""The administration in Chromium: every page light and dark, wide and narrow, looked at by axe; and one way through it.

Its frame is Django's; our own rules of size and shape are for our own pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page

from auth import erasure, policies
from auth.models import GroupRule, Person, User
from portal import audit
from portal.admin import site
from tests.auth.test_admin import place
from tests.browser import test_every_page
from tests.browser.test_every_page import LONG, look_at
from tests.browser.test_pages import address
from tests.factories.auth import IdentityFactory, PersonFactory, RoleGrantFactory, sign_in
from tests.factories.rights import GroupMemberFactory, GroupRoleFactory

__all__ = ["address"]  # a fixture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

VIEWS = [(1280, "light"), (1280, "dark"), (320, "light"), (320, "dark")]
ACTS = ("users/{}/suspend", "groups/{}/rule", "group-rules/{}/change", "groups/{}/take", "persons/{}/untie")


@pytest.fixture
def addresses(transactional_db: None) -> list[str]:
    here = place()
    User.objects.filter(pk=here.user.pk).update(display_name=LONG, suspended_reason=LONG)
    audit.record("acted", actor=User.objects.get(pk=here.user.pk), about=("user", here.user.uid), note=LONG * 3)
    IdentityFactory(user=here.user, subject="x" * 200, claims_subset={"entitlements": ["urn:" + "long:" * 80] * 5})
    GroupRoleFactory(group=here.rows["groups"], role="staff", facility=here.facility)
    GroupMemberFactory(group=here.rows["groups"], user=here.user)
    wish = erasure.ask(here.user, LONG)
    policy = policies.publish("privacy", "1", LONG, LONG * 9)
    here.rows |= {"erasure-requests": wish, "policies": policy}
    keys = {page: here.one(page).split("/")[3] for page in here.rows}
    found = ["/admin/", *(f"/admin/{page}/" for page in site.pages()), *(here.one(page) for page in here.rows)]
    found += [f"/admin/{act.format(keys[act.partition('/')[0]])}/" for act in ACTS]
    return [*found, "/admin/audit-events/do/export/", "/admin/role-grants/do/grant/", "/admin/audit-events/?actor=x"]


@pytest.fixture
def context(chromium: Browser, address: str, addresses: list[str]) -> Iterator[BrowserContext]:
    """The browser of an admin who has just signed in."""
    client = Client()
    sign_in(client, RoleGrantFactory(role="admin").user)
    (name, morsel), *_ = client.cookies.items()
    url = address.replace("http:", "https:")
    made = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB", reduced_motion="reduce")
    cookie: Any = {"name": name, "value": morsel.value, "url": url, "secure": True, "httpOnly": True}
    made.add_cookies([cookie])
    yield made
    made.close()


def test_every_page_can_be_read_and_used(
    context: BrowserContext, address: str, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_every_page, "SMALL", "() => []")
    monkeypatch.setattr(test_every_page, "RULES", [rule for rule in test_every_page.RULES if rule != "best-practice"])
    scrolled = test_every_page.CUT_OFF.replace(".table", ".table, .results")
    monkeypatch.setattr(test_every_page, "CUT_OFF", scrolled)
    page, said, faults = context.new_page(), [], []
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    for path in addresses:
        page.set_viewport_size({"width": 1280, "height": 900})
        answer = page.goto(address + path)
        assert answer is not None
        if answer.status != 200:
            faults.append(f"{path}: {answer.status}")
        faults += [f"{path}: says {line}" for line in said]
        faults += look_at(page, path, VIEWS)
        said.clear()  # axe's own, which the content policy refuses
    assert faults == []


def test_a_rule_is_foreseen_and_saved(context: BrowserContext, address: str) -> None:
    """And all without script, as forms."""
    page: Page = context.new_page()
    rule = GroupRule.objects.get()
    page.goto(f"{address}/admin/group-rules/{rule.pk}/change/")
    page.get_by_label("Value").fill("beam")
    page.get_by_role("button", name="Show who would get what").click()
    assert "1 get it at their next sign-in" in page.inner_text("main")
    page.get_by_role("button", name="Change").click()
    page.get_by_text("Saved:").wait_for()
    rule.refresh_from_db()
    assert rule.value == "beam"


def test_a_link_is_made_and_shown(context: BrowserContext, address: str) -> None:
    person = PersonFactory(facility=Person.objects.first().facility)  # type: ignore[union-attr]
    page = context.new_page()
    page.goto(f"{address}/admin/persons/{person.pk}/")
    page.get_by_role("link", name="Make a one-time link").click()
    page.get_by_role("button", name="Make a one-time link").click()
    assert "/auth/person/#" in page.inner_text("pre.once")
