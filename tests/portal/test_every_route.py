"""Every address of the portal, asked by a visitor and by a stranger, politely and with junk.

The table says who may what. A route that is not in it fails: whoever adds one has to say it here.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from auth.models import Session, User
from instances.models import Home, Instance
from tests.factories.auth import UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import HomeFactory, InstanceFactory

pytestmark = pytest.mark.django_db

#: who gets further than a refusal
EVERYBODY, SIGNED_IN, OWNER = "everybody", "signed in", "owner"


@dataclass(frozen=True)
class Route:
    """An address with places for ids, who may, and the methods that mean something there."""

    address: str
    who: str
    methods: str

    @property
    def is_api(self) -> bool:
        return self.address.startswith("/api/")


#: pattern of the URL configuration → what it is
TABLE = {
    "": Route("/", EVERYBODY, "GET"),
    "healthz": Route("/healthz", EVERYBODY, "GET"),
    "readyz": Route("/readyz", EVERYBODY, "GET"),
    "auth/sign-in/": Route("/auth/sign-in/", EVERYBODY, "GET"),
    "auth/logout/": Route("/auth/logout/", EVERYBODY, "POST"),
    "auth/account/": Route("/auth/account/", SIGNED_IN, "GET"),
    "auth/account/sessions/<uuid:uid>/end/": Route("/auth/account/sessions/{session}/end/", OWNER, "POST"),
    "auth/<slug:slug>/login/": Route("/auth/{provider}/login/", EVERYBODY, "GET POST"),
    "auth/<slug:slug>/callback/": Route("/auth/{provider}/callback/", EVERYBODY, "GET"),
    "instances/": Route("/instances/", SIGNED_IN, "GET"),
    "instances/new": Route("/instances/new", SIGNED_IN, "GET POST"),
    "instances/<uuid:uid>/": Route("/instances/{instance}/", OWNER, "GET"),
    "instances/<uuid:uid>/start/": Route("/instances/{instance}/start/", OWNER, "POST"),
    "instances/<uuid:uid>/stop/": Route("/instances/{instance}/stop/", OWNER, "POST"),
    "instances/<uuid:uid>/reboot/": Route("/instances/{instance}/reboot/", OWNER, "POST"),
    "instances/<uuid:uid>/retry/": Route("/instances/{instance}/retry/", OWNER, "POST"),
    "instances/<uuid:uid>/delete/": Route("/instances/{instance}/delete/", OWNER, "GET POST"),
    "homes/<str:key>/delete/": Route("/homes/{home}/delete/", OWNER, "GET POST"),
    "enter/<slug:slug>": Route("/enter/{slug}?n=" + "0" * 64, OWNER, "GET"),
    "search": Route("/search", EVERYBODY, "GET"),
    "experiments": Route("/experiments", EVERYBODY, "GET"),
    "doi/<pid:pid>/availability": Route("/doi/{doi}/availability", EVERYBODY, "GET"),
    "doi/<pid:pid>": Route("/doi/{doi}", OWNER, "GET"),
    "proposals/<slug:facility>/<pid:identifier>": Route("/proposals/{facility}/{proposal}", OWNER, "GET"),
    "api/v1/openapi.json": Route("/api/v1/openapi.json", EVERYBODY, "GET"),
    "api/v1/me": Route("/api/v1/me", SIGNED_IN, "GET"),
    "api/v1/experiments": Route("/api/v1/experiments", EVERYBODY, "GET"),
    "api/v1/experiments/<uuid:uid>": Route("/api/v1/experiments/{experiment}", OWNER, "GET"),
    "api/v1/instances": Route("/api/v1/instances", SIGNED_IN, "GET POST"),
    "api/v1/instances/<uuid:uid>": Route("/api/v1/instances/{instance}", OWNER, "GET DELETE"),
    "api/v1/instances/<uuid:uid>/start": Route("/api/v1/instances/{instance}/start", OWNER, "POST"),
    "api/v1/instances/<uuid:uid>/stop": Route("/api/v1/instances/{instance}/stop", OWNER, "POST"),
    "api/v1/instances/<uuid:uid>/reboot": Route("/api/v1/instances/{instance}/reboot", OWNER, "POST"),
    "api/v1/instances/<uuid:uid>/retry": Route("/api/v1/instances/{instance}/retry", OWNER, "POST"),
    "api/v1/plans": Route("/api/v1/plans", SIGNED_IN, "GET"),
}

ROUTES = pytest.mark.parametrize("route", TABLE.values(), ids=lambda route: route.address)
CALLERS = pytest.mark.parametrize("caller", ["anonymous", "stranger"])
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

#: query strings that no form sends
QUERIES = (
    "?next=%00&q=%00&text=%00&year=%00&instrument=%00&doi=10.1/%00&show=%00&page=%00&after=%00&before=%00",
    "?dois=10.1234/%00&proposals=%00&experiments=%00&plan=%00&t=%00&to=%00&n=%00&again=%00",
    "?q=%ff%fe&text=%ed%a0%80&next=%E2%80%AE&dois=%ff&doi=%ff",
    "?page=" + "9" * 5000 + "&year=" + "9" * 5000 + "&limit=" + "9" * 5000 + "&cursor=" + "A" * 5000,
    "?cursor=cD0lMDA%3D&limit=-1",  # p=%00
    "?cursor=cD05OTk5OTk5OTk5OTk5OTk5OTk5OTk5&limit=0",  # p=99…
    "?cursor=bz0tMQ%3D%3D&cursor=%C3%A9",  # o=-1
    "?state=a&state=b&code=%00&iss=%00&error=%00&error_description=%00",
    "?state=%00&code=%00",
    "?text=" + "x%20" * 3000,
    "?dois=" + ",".join(["10.1234/a"] * 500),
    "?" + "&".join(f"a{n}=1" for n in range(1500)),
    "?mine=maybe&open=[]&format=exe&lang=%00&version=%00",
    "?_method=DELETE&plan[]=1&%00=%00&=&&;=",
)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
#: bodies that no form sends: (content type, bytes)
BODIES = (
    (JSON, b""),
    (JSON, b"{"),
    (JSON, b"\xff\xfe"),
    (JSON, b"[" * 100_000),
    (JSON, b'{"a":' * 50_000),
    (JSON, b"[]"),
    (JSON, b'"text"'),
    (JSON, b"null"),
    (JSON, b"NaN"),
    (JSON, b"9" * 6000),
    (JSON, b'{"name": "a", "name": "b"}'),
    (JSON, b" " * 3_000_000 + b"{}"),
    (JSON, b'{"plan": "\\u0000", "name": "\\ud800", "experiments": ["\\u0000"]}'),
    (JSON, b'{"plan": {}, "name": [], "experiments": "x"}'),
    (JSON, b'{"plan": "p", "name": "n", "experiments": [1, null, {}, "\\ud800"]}'),
    (JSON, b'{"plan": "p", "name": "n", "owner": 1, "state": "active", "__class__": {}}'),
    (JSON + "; charset=rot13", b"{}"),
    (JSON + "; charset=zlib", b"{}"),
    (JSON + "; charset=undefined", b"{}"),
    (JSON + "; charset=utf-16", b"{}"),
    (FORM, b"next=%00&name=%00&plan=%00&experiments=%00&confirmation=%00&idempotency_key=%00"),
    (FORM, b"next=%ff&name=%ed%a0%80&plan=%ff&experiments=%ff"),
    (FORM, b"name=n&plan=" + b"p" * 100_000),
    (FORM, b"&".join(b"a%d=1" % n for n in range(1500))),
    (FORM + "; charset=rot13", b"next=/"),
    ("multipart/form-data", b"junk"),
    (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data; name=plan\r\n\r\n\x00\xff\r\n--x--\r\n",
    ),
    (
        "multipart/form-data; boundary=x; charset=rot13",
        b'--x\r\nContent-Disposition: form-data; name="plan"\r\n\r\nabc\r\n--x--\r\n',
    ),
    ("text/plain", b"junk"),
    ("%%%", b"junk"),
)


def patterns(resolver: URLResolver | None = None, before: str = "") -> Iterator[str]:
    for entry in (resolver or get_resolver()).url_patterns:
        here = before + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield here
        else:
            yield from patterns(entry, here)


@dataclass(frozen=True)
class World:
    """Somebody's things: all behind an embargo and a membership."""

    owner: User
    session: Session
    instance: Instance
    home: Home
    ids: dict[str, Any]

    def address(self, route: Route) -> str:
        return route.address.format(**self.ids)


