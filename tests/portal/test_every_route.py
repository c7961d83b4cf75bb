"""Every address of the portal, asked by a visitor and by a stranger, politely and with junk.

The table says who may what. A route that is not in it fails: whoever adds one has to say it here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth.models import Session
from instances.models import Home
from tests.factories.auth import sign_in
from tests.routes import OPERATOR, OWNER, SIGNED_IN, TABLE, UNKNOWN, Route, World, browser, patterns, plain, world

__all__ = ["world"]  # a fixture

pytestmark = pytest.mark.django_db

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


def fits(route: Route, response: Any) -> None:
    """No crash; a program gets a problem document, with the fields that it needs."""
    assert response.status_code < 500, response.content[:500]
    if route.is_api and response.status_code >= 300:
        assert response.headers["Content-Type"] == "application/problem+json"
        problem = json.loads(response.content)
        assert problem["status"] == response.status_code
        assert problem["type"].startswith("urn:beamport:error:")


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
    """Status, header fields, body, and the number of questions to the database, which is what time is made of."""
    client = browser(caller)
    for method in (*METHODS, "HEAD", "OPTIONS"):
        with CaptureQueriesContext(connection) as theirs_asked:
            theirs = client.generic(method, world.address(route))
        with CaptureQueriesContext(connection) as nobodys_asked:
            nobodys = client.generic(method, route.address.format(**UNKNOWN))
        assert plain(theirs, world.ids) == plain(nobodys)
        assert len(theirs_asked) == len(nobodys_asked), method
        if method in route.methods.split():
            assert theirs.status_code == 404 or (caller == "anonymous" and theirs.status_code in (302, 401))
    world.instance.refresh_from_db()
    assert world.instance.target == "active"
    assert Home.objects.filter(pk=world.home.pk, deleting_at=None).exists()
    assert Session.objects.filter(pk=world.session.pk, ended_at=None).exists()


@pytest.mark.parametrize(
    "route", [r for r in TABLE.values() if r.who in (SIGNED_IN, OPERATOR)], ids=lambda route: route.address
)
def test_a_visitor_is_asked_to_sign_in(route: Route, world: World) -> None:
    client = browser("anonymous")
    for method in route.methods.split():
        response = client.generic(method, world.address(route))
        if route.is_api:
            assert response.status_code == 401
        else:
            assert response.status_code == 302
            assert response.headers["Location"].startswith("/auth/sign-in/?next=")


#: asked by a provider's server, which has no cookie and signs what it says
SIGNED = "/auth/{provider}/backchannel-logout/"
WITH_FORMS = [route for route in TABLE.values() if route.methods != "GET" and route.address != SIGNED]


@pytest.mark.parametrize("route", WITH_FORMS, ids=lambda route: route.address)
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
