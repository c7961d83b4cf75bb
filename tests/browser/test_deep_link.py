"""Two deep links at once: each tab signs in by itself and comes back to its own data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from auth.models import Session, User
from tests.auth.test_browser import portal
from tests.auth.test_demo_provider import folder
from tests.browser.conftest import sign_in
from tests.factories.experiments import DatasetFactory, ProposalFactory
from tests.factories.instances import PlanFactory

__all__ = ["folder", "portal"]

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

#: what lies behind each; DOIs have odd characters in them
TITLES = {"10.5072/DATA-1": "Rings in water", "10.5072/(SICI)9<A:B>2.0.CO;2-#": "Salt on ice"}
DOIS = tuple(TITLES)


@pytest.fixture
def tabs(portal: str, chromium: Browser) -> Iterator[list[Page]]:
    """One browser that nobody has signed in with yet, with a tab at each DOI's page."""
    PlanFactory(image__provider__facility=None)
    for doi, title in TITLES.items():
        DatasetFactory(experiment__title=title, experiment__proposal=ProposalFactory(opened=True, pid=doi))
    context = chromium.new_context(locale="en-GB")
    pages = [context.new_page() for _ in DOIS]
    for page, doi in zip(pages, DOIS, strict=True):
        answer = page.goto(f"{portal}/doi/{quote(doi)}")
        assert answer is not None
        assert answer.status == 200
    yield pages
    context.close()


def press_analyse(page: Page, portal: str) -> None:
    page.get_by_role("button", name="Analyse").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert not page.url.startswith(portal)


def is_back(page: Page, portal: str, doi: str) -> None:
    """The page to start an instance with this DOI's data, and no other's."""
    page.wait_for_url(re.compile(rf"^{re.escape(portal)}/instances/new\?"))
    expect(page.get_by_role("main").get_by_text(TITLES[doi]).first).to_be_visible()
    assert [title for title in TITLES.values() if title in page.get_by_role("main").inner_text()] == [TITLES[doi]]


def test_both_tabs_come_back_to_where_they_were(portal: str, tabs: list[Page]) -> None:
    for page in tabs:
        press_analyse(page, portal)
    # the first to begin comes back last
    for page, doi in reversed(list(zip(tabs, DOIS, strict=True))):
        sign_in(page, "scientist")
        is_back(page, portal, doi)
    for page, doi in zip(tabs, DOIS, strict=True):
        page.reload()
        is_back(page, portal, doi)
    assert User.objects.count() == 1
    assert Session.objects.filter(ended_at=None).count() == 1


def test_a_page_from_before_the_sign_in_says_what_to_do(portal: str, tabs: list[Page]) -> None:
    """Its form is the form of somebody who was not signed in: it is refused, and leads on to where it was to lead."""
    first, second = tabs
    press_analyse(first, portal)
    sign_in(first, "scientist")
    is_back(first, portal, DOIS[0])
    second.get_by_role("button", name="Analyse").click()
    expect(second.get_by_role("heading", name="too old")).to_be_visible()
    second.get_by_role("link", name="Go on").click()
    is_back(second, portal, DOIS[1])
    assert User.objects.count() == 1