#: ids of the same shape that belong to nothing
UNKNOWN = {
    "session": uuid.UUID(int=1),
    "instance": uuid.UUID(int=1),
    "experiment": uuid.UUID(int=1),
    "home": "nobody-abcdef",
    "slug": "aaaaaaaaaaaaaaaa",
    "provider": "nowhere",
    "doi": "10.5072/data-000000",
    "facility": "nowhere",
    "proposal": "000000",
}


@pytest.fixture
def world() -> World:
    owner = UserFactory()
    session = sign_in(Client(), owner)
    instance = InstanceFactory(owner=owner)
    home = HomeFactory(user=owner, provider=instance.provider)
    experiment = ExperimentFactory(proposal=ProposalFactory(facility=instance.facility))
    ids = UNKNOWN | {
        "session": session.uid,
        "instance": instance.uid,
        "experiment": experiment.uid,
        "home": home.key,
        "slug": instance.slug,
        "doi": experiment.proposal.pid_norm,
        "facility": instance.facility.slug,
        "proposal": experiment.proposal.identifier,
    }
    return World(owner, session, instance, home, ids)


def browser(caller: str, *, csrf: bool = False) -> Client:
    """A browser of a caller; it answers a crash with the page for one, as the portal does."""
    client = Client(enforce_csrf_checks=csrf, raise_request_exception=False, headers={"Sec-Fetch-Dest": "document"})
    if caller == "stranger":
        sign_in(client, UserFactory())
    return client


