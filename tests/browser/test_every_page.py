"""Every page with its three states: nothing there yet, something there, something wrong; each shows a way on.

The list (tests/browser/every_page.py) is complete: a new address that shows a page fails until its states are here.
Each is opened in Chromium, light and dark, at 320 and 1280 px, and looked at by axe. `BEAMPORT_SHOTS=<folder>` keeps a
picture of each.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page

from auth import erasure, notices, policies, tokens
from auth.models import ApiToken, User
from auth.roles import InstanceRole
from instances.gateway import pages as gateway_pages
from instances.lifecycle import State
from instances.models import Instance, Measured, Member, Plan, Quota
from portal.lib.clock import Now
from tests.auth.test_linking import leave, shown
from tests.browser.every_page import ALICE, GUEST, NEW, NO_PAGE, UNTOLD, VISITOR, World
from tests.browser.test_pages import address
from tests.factories.auth import IdentityFactory, RoleGrantFactory, UserFactory, sign_in
from tests.factories.experiments import DatasetFactory, ExperimentFactory, ProposalFactory, join_team
from tests.factories.instances import HomeFactory, InstanceFactory, PlanFactory, QuotaFactory
from tests.routes import TABLE

__all__ = ["address"]  # a fixture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

AXE = Path(__file__).resolve().parents[2] / "frontend" / "vendor-tests" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: only what is wrong: to hand over what it says of all that is well takes longer than the look itself
LOOK = "async rules => (await axe.run({runOnly: rules})).violations"
SMALL = """
() => [...document.querySelectorAll('a, button, input, select, summary')].filter(thing => {
  if (thing.type === 'hidden' || !thing.checkVisibility() || thing.closest('.skip')) return false;
  const box = thing.getBoundingClientRect();
  const inText = thing.matches('a:not(.button)') && thing.closest('p, li, td, th, dd, h1, h2, h3');
  return !inText && (box.width < 24 || box.height < 24);
}).map(thing => thing.outerHTML.slice(0, 120))
"""
#: what can be used and cannot be seen: it lies beside its box, whose rest has to be scrolled to
CUT_OFF = """
() => [...document.querySelectorAll('main :is(a, button, input, summary)')].filter(thing => {
  if (thing.type === 'hidden' || !thing.checkVisibility() || thing.closest('.skip, .table')) return false;
  const box = thing.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map(thing => thing.outerHTML.slice(0, 120))
"""

LONG = "Anisotropic thermal expansion of superionic water ice under shock compression at the megabar, second campaign "


def second_provider(folder: Path) -> Path:
    """A provider beside the demo's, with all that a button may show."""
    secret = folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    shutil.copy(AXE.parents[1] / "static" / "beamport" / "logo.svg", folder)
    file = folder / "providers.toml"
    lines = ["[umbrella]", 'issuer = "https://proxy.example"', 'client_id = "x"', 'client_secret_file = "secret"']
    file.write_text(
        "\n".join([*lines, f'title = "{LONG[:60]}"', f'description = "{(LONG * 3)[:300]}"', 'logo = "logo.svg"'])
    )
    return file


@pytest.fixture
def world(chromium: Browser, transactional_db: None, settings: Any, tmp_path: Path) -> World:
    settings.PROVIDERS_FILE = str(second_provider(tmp_path))
    settings.ROOT_URLCONF = "tests.security.test_headers"  # our addresses, and some that fail on purpose
    alice, plan = UserFactory(handle="alice", display_name="Alice " + "Rosalind " * 8), PlanFactory()
    facility = plan.image.provider.facility
    assert facility is not None
    facility.embargoed_metadata = "landing"
    facility.save()
    proposal = ProposalFactory(opened=True, facility=facility, title=LONG * 2, abstract=LONG * 8, license="CC-BY-4.0")
    runs = [ExperimentFactory(proposal=proposal, title=f"{LONG} {n}", sample="H2O" * 20) for n in range(30)]
    DatasetFactory(experiment=runs[0], path="/data/" + "long/" * 30)
    hidden = ProposalFactory(
        facility=facility, title="Not yet open: " + LONG, embargo_until=datetime(2099, 1, 1, tzinfo=UTC)
    )
    ExperimentFactory(proposal=hidden)
    join_team(alice, runs[0])
    IdentityFactory(user=alice, subject="x" * 120 + "@facility.example")
    RoleGrantFactory(user=alice, role="staff", facility=facility)
    QuotaFactory(scope=Quota.Scope.EVERYBODY, limit=9)
    new, guest = UserFactory(handle=NEW), UserFactory(handle=GUEST)
    for user in (alice, new, guest, UserFactory(handle=UNTOLD)):
        IdentityFactory(user=user)
    _fill_account(alice, new)
    home = HomeFactory(user=alice, provider=plan.image.provider, used=10 * 2**30, measured_at=datetime.now(UTC))
    HomeFactory(user=new, provider=plan.image.provider, key=f"{home.key}-free")
    rows = {state: _row(alice, plan, home, state) for state in State if state != State.DELETED}
    rows[State.ACTIVE].experiments.set(runs)
    _measure(rows[State.ACTIVE])
    Member.objects.create(instance=rows[State.ACTIVE], user=guest, role=InstanceRole.GUEST)
    return World(alice, plan, rows, str(proposal.pid_norm), str(hidden.pid_norm), home.key)


def _fill_account(alice: User, new: User) -> None:
    """What the pages of the account show at their fullest, and rules that all but one have accepted."""
    for number, day in ((1, 3), (2, 90)):
        lasts = timedelta(days=day)
        token, _ = tokens.issue(alice, scopes=tokens.SCOPES, lasts=lasts, name=f"{number} {LONG}"[:100])
    ApiToken.objects.filter(pk=token.pk).update(revoked_at=Now())
    notices.tell(alice, LONG * 3)
    erasure.ask(alice, "enough")
    admin = RoleGrantFactory(role="admin").user
    erasure.refuse(erasure.ask(new), by=admin, answer=LONG)
    sign_in(Client(headers={"User-Agent": LONG * 2}), alice)
    for version in ("1", "2"):
        policies.publish("rules", version, f"Rules of use, {LONG}", f"{LONG * 5}\n\n{LONG}")
    User.objects.exclude(handle=UNTOLD).update(aup_version="2")


def _measure(instance: Instance) -> None:
    Instance.objects.filter(pk=instance.pk).update(ready_at=Now() - timedelta(hours=1))
    figures = {"cpu": 0.8, "memory": 900 * 2**20, "disk_used": 99 * 2**30, "disk_size": 100 * 2**30}
    Measured.objects.create(instance=instance, at=Now(), **figures)


def _row(owner: User, plan: Plan, home: Any, state: State) -> Instance:
    failed = {"reason": "out-of-memory", "log": f"[I 2026] {'x' * 300}\n" * 30} if state == State.ERROR else {}
    if state == State.UNAVAILABLE:
        failed = {"reason": "not-answering", "services_up": {"jupyter": False}}
    row: Instance = InstanceFactory(
        owner=owner, plan=plan, home=home, state=state, name=f"{state} {LONG}"[:100], **failed
    )
    return row


@pytest.fixture
def contexts(chromium: Browser, address: str, world: World) -> Iterator[dict[str, BrowserContext]]:
    made = {}
    for who in (VISITOR, NEW, ALICE, GUEST, UNTOLD):
        made[who] = chromium.new_context(
            viewport={"width": 1280, "height": 900}, locale="en-GB", reduced_motion="reduce"
        )
        if who != VISITOR:
            client, user = Client(), User.objects.get(handle=who)
            sign_in(client, user, user.identities.first())
            if who == ALICE:
                leave(client, shown(f"{'y' * 120}@facility.example"))
            (name, morsel), *_ = client.cookies.items()
            url = address.replace("http:", "https:")
            cookie = {"name": name, "value": morsel.value, "url": url, "secure": True, "httpOnly": True}
            made[who].add_cookies([cookie])  # type: ignore[list-item]
    yield made
    for context in made.values():
        context.close()


#: (width, scheme): every rule in both schemes and at both widths; the long version takes all four
VIEWS = [(1280, "light"), (320, "dark")]
MORE_VIEWS = [(1280, "dark"), (320, "light")]
#: so many tests share the pages
PARTS = 4


def look_at(page: Page, name: str, views: list[tuple[int, str]]) -> list[str]:
    """What axe and a ruler find on the page that is open."""
    page.evaluate(AXE.read_text())
    faults = []
    for width, scheme in views:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        violations = page.evaluate(LOOK, RULES)
        found = [f"{fault['id']}: {node['html'][:120]}" for fault in violations for node in fault["nodes"]]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append("wider than the screen")
        found += [f"too small: {thing}" for thing in page.evaluate(SMALL)]
        found += [f"cut off: {thing}" for thing in page.evaluate(CUT_OFF)]
        faults += [f"{name}, {width} px, {scheme}: {fault}" for fault in found]
        if folder := os.environ.get("BEAMPORT_SHOTS"):
            file = re.sub(r"[^a-z0-9]+", "-", f"{name}-{width}-{scheme}".lower()).strip("-")
            page.screenshot(path=Path(folder) / f"{file}.png", full_page=True)
    return faults


#: a way on, in the page's own part: something to follow, press or fill in
WAYS_ON = "main a[href], main button, main input:not([type=hidden])"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("views", [VIEWS, pytest.param(MORE_VIEWS, marks=pytest.mark.slow)], ids=["two", "more"])
def test_every_page_in_every_state(
    contexts: dict[str, BrowserContext], address: str, world: World, views: list[tuple[int, str]], part: int
) -> None:
    pages = {who: context.new_page() for who, context in contexts.items()}
    faults: list[str] = []
    said: list[str] = []
    for page in pages.values():
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
    for name, look in list(world.looks())[part::PARTS]:
        page = pages[look.who]
        page.set_viewport_size({"width": 1280, "height": 900})
        answer = page.goto(address + look.path)
        assert answer is not None
        if answer.status != look.status:
            faults.append(f"{name}: {answer.status}")
        if not any(way.is_visible() for way in page.locator(WAYS_ON).all()):
            faults.append(f"{name}: no way on")
        if not page.locator("main h1").inner_text().strip():
            faults.append(f"{name}: no heading")
        faults += [f"{name}: says {line}" for line in said if "status of" not in line]
        faults += look_at(page, name, views)
        said.clear()  # axe's own, which the content policy refuses
    assert "\n".join(faults) == ""


def test_each_address_that_shows_a_page_has_its_three_states(world: World) -> None:
    pages = world.pages()
    shown = {
        route.address.partition("?")[0]
        for route in TABLE.values()
        if "GET" in route.methods and route.address not in NO_PAGE
    }
    assert set(pages) == shown
    assert {address for address, states in pages.items() if not {"empty", "full", "error"} <= set(states)} == set()


def gateway_answers() -> dict[str, gateway_pages.Answer]:
    from instances.gateway.http1 import Request, Section

    section = Section()
    section.fields[b"sec-fetch-dest"] = b"document"
    asked = Request(b"GET", b"/", 1, section)
    assert asked.navigation
    url = "http://localhost:8000"
    return {
        "stopped": gateway_pages.not_running("stopped", url, "1", asked),
        "starting": gateway_pages.not_running("starting", url, "1", asked),
        "gone": gateway_pages.not_running("", url, "", asked),
        "does not answer": gateway_pages.not_answering(url, "1", asked),
        "portal away": gateway_pages.portal_away(),
        "used up": gateway_pages.cannot_enter(url),
        "unsupported": gateway_pages.unsupported(url),
        "cookies": gateway_pages.too_large(True),
        "refused": gateway_pages.refusal(403, "this request came from another site", asked),
    }


def test_the_gateways_own_pages_too(chromium: Browser) -> None:
    context = chromium.new_context(reduced_motion="reduce")
    page = context.new_page()
    faults = []
    for name, answer in gateway_answers().items():
        page.set_content(answer.content.decode())
        faults += look_at(page, f"gateway {name}", VIEWS + MORE_VIEWS)
    context.close()
    assert "\n".join(faults) == ""
