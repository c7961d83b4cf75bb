"""Pages as a browser shows them: live progress, the way on to JupyterLab, keyboard, small screens, both schemes."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, WebSocketRoute, expect

from auth.models import User
from instances import services, transitions
from instances.lifecycle import State
from instances.models import Instance, Plan
from portal.asgi import application
from tests.factories.auth import UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import InstanceFactory, PlanFactory

pytestmark = pytest.mark.browser

#: longer than the countdown by far
A_WHILE = 4000


@dataclass
class Portal:
    """The web process in a thread of this one, and a browser context signed in as Alice."""

    url: str
    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(15_000)
        page.goto(self.url + path)
        return page


@pytest.fixture
def address(chromium: Browser, transactional_db: None, settings: Any) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        settings.PORTAL_URL = f"http://localhost:{port}"
        settings.APPS_DOMAIN = f"apps.localhost:{port}"
        settings.ALLOWED_HOSTS = ["localhost"]
        server = uvicorn.Server(
            uvicorn.Config(application, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until = time.monotonic() + 15
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        yield settings.PORTAL_URL
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def alice(chromium: Browser, transactional_db: None) -> User:
    return UserFactory(handle="alice")


@pytest.fixture
def plan(chromium: Browser, transactional_db: None) -> Plan:
    return PlanFactory()


@pytest.fixture
def portal(chromium: Browser, address: str, alice: User) -> Iterator[Portal]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    client = Client()
    sign_in(client, alice)
    (name, morsel), *_ = client.cookies.items()
    context.add_cookies(
        [
            {
                "name": name,
                "value": morsel.value,
                "url": address.replace("http:", "https:"),
                "secure": True,
                "httpOnly": True,
            }
        ]
    )
    portal = Portal(address, context)
    context.on("console", lambda said: portal.complaints.append(said.text) if said.type == "error" else None)
    context.on("weberror", lambda error: portal.complaints.append(str(error.error)))
    # the instance's own origin is the gateway's; here any page there will do
    context.route(
        re.compile(r"//[a-z0-9]+\.apps\.localhost"),
        lambda route: route.fulfill(body="<title>JupyterLab</title>lab", content_type="text/html"),
    )
    yield portal
    context.close()


def make(alice: User, plan: Plan, state: State, **more: Any) -> Instance:
    return InstanceFactory(owner=alice, plan=plan, state=state, name="Lysozyme", **more)


def lab(instance: Instance) -> re.Pattern[str]:
    return re.compile(rf"^http://{instance.slug}\.apps\.localhost:\d+/lab/tree/Welcome\.ipynb$")


def become_ready(instance: Instance) -> None:
    assert transitions.mark_ready(instance.uid) is transitions.Marked.DONE


def test_a_page_that_saw_it_become_ready_goes_on_and_back_does_not(portal: Portal, alice: User, plan: Plan) -> None:
    instance = make(alice, plan, State.STARTING)
    page = portal.open(instance.get_absolute_url())
    expect(page.get_by_text("JupyterLab opens by itself when it is ready.")).to_be_visible()
    become_ready(instance)
    page.wait_for_url(lab(instance))
    page.go_back()
    expect(page.locator("#state")).to_have_text("Active")
    page.wait_for_timeout(A_WHILE)
    assert page.url == portal.url + instance.get_absolute_url()
    assert not portal.complaints


def test_staying_is_one_click_before_and_after_it_is_ready(portal: Portal, alice: User, plan: Plan) -> None:
    instance = make(alice, plan, State.STARTING)
    page = portal.open(instance.get_absolute_url())
    page.get_by_role("button", name="Stay on this page").click()
    become_ready(instance)
    expect(page.locator("#state")).to_have_text("Active")
    page.wait_for_timeout(A_WHILE)
    assert page.url == portal.url + instance.get_absolute_url()

    again = make(alice, plan, State.STARTING)
    page.add_init_script("performance.now = () => 0")  # so that it was offered this very moment
    page.goto(portal.url + again.get_absolute_url())
    become_ready(again)
    expect(page.get_by_text("Opening JupyterLab…")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_timeout(A_WHILE)
    assert page.url == portal.url + again.get_absolute_url()
    expect(page.get_by_role("link", name="Open JupyterLab")).to_be_focused()


def test_a_page_that_finds_it_active_stays(portal: Portal, alice: User, plan: Plan) -> None:
    instance = make(alice, plan, State.ACTIVE)
    page = portal.open(instance.get_absolute_url())
    page.wait_for_timeout(A_WHILE)
    assert page.url == portal.url + instance.get_absolute_url()
    page.get_by_role("link", name="Open JupyterLab").click()
    page.wait_for_url(lab(instance))


def test_a_change_shows_without_reloading_and_is_announced_once(portal: Portal, alice: User, plan: Plan) -> None:
    instance = make(alice, plan, State.ACTIVE)
    page = portal.open("/instances/")
    page.evaluate("window.kept = true")
    page.evaluate(
        "window.said = [];"
        "new MutationObserver(() => said.push(announcer.textContent)).observe(announcer, {childList: true})"
    )
    services.stop(instance, by=alice)
    transitions.aim(instance, "stopped", event="again")
    expect(page.get_by_role("button", name="Start")).to_have_count(0)
    expect(page.locator(f"#state-{instance.uid}")).to_have_text("Stopping")
    page.wait_for_timeout(500)
    assert page.evaluate("window.kept") is True
    assert page.evaluate("said") == ["Lysozyme: Stopping"]


def test_focus_and_open_parts_survive_a_fresh_fragment(portal: Portal, alice: User, plan: Plan) -> None:
    instance = make(alice, plan, State.STARTING)
    page = portal.open(instance.get_absolute_url())
    page.locator("#history > summary").click()
    page.locator("#delete").focus()
    become_ready(instance)
    expect(page.locator("#state")).to_have_text("Active")
    expect(page.locator("#delete")).to_be_focused()
    assert page.locator("#history").evaluate("part => part.open") is True


def test_without_the_socket_the_page_asks_every_ten_seconds(portal: Portal, alice: User, plan: Plan) -> None:
    def refuse(route: WebSocketRoute) -> None:
        route.close(code=1011)

    portal.context.route_web_socket(re.compile("/ws/events"), refuse)
    instance = make(alice, plan, State.STARTING)
    page = portal.open(instance.get_absolute_url())
    page.get_by_role("button", name="Stay on this page").click()
    become_ready(instance)
    expect(page.locator("#state")).to_have_text("Active", timeout=20_000)


def test_it_starts_by_keyboard_alone(portal: Portal, alice: User, plan: Plan) -> None:
    run = ExperimentFactory(pid="", proposal=ProposalFactory(opened=True, facility=plan.image.provider.facility))
    page = portal.open(f"/instances/new?dois={run.proposal.pid}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    box = page.get_by_role("checkbox")
    for _ in range(3):
        page.keyboard.press("Tab")
        if box.evaluate("box => box === document.activeElement"):
            break
    expect(box).to_be_focused()
    page.keyboard.press("Space")
    expect(box).not_to_be_checked()
    page.keyboard.press("Space")
    for _ in range(3):  # plan, name, Start
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Start")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/instances/[0-9a-f-]{36}/$"))
    expect(page.get_by_role("heading", level=1)).to_have_text(Instance.objects.get().name)


def test_all_and_none_are_one_click(portal: Portal, alice: User, plan: Plan) -> None:
    proposal = ProposalFactory(opened=True, facility=plan.image.provider.facility)
    for _ in range(12):
        ExperimentFactory(pid="", proposal=proposal)
    page = portal.open(f"/instances/new?dois={proposal.pid}")
    expect(page.get_by_text("12 of 12 selected")).to_be_visible()
    page.get_by_role("button", name="Select none").click()
    expect(page.get_by_text("0 of 12 selected")).to_be_visible()
    page.get_by_role("button", name="Select all").click()
    expect(page.get_by_text("12 of 12 selected")).to_be_visible()