def fits(route: Route, response: Any) -> None:
    """No crash; a program gets a problem document, with the fields that it needs."""
    assert response.status_code < 500, response.content[:500]
    if route.is_api and response.status_code >= 300:
        assert response.headers["Content-Type"] == "application/problem+json"
        problem = json.loads(response.content)
        assert problem["status"] == response.status_code
        assert problem["type"].startswith("urn:beamport:error:")


def plain(response: Any) -> tuple[int, str]:
    """What a caller learns from an answer: all but the request's own id."""
    text = response.content.decode().replace(response.headers["X-Request-Id"], "")
    return response.status_code, re.sub(r'(name="csrfmiddlewaretoken" value=")\w+', r"\1", text)


def test_every_route_is_in_the_table() -> None:
    assert sorted(patterns()) == sorted(TABLE)


@ROUTES
@CALLERS
def test_no_method_and_no_query_breaks_it(route: Route, caller: str, world: World) -> None:
    client = browser(caller)
    address = world.address(route)
    for method in METHODS:
        response = client.generic(method, address)
        fits(route, response)
        if method not in route.methods.split():
            refused = {405, 401} if route.is_api and caller == "anonymous" else {405}
            assert response.status_code in refused, method
    glue = "&" if "?" in address else "?"
    for query in QUERIES:
        fits(route, client.get(address + glue + query[1:]))


@ROUTES
@CALLERS
def test_no_body_breaks_it(route: Route, caller: str, world: World) -> None:
    client = browser(caller)
    address = world.address(route).partition("?")[0]
    for kind, body in BODIES:
        fits(route, client.generic("POST", address, body, kind))


@pytest.mark.parametrize("route", [r for r in TABLE.values() if r.who == OWNER], ids=lambda route: route.address)
@CALLERS
def test_what_is_anothers_answers_like_what_is_not_there(route: Route, caller: str, world: World) -> None:
    client = browser(caller)
    for method in route.methods.split():
        theirs = client.generic(method, world.address(route))
        nobodys = client.generic(method, route.address.format(**UNKNOWN))
        seen, unknown = plain(theirs), plain(nobodys)
        for name, value in world.ids.items():
            seen = (seen[0], seen[1].replace(str(value), str(UNKNOWN[name])))
        assert seen == unknown
        assert theirs.status_code == 404 or (caller == "anonymous" and theirs.status_code in (302, 401))
    world.instance.refresh_from_db()
    assert world.instance.target == "active"
    assert Home.objects.filter(pk=world.home.pk, deleting_at=None).exists()
    assert Session.objects.filter(pk=world.session.pk, ended_at=None).exists()


@pytest.mark.parametrize("route", [r for r in TABLE.values() if r.who == SIGNED_IN], ids=lambda route: route.address)
def test_a_visitor_is_asked_to_sign_in(route: Route, world: World) -> None:
    client = browser("anonymous")
    for method in route.methods.split():
        response = client.generic(method, world.address(route))
        if route.is_api:
            assert response.status_code == 401
        else:
            assert response.status_code == 302
            assert response.headers["Location"].startswith("/auth/sign-in/?next=")


@pytest.mark.parametrize("route", [r for r in TABLE.values() if r.methods != "GET"], ids=lambda route: route.address)
def test_nothing_changes_without_the_csrf_token(route: Route, world: World) -> None:
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    mine = sign_in(client, world.owner)
    for method in set(route.methods.split()) - {"GET"}:
        assert client.generic(method, world.address(route)).status_code == 403
    assert Session.objects.filter(pk=mine.pk, ended_at=None).exists()


@ROUTES
def test_another_sites_page_changes_nothing(route: Route, world: World) -> None:
    client = Client(raise_request_exception=False)
    sign_in(client, world.owner)
    for method in set(METHODS) - {"GET"}:
        for site in ("cross-site", "same-site", "none"):
            response = client.generic(method, world.address(route), headers={"Sec-Fetch-Site": site})
            assert response.status_code == 403, (method, site)


@ROUTES
def test_a_foreign_host_is_refused(route: Route, world: World) -> None:
    client = browser("anonymous")
    for host in ("evil.example", "apps.localhost", "a..b", "[::1", "local host", "localhost:x"):
        response = client.get(world.address(route), headers={"Host": host})
        assert response.status_code == 400, host
        fits(route, response)
