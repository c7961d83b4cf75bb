"""The table of all pages and their states, and whom each is opened for (tests/browser/test_every_page.py looks)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from auth import tokens
from auth.models import User
from instances.lifecycle import State
from instances.models import Instance, Plan
from tests.routes import OPERATOR, TABLE

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


#: address → state → what to open; a text says why the page has no such state
Pages = dict[str, dict[str, Look | str]]

ACCOUNT, RULES = "/auth/account/", "/auth/policies/rules/"
ERRORS_OF_ALL = "the pages of errors, below"
ERRORS: dict[str, Look] = {
    "400 no DOI": Look("/doi/not-a-doi", VISITOR, 400),
    "403": Look("/broken/403", ALICE, 403),
    "403 not fresh": Look("/broken/not-fresh", ALICE, 403),
    "403 too old": Look("/broken/too-old", ALICE, 403),
    "403 too old, signed out": Look("/broken/too-old", VISITOR, 403),
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
        return {
            **_ways_in(),
            **self._account(),
            **self._identities(),
            **_policies(),
            **self._machines(),
            **self._data(),
        }

    def looks(self) -> Iterator[tuple[str, Look]]:
        for route, states in self.pages().items():
            yield from ((f"{route} ({state})", look) for state, look in states.items() if isinstance(look, Look))
        yield from ((f"error {name}", look) for name, look in ERRORS.items())

    def _account(self) -> Pages:
        token, revoke = tokens.valid(tokens.of(self.alice))[0], f"{ACCOUNT}tokens/{{token}}/revoke/"
        return {
            ACCOUNT: {
                "empty": Look(ACCOUNT, NEW),
                "full": Look(ACCOUNT),
                "error": ERRORS_OF_ALL,
            },
            f"{ACCOUNT}sessions/": {
                "empty": Look(f"{ACCOUNT}sessions/", NEW),
                "full": Look(f"{ACCOUNT}sessions/"),
                "error": ERRORS_OF_ALL,
            },
            f"{ACCOUNT}tokens/": {
                "empty": Look(f"{ACCOUNT}tokens/", NEW),
                "full": Look(f"{ACCOUNT}tokens/"),
                "error": "what was sent wrongly is looked at in tests/browser/test_account.py",
            },
            revoke: {
                "empty": "it is one question",
                "full": Look(revoke.format(token=token.prefix)),
                "error": Look(revoke.format(token=token.prefix), NEW, 404),
            },
            f"{ACCOUNT}data/": {
                "empty": "something is held of everybody",
                "full": Look(f"{ACCOUNT}data/"),
                "error": ERRORS_OF_ALL,
            },
            f"{ACCOUNT}data/export/": {
                "empty": "it is one button",
                "full": Look(f"{ACCOUNT}data/export/"),
                "error": ERRORS_OF_ALL,
            },
            f"{ACCOUNT}data/erasure/": {
                "empty": Look(f"{ACCOUNT}data/erasure/", GUEST),
                "refused": Look(f"{ACCOUNT}data/erasure/", NEW),
                "full": Look(f"{ACCOUNT}data/erasure/"),
                "error": ERRORS_OF_ALL,
            },
        }

    def _identities(self) -> Pages:
        only, one_of_two = (user.identities.first() for user in (User.objects.get(handle=NEW), self.alice))
        unlink = f"{ACCOUNT}identities/{{identity}}/unlink/"
        return {
            f"{ACCOUNT}identities/": {
                "empty": Look(f"{ACCOUNT}identities/", NEW),
                "full": Look(f"{ACCOUNT}identities/"),
                "error": ERRORS_OF_ALL,
            },
            f"{ACCOUNT}identities/link/": {
                "empty": Look(f"{ACCOUNT}identities/link/", NEW, 409),
                "full": Look(f"{ACCOUNT}identities/link/"),
                "error": ERRORS_OF_ALL,
            },
            unlink: {
                "empty": Look(unlink.format(identity=only.uid), NEW),
                "full": Look(unlink.format(identity=one_of_two.uid)),
                "error": Look(unlink.format(identity=only.uid), ALICE, 404),
            },
        }

    def _machines(self) -> Pages:
        one, error = self.rows[State.ACTIVE], self.rows[State.ERROR]
        states = {f"{state}": Look(row.get_absolute_url()) for state, row in self.rows.items()}
        new = f"/instances/new?dois={self.doi}"
        return {
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
        }

    def _data(self) -> Pages:
        return {
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


def _ways_in() -> Pages:
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
    }


def _policies() -> Pages:
    return {
        "/auth/policies/privacy/": {
            "empty": Look("/auth/policies/privacy/", VISITOR),
            "full": Look(RULES, VISITOR),
            "error": Look("/auth/policies/cookies/", VISITOR, 404),
        },
        "/auth/policies/privacy/{version}/": {
            "empty": "a version has a text",
            "full": Look(f"{RULES}1/", VISITOR),
            "error": Look(f"{RULES}9/", VISITOR, 404),
        },
        f"{RULES}accept/": {
            "empty": "without rules it leads on",
            "full": Look(f"{RULES}accept/?next=/instances/", UNTOLD),
            "error": ERRORS_OF_ALL,
        },
    }
