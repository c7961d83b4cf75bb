"""Every page: a title, landmarks, named controls, the content policy, nothing inline; colours that can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import DatabaseError
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.urls import reverse

from auth.models import User
from instances.lifecycle import State
from instances.models import Instance
from portal.lib.errors import PortalError
from portal.templatetags import beamport
from tests.factories.auth import UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import HomeFactory, InstanceFactory

ROOT = Path(__file__).resolve().parent.parent.parent
OF_THE_ACCOUNT = ("identities", "sessions", "tokens", "data", "export", "erasure")
SCRIPT_FREE = {"href", "src", "action", "formaction"}


class Page(HTMLParser):
    """What the tests ask of a page's markup."""

    VOID = frozenset({"input", "meta", "link", "img", "br", "hr", "use"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts[len(self.tags) - 1] = ""
        if tag not in self.VOID:
            self.open.append(len(self.tags) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.tags[self.open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.texts[place] += data

    def all(self, *names: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attrs, " ".join(self.texts.get(n, "").split())) for n, (tag, attrs) in enumerate(self.tags) if tag in names
        ]


@pytest.fixture
def alice(db: None) -> User:
    return UserFactory(handle="alice")


@pytest.fixture
def addresses(alice: User) -> dict[str, str]:
    run = ExperimentFactory(pid="", proposal=ProposalFactory(opened=True))
    home = HomeFactory(user=alice, used=1, measured_at=run.start_at)
    instances: list[Instance] = [
        InstanceFactory(owner=alice, state=state, home=home) for state in State if state != State.DELETED
    ]
    one = instances[3]
    one.experiments.add(run)
    return {
        "home": "/",
        "sign-in": reverse("accounts:sign-in"),
        "account": reverse("accounts:account"),
        **{
            name: reverse(f"accounts:{name}")
            for name in ("identities", "sessions", "tokens", "data", "export", "erasure")
        },
        "rules": reverse("accounts:policy", args=["rules"]),
        "experiments": reverse("experiments:list"),
        "landing": reverse("experiments:landing", kwargs={"pid": run.proposal.pid_norm}),
        "new": f"/instances/new?dois={run.proposal.pid}",
        "new, empty": "/instances/new",
        "choose": f"/instances/new?dois={run.proposal.pid},10.5072/unknown",
        "instances": reverse("instances:list"),
        **{f"instance {row.state}": row.get_absolute_url() for row in instances},
        "delete": f"{one.get_absolute_url()}delete/",
        "delete home": reverse("instances:home-delete", args=[home.key]),
        "not found": "/nothing-here",
        "bad DOI": "/doi/not-a-doi",
    }


def get_all(client: Client, addresses: dict[str, str], user: User) -> dict[str, Any]:
    pages = {f"{name}, signed out": client.get(address) for name, address in addresses.items()}
    sign_in(client, user)
    pages |= {f"{name}, signed in": client.get(address) for name, address in addresses.items()}
    return {name: page for name, page in pages.items() if page.status_code != 302}


def test_every_page_keeps_the_rules(client: Client, alice: User, addresses: dict[str, str]) -> None:
    pages = get_all(client, addresses, alice)
    assert len(pages) > 25
    wrong = {name: faults for name, page in pages.items() if (faults := faults_of(page))}
    assert wrong == {}


def faults_of(response: Any) -> list[str]:
    """Name what a page does that no page may do."""
    page = Page(response.content.decode())
    csp = response.headers.get("Content-Security-Policy", "")
    return [
        *([] if "default-src 'self'" in csp and "unsafe" not in csp else [f"policy {csp!r}"]),
        *([] if "no-store" in response.headers["Cache-Control"] else ["may be stored"]),
        *_structure(page),
        *_inline(page),
        *_names(page),
    ]


def _structure(page: Page) -> list[str]:
    titles = [text for attrs, text in page.all("title") if text.endswith("· Beamport")]
    html = page.all("html")[0][0]
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    return [
        *([] if len(titles) == 1 and not titles[0].startswith("·") else ["no title"]),
        *([] if html.get("lang") else ["no language"]),
        *([] if len(page.all("h1")) == 1 else [f"{len(page.all('h1'))} h1"]),
        *([] if len(page.all("main")) == 1 else ["no main"]),
        *(
            []
            if page.tags[[tag for tag, _ in page.tags].index("body") + 1][1].get("href") == "#main"
            else ["no skip link"]
        ),
        *([f"id twice: {name}" for name in set(ids) if ids.count(name) > 1]),
    ]


def _inline(page: Page) -> list[str]:
    found = []
    for tag, attrs in page.tags:
        if tag == "style" or (tag == "script" and not attrs.get("src")):
            found.append(f"inline {tag}")
        for name, value in attrs.items():
            if name == "style" or name.startswith(("on", "hx-on", "hx-vals")):
                found.append(f"{name} on {tag}")
            if name in SCRIPT_FREE and (value or "").strip().lower().startswith(("javascript:", "data:", "//")):
                found.append(f"{name}={value}")
            if name == "hx-trigger" and "[" in (value or ""):
                found.append("an htmx filter needs eval")
    return found


def _names(page: Page) -> list[str]:
    labelled = {attrs.get("for") for attrs, _ in page.all("label")}
    inside = [text for attrs, text in page.all("label") if not attrs.get("for")]
    nameless = [f"{attrs}" for attrs, text in page.all("button", "a") if not text and not attrs.get("aria-label")]
    for attrs, _ in page.all("input"):
        kind = attrs.get("type")
        if kind in ("hidden", "submit") or attrs.get("id") in labelled or attrs.get("aria-label"):
            continue
        if kind in ("checkbox", "radio") and inside:
            continue
        nameless.append(f"input {attrs}")
    return [f"nameless {thing}" for thing in nameless] + [
        "image without alt" for attrs, _ in page.all("img") if "alt" not in attrs
    ]


def test_the_search_box_of_a_malformed_doi_holds_what_was_typed(client: Client, db: None) -> None:
    page = client.get('/doi/ten"><script>alert(1)</script>')
    assert page.status_code == 400
    assert [
        attrs["value"] for attrs, _ in Page(page.content.decode()).all("input") if attrs.get("id") == "retry-search"
    ]
    assert "<script>alert" not in page.content.decode()


def test_an_error_page_says_code_next_step_and_request_id(client: Client, db: None) -> None:
    response = client.get("/nothing-here")
    page = response.content.decode()
    assert response.headers["X-Request-Id"] in page
    assert "<code>not-found</code>" in page
    assert "Check the address" in page


def test_the_page_of_our_own_failure_asks_no_database(rf: RequestFactory) -> None:
    """No `db` fixture: any query would fail this test."""
    request = rf.get("/")

    class Broken:
        @property
        def is_authenticated(self) -> bool:
            raise DatabaseError("away")

    request.user = Broken()  # type: ignore[assignment]
    page = render_to_string("errors/error.html", {"error": PortalError(), "request_id": "f" * 32}, request)
    assert "f" * 32 in page
    assert "Something went wrong on our side" in page


def test_signing_in_comes_back_to_the_page_one_was_on(client: Client, db: None) -> None:
    page = Page(client.get("/experiments?text=ice").content.decode())
    assert [a["value"] for a, _ in page.all("input") if a.get("name") == "next"] == ["/experiments?text=ice"]


def test_only_pages_of_somebody_signed_in_listen_for_events(client: Client, alice: User) -> None:
    assert "data-events" not in Page(client.get("/").content.decode()).all("body")[0][0]
    sign_in(client, alice)
    assert "data-events" in Page(client.get("/").content.decode()).all("body")[0][0]


def test_no_script_of_ours_needs_eval_or_writes_markup() -> None:
    for script in (ROOT / "frontend/static/beamport").glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function|document\.write", script.read_text()
        ), script


# ---- colours ----


def schemes() -> dict[str, dict[str, str]]:
    text = (ROOT / "frontend/static/beamport/tokens.css").read_text()
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    read = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in (light, dark)]
    return {"light": read[0], "dark": read[0] | read[1]}


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXT = [
    *[
        (ink, ground)
        for ink in ("ink", "muted", "accent", "accent-hover", "good", "warn", "bad", "beam")
        for ground in ("ground", "surface")
    ],
    ("ink", "raised"),
    ("muted", "raised"),
    ("accent", "raised"),
    ("accent-ink", "accent"),
    ("accent-ink", "accent-hover"),
    ("bad-ink", "bad"),
    *[("ink", f"{word}-soft") for word in ("accent", "good", "warn", "bad")],
    *[("muted", f"{word}-soft") for word in ("accent", "good", "warn", "bad")],
    *[(word, f"{word}-soft") for word in ("accent", "good", "warn", "bad")],
]
EDGES = [("control-line", "ground"), ("control-line", "surface"), ("focus", "ground"), ("focus", "surface")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_edges_have_enough_contrast(scheme: str) -> None:
    colours = schemes()[scheme]
    weak = [(pair, round(ratio, 2)) for pair in TEXT if (ratio := contrast(*(colours[n] for n in pair))) < 4.5]
    weak += [(pair, round(ratio, 2)) for pair in EDGES if (ratio := contrast(*(colours[n] for n in pair))) < 3]
    assert weak == []


# ---- words ----


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (None, "unknown"),
        (0, "0 bytes"),
        (1536, "1.5 KiB"),
        (2**30, "1 GiB"),
        (7 * 2**30 + 2**29, "7.5 GiB"),
        (2**41, "2 TiB"),
    ],
)
def test_sizes_read_in_binary_units(amount: int | None, words: str) -> None:
    assert beamport.size(amount) == words


def test_icons_that_templates_name_are_drawn() -> None:
    drawn = set(re.findall(r'<symbol id="([\w-]+)"', (ROOT / "frontend/static/beamport/icons.svg").read_text()))
    named = {
        name
        for folder in ("portal", "auth", "experiments", "instances")
        for template in (ROOT / folder / "templates").rglob("*.html")
        for name in re.findall(r'{% icon "([\w-]+)" %}', template.read_text())
    }
    states = {beamport._SAME.get(state, state) for state in State if state != State.DELETED}
    assert settings.STATICFILES_DIRS
    assert named | states | set(beamport._SAME.values()) <= drawn
