"""The security headers, in one table, on every answer: pages, API, errors, redirects, files, the gateway's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from auth import fresh
from portal.lib.errors import Blame, PortalError
from portal.urls import handler400, handler403, handler404, handler500
from portal.urls import urlpatterns as ours
from portal.views import csrf_failure
from tests.factories.auth import UserFactory, sign_in
from tests.gateway.harness import Harness, request
from tests.routes import TABLE, World, browser, world

__all__ = ["handler400", "handler403", "handler404", "handler500", "urlpatterns", "world"]

POLICY = {
    "default-src 'self'",
    "img-src 'self' data:",
    "object-src 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "form-action 'self'",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cache-Control": "private, no-store",
}
#: what one address says otherwise, and why
OTHERWISE: dict[str, dict[str, str]] = {
    # any search portal may ask whether data are open to everybody; the answer is the same for all
    "/doi/": {"Cross-Origin-Resource-Policy": "cross-origin", "Cache-Control": "public, max-age=60"},
    # its address holds the provider's code and our state
    "/callback/": {"Referrer-Policy": "strict-origin"},
    # leads onto another origin with a ticket in its address
    "/enter/": {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"},
}
#: what tells of the machinery, or would let another site read an answer
NEVER = ("Server", "X-Powered-By", "Via", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers")


def faults_of(response: Any, expected: dict[str, str] = HEADERS, *, cors: bool = False) -> list[str]:
    headers = response.headers
    wrong = [f"{name}: {headers.get(name)}" for name, value in expected.items() if headers.get(name) != value]
    policy = set(headers.get("Content-Security-Policy", "").split("; "))
    wrong += [f"policy: {policy ^ POLICY}"] if policy != POLICY else []
    wrong += [f"{name} is there" for name in NEVER if name in headers]
    wrong += ["any site may read it"] if "Access-Control-Allow-Origin" in headers and not cors else []
    return wrong


def broken(request: HttpRequest, what: str) -> HttpResponse:
    """A view that fails in each way that there is."""
    if what == "not-fresh":
        return fresh.show_again(request, fresh.SignInNotFresh())
    if what == "too-old":
        return csrf_failure(request)

    class Away(PortalError):
        code, status, blame = "away", 503, Blame.OUTSIDE

    kinds: dict[str, Exception] = {
        "400": BadRequest("x"),
        "400 suspicious": SuspiciousOperation("x"),
        "403": PermissionDenied("x"),
        "404": Http404("x"),
        "500": RuntimeError("x"),
        "503": Away(),
    }
    raise kinds[what]


#: this module is the URL configuration of the tests that fail on purpose
urlpatterns = [path("broken/<str:what>", broken), path("api/v1/broken/<str:what>", broken), *ours]


@pytest.mark.django_db
@pytest.mark.parametrize("caller", ["anonymous", "owner"])
def test_every_address_carries_them(caller: str, world: World) -> None:
    client = browser("anonymous")
    if caller == "owner":
        sign_in(client, world.owner)
    wrong = {}
    for route in TABLE.values():
        for method in ("GET", "HEAD", "OPTIONS", "POST", "TRACE"):
            response = client.generic(method, world.address(route), headers={"Origin": "https://evil.example"})
            asked = route.address.endswith("/availability") and response.headers["Content-Type"] == "application/json"
            expected = HEADERS | (OTHERWISE["/doi/"] if asked else {})
            if response.status_code == 303:
                expected = expected | OTHERWISE["/enter/"]
            if route.address.endswith("/callback/") and method == "GET":
                expected = expected | OTHERWISE["/callback/"]
            if faults := faults_of(response, expected, cors=asked):
                wrong[method, route.address] = faults
    assert wrong == {}


@pytest.mark.django_db
@pytest.mark.parametrize("what", ["400", "400 suspicious", "403", "404", "500", "503"])
@pytest.mark.parametrize("start", ["", "/api/v1"])
def test_every_error_carries_them(what: str, start: str, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    response = browser("anonymous").get(f"{start}/broken/{what}")
    assert str(response.status_code) == what[:3]
    assert faults_of(response) == []
    assert response.headers["Content-Type"] == ("application/problem+json" if start else "text/html; charset=utf-8")
    for word in ("Traceback", "RuntimeError", "Django", ".py"):
        assert word not in response.content.decode()


def refused() -> Iterator[tuple[int, dict[str, Any]]]:
    """Requests that end before a view: (status, what to send)."""
    too_long = b"next=" + b"x" * (settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
    form = {"content_type": "application/x-www-form-urlencoded"}
    yield 400, {"path": "/", "headers": {"Host": "evil.example"}}
    yield 400, {"path": "/instances/new", "method": "POST", "data": b"&".join([b"a=1"] * 1500), **form, "trusted": True}
    yield 403, {"path": "/auth/logout/", "method": "POST", "headers": {"Sec-Fetch-Site": "cross-site"}}
    yield 403, {"path": "/auth/logout/", "method": "POST"}  # without the form's token
    yield 404, {"path": "/nothing"}
    yield 405, {"path": "/auth/logout/"}
    yield 413, {"path": "/instances/new", "method": "POST", "data": too_long, **form, "trusted": True}
    yield 413, {"path": "/api/v1/instances", "method": "POST", "data": b" " * 3_000_000, "trusted": True}
    yield 415, {"path": "/api/v1/instances", "method": "POST", "data": b"a=1", "trusted": True, **form}
    yield 301, {"path": "/doi/10.5072/ABC"}
    yield 302, {"path": "/instances/"}


@pytest.mark.django_db
@pytest.mark.parametrize(("status", "asked"), list(refused()))
def test_every_refusal_and_redirect_carries_them(status: int, asked: dict[str, Any]) -> None:
    given = {"method": "GET", "content_type": "application/json", "trusted": False, **asked}
    client = Client(enforce_csrf_checks=not given["trusted"], raise_request_exception=False)
    if given.pop("trusted"):
        sign_in(client, UserFactory())
    response = client.generic(given.pop("method"), given.pop("path"), given.pop("data", b""), **given)
    assert response.status_code == status
    assert faults_of(response) == []


@pytest.mark.django_db
def test_files_carry_them_too(client: Client) -> None:
    for name, kind in (("beamport/portal.css", "text/css"), ("beamport/events.js", "text/javascript")):
        response = client.get(f"/static/{name}")
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith(kind)
        kept = HEADERS | {"Cache-Control": response.headers["Cache-Control"]}
        assert faults_of(response, kept) == []
        assert "private" not in response.headers["Cache-Control"]
        response.close()
    assert faults_of(client.get("/static/nothing"), {**HEADERS, "Cache-Control": None}) == []  # type: ignore[dict-item]


@pytest.mark.django_db
def test_in_production_browsers_are_told_to_keep_to_https(client: Client, settings: Any) -> None:
    assert "Strict-Transport-Security" not in client.get("/").headers
    settings.SECURE_HSTS_SECONDS = 31_536_000
    for address in ("/", "/nothing", "/api/v1/me", "/static/beamport/portal.css"):
        response = client.get(address)
        assert response.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
        response.close()


# ---- the gateway's own answers ----

GATEWAY = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def test_what_the_gateway_says_itself_carries_them() -> None:
    big = "a=" + "x" * 70_000
    with Harness() as gateway:
        gateway.instance()
        _sid, cookie = gateway.session()
        gateway.route("beta5678", "stopped", None)
        _sid, stopped = gateway.session("beta5678")
        own = {
            "sign in": gateway.navigate("/lab"),
            "a script without cookie": gateway.same_origin("/", cookie=""),
            "another site": gateway.get("/", Cookie=cookie, Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image"),
            "its own path": gateway.navigate("/.portal/nothing"),
            "no nonce": gateway.navigate("/.portal/enter?t=" + "a" * 43),
            "stopped": gateway.navigate("/", slug="beta5678", cookie=stopped),
            "cookie bomb": gateway.navigate("/", cookie=big),
            "no such host": gateway.get("/", host="evil.example"),
            "two cookies": gateway.navigate("/", cookie=f"{cookie}; {cookie}"),
        }
        with gateway.connect() as wire:
            wire.send(request("GET", "/", gateway.host()) + b"\0")
            own["a request, then nonsense"] = wire.reply()
        gateway.instance("gamma1234").answers(b"nonsense\r\n\r\n")
        _sid, cookie = gateway.session("gamma1234")
        own["a broken instance"] = gateway.navigate("/", slug="gamma1234", cookie=cookie)
    assert {name: reply.status for name, reply in own.items() if reply.status == 200} == {}
    wrong = {
        (name, field): reply.get(field)
        for name, reply in own.items()
        for field, value in GATEWAY.items()
        if reply.get(field) != value
    }
    assert wrong == {}
    for name, reply in own.items():
        policy = reply.get("Content-Security-Policy")
        assert "default-src 'none'" in policy, name
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert not any(field.lower().startswith(("access-control-", "server")) for field, _ in reply.fields)
