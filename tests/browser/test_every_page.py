"""Every page with its three states: nothing there yet, something there, something wrong; each shows a way on.

The list is complete: a new address that shows a page fails until its states are here. Each is opened in Chromium, light
and dark, at 320 and 1280 px, and looked at by axe. `BEAMPORT_SHOTS=<folder>` keeps a picture of each.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from instances.models import Instance, Member, Plan, Quota
from portal.lib.clock import Now
from tests.auth.test_linking import leave, shown
from tests.browser.test_pages import address
from tests.factories.auth import IdentityFactory, RoleGrantFactory, UserFactory, sign_in
from tests.factories.experiments import DatasetFactory, ExperimentFactory, ProposalFactory, join_team
from tests.factories.instances import HomeFactory, InstanceFactory, PlanFactory, QuotaFactory
from tests.routes import OPERATOR, TABLE

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

VISITOR, NEW, ALICE, GUEST, UNTOLD = "visitor", "newcomer", "alice", "guest", "untold"

#: addresses that show no page: for programs, or only ever leading on
NO_PAGE = {
    "/healthz",
    "/readyz",
    "/search",
    "/doi/{doi}/availability",
    "/proposals/{facility}/{proposal}",  # the page of a DOI under another address
    # for programs, and those of tests/browser/test_admin.py
} | {route.address for route in TABLE.values() if route.is_api or route.who == OPERATOR}


@dataclass(frozen=True)
class Look:
    """A page in one of its states: for whom, and with which status."""

    path: str
    who: str = ALICE
    status: int = 200
    post: dict[str, str] = field(default_factory=dict)


#: address → state → what to open; a text says why the page has no such state
Pages = dict[str, dict[str, Look | str]]

ERRORS_OF_ALL = "the pages of errors, below"
ERRORS: dict[str, Look] = {
    "400 no DOI": Look("/doi/not-a-doi", VISITOR, 400),
    "403": Look("/broken/403", ALICE, 403),
    "403 not fresh": Look("/broken/not-fresh", ALICE, 403),
    "404": Look("/nothing/here", VISITOR, 404),
    "404 signed in": Look("/nothing/here", ALICE, 404),
    "405": Look("/auth/logout/", ALICE, 405),
    "500": Look("/broken/500", ALICE, 500),
    "503": Look("/broken/503", VISITOR, 503),
}


@dataclass
class World:
    """All there is to show; names and titles as long as they may be."""

    alice: User
    plan: Plan
    rows: dict[State, Instance]
    doi: str
    embargoed: str
    home: str

    def pages(self) -> Pages:
        one, error = self.rows[State.ACTIVE], self.rows[State.ERROR]
        states = {f"{state}": Look(row.get_absolute_url()) for state, row in self.rows.items()}
        new = f"/instances/new?dois={self.doi}"
        return {
            "/": {"empty": Look("/", VISITOR), "full": Look("/"), "error": ERRORS_OF_ALL},
            "/auth/sign-in/": {
                "empty": "a provider is always configured; the page says so when none is",
                "full": Look("/auth/sign-in/?next=/instances/", VISITOR),
                "error": "what a provider gets wrong is a page of the callback's",
            },
            "/auth/{provider}/login/": {
                "empty": "it is one button",
                "full": Look("/auth/demo/login/", VISITOR),
                "error": Look("/auth/nowhere/login/", VISITOR, 404),
            },
            "/auth/{provider}/callback/": {
                "empty": "it only leads on",
                "full": "it only leads on",
                "error": Look("/auth/demo/callback/?state=x&code=y", VISITOR, 400),
            },
            "/auth/signed-out/": {
                "empty": "it is one sentence",
                "full": Look("/auth/signed-out/", VISITOR),
                "error": ERRORS_OF_ALL,
            },
            "/auth/person/": {
                "empty": Look("/auth/person/", VISITOR),
                "full": Look("/auth/person/"),
                "error": "a wrong code is answered as an unknown page is",
            },
            "/auth/account/": {
                "empty": Look("/auth/account/", NEW),
                "full": Look("/auth/account/"),
                "error": ERRORS_OF_ALL,
            },
            **self.account(),
            "/instances/": {
                "empty": Look("/instances/", NEW),
                "full": Look("/instances/"),
                "error": Look("/instances/?after=nonsense"),
            },
            "/instances/new": {
                "empty": Look("/instances/new"),
                "nothing open": Look("/instances/new?dois=10.5072/unknown", NEW),
                "several": Look(f"{new},10.5072/unknown", VISITOR),
                "full": Look(new),
                "error": Look("/instances/new?dois=not-a-doi,10.5072/unknown&proposals=none", ALICE),
            },
            "/instances/{instance}/": {
                "empty": states["requested"],
                "full": states["active"],
                **{f"full, {name}": look for name, look in states.items() if name != "active"},
                "guest": Look(one.get_absolute_url(), GUEST),
                "error": Look(error.get_absolute_url()),
            },
            "/instances/{instance}/delete/": {
                "empty": "it is one question",
                "full": Look(f"{one.get_absolute_url()}delete/"),
                "error": Look(f"{one.get_absolute_url()}delete/", GUEST),
            },
            "/homes/{home}/delete/": {
                "empty": "it is one question",
                "full": Look(f"/homes/{self.home}-free/delete/", NEW),
                "error": Look(f"/homes/{self.home}/delete/"),
            },
            "/enter/{slug}": {
                "empty": "it only leads on",
                "full": "it only leads on",
                "error": Look(f"/enter/{one.slug}?n={'0' * 64}", GUEST, 403),
                "incomplete": Look(f"/enter/{one.slug}", GUEST, 400),
            },
            "/experiments": {
                "empty": Look("/experiments?text=nothing+is+called+this"),
                "mine, empty": Look("/experiments?show=mine", NEW),
                "full": Look("/experiments", VISITOR),
                "error": Look("/experiments?year=abcd", VISITOR, 400),
            },
            "/doi/{doi}": {
                "empty": Look(f"/doi/{self.embargoed}", VISITOR),
                "full": Look(f"/doi/{self.doi}", VISITOR),
                "full, signed in": Look(f"/doi/{self.doi}"),
                "error": Look("/doi/10.5072/unknown", VISITOR, 404),
            },
        }

    def account(self) -> Pages:
        account = "/auth/account/"
        token, revoke = tokens.valid(tokens.of(self.alice))[0], f"{account}tokens/{{token}}/revoke/"
        only, one_of_two = (user.identities.first() for user in (User.objects.get(handle=NEW), self.alice))
        unlink, rules = f"{account}identities/{{identity}}/unlink/", "/auth/policies/rules/"
        return {
            f"{account}identities/": {
                "empty": Look(f"{account}identities/", NEW),
                "full": Look(f"{account}identities/"),
                "error": ERRORS_OF_ALL,
            },
            f"{account}identities/link/": {
                "empty": Look(f"{account}identities/link/", NEW, 409),
                "full": Look(f"{account}identities/link/"),
                "error": ERRORS_OF_ALL,
            },
            unlink: {
                "empty": Look(unlink.format(identity=only.uid), NEW),
                "full": Look(unlink.format(identity=one_of_two.uid)),
                "error": Look(unlink.format(identity=only.uid), ALICE, 404),
            },
            f"{account}sessions/": {
                "empty": Look(f"{account}sessions/", NEW),
                "full": Look(f"{account}sessions/"),
                "error": ERRORS_OF_ALL,
            },
            f"{account}tokens/": {
                "empty": Look(f"{account}tokens/", NEW),
                "full": Look(f"{account}tokens/"),
                "error": "what was sent wrongly is looked at in tests/browser/test_account.py",
            },
            revoke: {
                "empty": "it is one question",
                "full": Look(revoke.format(token=token.prefix)),
                "error": Look(revoke.format(token=token.prefix), NEW, 404),
            },
            f"{account}data/": {
                "empty": "something is held of everybody",
                "full": Look(f"{account}data/"),
                "error": ERRORS_OF_ALL,
            },
            f"{account}data/export/": {
                "empty": "it is one button",
                "full": Look(f"{account}data/export/"),
                "error": ERRORS_OF_ALL,
            },
            f"{account}data/erasure/": {
                "empty": Look(f"{account}data/erasure/", GUEST),
                "refused": Look(f"{account}data/erasure/", NEW),
                "full": Look(f"{account}data/erasure/"),
                "error": ERRORS_OF_ALL,
            },
            "/auth/policies/privacy/": {
                "empty": Look("/auth/policies/privacy/", VISITOR),
                "full": Look(rules, VISITOR),
                "error": Look("/auth/policies/cookies/", VISITOR, 404),
            },
            "/auth/policies/privacy/{version}/": {
                "empty": "a version has a text",
                "full": Look(f"{rules}1/", VISITOR),
                "error": Look(f"{rules}9/", VISITOR, 404),
            },
            f"{rules}accept/": {
                "empty": "without rules it leads on",
                "full": Look(f"{rules}accept/?next=/instances/", UNTOLD),
                "error": ERRORS_OF_ALL,
            },
        }

    def looks(self) -> Iterator[tuple[str, Look]]:
        for route, states in self.pages().items():
            yield from ((f"{route} ({state})", look) for state, look in states.items() if isinstance(look, Look))
        yield from ((f"error {name}", look) for name, look in ERRORS.items())


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
