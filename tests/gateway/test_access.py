"""Who may ask what: cookies, where a request comes from, roles. Nothing goes upstream before the decision."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest

from tests.gateway.harness import Backend, Harness, request

Prepared = tuple[Backend, str]


@pytest.fixture
def opened(gateway: Harness) -> Prepared:
    backend = gateway.instance()
    return backend, gateway.session()[1]


def websocket(gateway: Harness, host: str | None = None, **fields: str) -> int:
    """Ask for a WebSocket; returns the status."""
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        **fields,
    }
    return gateway.get("/ws", host=host, **fields).status


# ---- where a request comes from ----
@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("POST", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("POST", {"Sec_Fetch_Site": "same-origin", "Origin": "own"}, 200),
        ("DELETE", {"Origin": "own"}, 200),
        ("GET", {"Origin": "own"}, 200),
        ("GET", {"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document"}, 200),
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}, 200),
        ("GET", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "document"}, 200),
        ("GET", {"Sec_Fetch_Site": "same-site"}, 403),
        ("GET", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("GET", {"Sec_Fetch_Site": "none"}, 403),
        ("GET", {"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "empty"}, 403),
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "iframe"}, 403),
        ("GET", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "frame"}, 403),
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "serviceworker"}, 403),
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document", "Origin": "other"}, 403),
        ("POST", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}, 403),
        ("POST", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "same-origin"}, 403),
        ("POST", {"Sec_Fetch_Site": "same-origin", "Origin": "other"}, 403),
        ("POST", {"Sec_Fetch_Site": "same-origin", "Origin": "null"}, 403),
        ("POST", {"Sec_Fetch_Site": "Same-Origin"}, 403),
        ("POST", {}, 403),
        ("GET", {}, 403),
        ("HEAD", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "document"}, 403),
        ("OPTIONS", {"Sec_Fetch_Site": "cross-site", "Origin": "other"}, 403),
        ("GET", {"Origin": "null"}, 403),
        ("GET", {"Origin": "other"}, 403),
        ("GET", {"Origin": "portal"}, 403),
        ("GET", {"Origin": "prefix"}, 403),
        ("GET", {"Origin": "https"}, 403),
    ],
)
def test_only_the_instances_own_pages_and_navigations_get_in(
    gateway: Harness, opened: Prepared, method: str, fields: dict[str, str], status: int
) -> None:
    backend, cookie = opened
    own = f"http://{gateway.host()}"
    origins = {
        "own": own,
        "other": f"http://{gateway.host('beta12345')}",
        "portal": f"http://localhost:{gateway.port}",
        "prefix": own + ".evil.example",
        "https": own.replace("http:", "https:"),
        "null": "null",
    }
    if "Origin" in fields:
        fields = fields | {"Origin": origins[fields["Origin"]]}
    assert gateway.get(method=method, Cookie=cookie, **fields).status == status
    assert len(backend.heads) == (status == 200)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Origin": "own"}, 200),
        ({"Origin": "own", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "own", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "own", "Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 403),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "other"}, 403),
        ({"Origin": "other", "Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document"}, 403),
        ({"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document"}, 403),
    ],
)
def test_a_websocket_needs_exactly_our_origin(
    gateway: Harness, opened: Prepared, fields: dict[str, str], status: int
) -> None:
    backend, cookie = opened
    origins = {"own": f"http://{gateway.host()}", "other": f"http://localhost:{gateway.port}", "null": "null"}
    if "Origin" in fields:
        fields = fields | {"Origin": origins[fields["Origin"]]}
    assert websocket(gateway, Cookie=cookie, **fields) == status
    assert len(backend.heads) == (status == 200)


def test_the_portals_websocket_needs_exactly_the_portals_origin(gateway: Harness) -> None:
    host = f"localhost:{gateway.port}"
    gateway.instance()
    for origin in ("null", f"http://{gateway.host()}", f"http://{host}.evil", f"https://{host}", "http://localhost"):
        assert websocket(gateway, host, Origin=origin) == 403
    assert websocket(gateway, host) == 403
    assert websocket(gateway, host, Origin=f"http://{host}") == 101


# ---- cookies ----
def forge(change: Callable[[list[str]], None], cookie: str) -> str:
    name, _, value = cookie.partition("=")
    parts = value.split(".")
    change(parts)
    return f"{name}={'.'.join(parts)}"


def flip(text: str) -> str:
    return text[:-2] + ("A" if text[-2] != "A" else "B") + text[-1]


def test_no_cookie_gets_nothing(gateway: Harness, opened: Prepared) -> None:
    assert gateway.same_origin(cookie="a=b").status == 401
    assert websocket(gateway, Origin=f"http://{gateway.host()}") == 401
    assert opened[0].heads == []


@pytest.mark.parametrize("part", range(7))
def test_a_changed_cookie_is_worthless(gateway: Harness, opened: Prepared, part: int) -> None:
    backend, cookie = opened

    def change(parts: list[str]) -> None:
        swaps = {3: "user", 4: str(int(parts[4]) + 1000), 5: "2"}
        parts[part] = swaps.get(part) or flip(parts[part])

    assert gateway.same_origin(cookie=forge(change, cookie)).status == 401
    assert backend.heads == []


@pytest.mark.parametrize("value", ["", ".", "a.b.c.d.e.f.g", "%s" * 50, "\xff" * 50, "k1" + "." * 100, '"quoted"'])
def test_nonsense_in_the_cookie_is_worthless(gateway: Harness, opened: Prepared, value: str) -> None:
    assert gateway.same_origin(cookie=f"__Host-inst={value}").status == 401


def test_a_cookie_signed_with_no_key_of_ours_is_worthless(gateway: Harness, opened: Prepared) -> None:
    cookie = opened[1]
    gateway.call(gateway.gateway.apply, {"type": "keys", "current": "k9", "keys": {"k9": "MTIz"}})
    assert gateway.same_origin(cookie=cookie).status == 401


def test_a_cookie_signed_before_the_key_changed_is_still_good(gateway: Harness, opened: Prepared) -> None:
    keys = gateway.portal.keys["keys"]
    gateway.call(gateway.gateway.apply, {"type": "keys", "current": "k2", "keys": {**keys, "k2": "MTIz"}})  # type: ignore[dict-item]
    assert gateway.same_origin(cookie=opened[1]).status == 200


def test_the_cookie_of_another_instance_is_worthless(gateway: Harness, opened: Prepared) -> None:
    other = gateway.instance("beta12345")
    assert gateway.same_origin(cookie=opened[1], slug="beta12345").status == 401
    assert gateway.navigate(cookie=opened[1], slug="beta12345").status == 303
    assert other.heads == []


def test_two_cookies_of_the_name_are_refused(gateway: Harness, opened: Prepared) -> None:
    cookie = opened[1]
    for both in (f"{cookie}; {cookie}", f"__Host-inst=x; {cookie}", f"{cookie}; __host-INST=x"):
        assert gateway.same_origin(cookie=both).status == 400
    assert opened[0].heads == []


def test_another_secret_epoch_makes_the_cookie_worthless(gateway: Harness, opened: Prepared) -> None:
    sid = next(iter(gateway.portal.sessions))
    row = gateway.portal.sessions[sid] | {"epoch": 2, "version": 2}
    gateway.call(gateway.gateway.apply, {"type": "session", **row})
    assert gateway.same_origin(cookie=opened[1]).status == 401


def test_a_role_that_may_not_open_is_refused(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session(role="guest")
    assert gateway.same_origin(cookie=cookie).status == 403
    assert backend.heads == []


# ---- expiry and renewal ----
def test_an_expired_cookie_costs_one_renewal(gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session(life=0.2)
    time.sleep(0.3)
    reply = gateway.same_origin(cookie=cookie)
    assert reply.status == 200
    fresh = reply.cookies["__Host-inst"]
    assert fresh != cookie.partition("=")[2]
    assert reply.get("Set-Cookie").endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
    assert [path for path, _ in gateway.portal.calls] == ["/renew"]
    assert gateway.same_origin(cookie=f"__Host-inst={fresh}").status == 200
    assert [path for path, _ in gateway.portal.calls] == ["/renew"]


def test_a_cookie_whose_session_has_ended_is_401_and_asked_once(gateway: Harness) -> None:
    backend = gateway.instance()
    sid, cookie = gateway.session(life=0.2)
    del gateway.portal.sessions[sid]
    time.sleep(0.3)
    assert gateway.same_origin(cookie=cookie).status == 401
    assert gateway.same_origin(cookie=cookie).status == 401
    assert gateway.navigate(cookie=cookie).status == 303
    assert [path for path, _ in gateway.portal.calls] == ["/renew"]
    assert backend.heads == []


@pytest.mark.parametrize(
    ("caching", "renewed"), [("private", True), ("Public, max-age=9", False), ("s-maxage=9", False)]
)
def test_no_session_cookie_goes_into_a_shared_cache(gateway: Harness, caching: str, renewed: bool) -> None:
    backend = gateway.instance()
    backend.answers(f"HTTP/1.1 200 OK\r\nCache-Control: {caching}\r\nContent-Length: 0\r\n\r\n".encode())
    _sid, cookie = gateway.session(life=-1)
    reply = gateway.same_origin(cookie=cookie)
    assert (reply.status, "__Host-inst" in reply.cookies) == (200, renewed)


def test_a_session_of_another_gateway_is_asked_for_once(gateway: Harness) -> None:
    gateway.instance()
    row = gateway.session_row()
    gateway.portal.sessions[row["sid"]] = row
    session = gateway.call(lambda: type("S", (), row)())
    cookie = gateway.call(gateway.gateway.sessions.keys.sign, session, int(time.time()) + 300)
    for _ in range(3):
        assert gateway.same_origin(cookie=f"__Host-inst={cookie}").status == 200
    assert [path for path, _ in gateway.portal.calls] == ["/renew"]


def test_with_the_portal_away_an_unknown_session_gets_nothing(gateway: Harness) -> None:
    backend = gateway.instance()
    row = gateway.session_row() | {"sid": str(uuid.uuid4())}
    session = type("S", (), row)()
    cookie = gateway.call(gateway.gateway.sessions.keys.sign, session, int(time.time()) + 300)
    gateway.portal.away = True
    assert gateway.same_origin(cookie=f"__Host-inst={cookie}").status == 401
    assert backend.heads == []


def test_with_the_portal_away_a_living_session_goes_on(gateway: Harness, opened: Prepared) -> None:
    gateway.portal.away = True
    assert gateway.same_origin(cookie=opened[1]).status == 200


def test_the_gateways_own_paths_never_reach_the_instance(gateway: Harness, opened: Prepared) -> None:
    backend, cookie = opened
    for path in ("/.portal/", "/.portal/enter", "/.portal/x", "/.portal/enter/x", "/.portal/enter%2f"):
        assert gateway.same_origin(path, cookie=cookie).status == 404
    assert backend.heads == []


def test_a_refusal_does_not_wait_for_the_body(gateway: Harness, opened: Prepared) -> None:
    with gateway.connect() as wire:
        head = request("POST", "/", gateway.host(), Content_Length="1000000", Expect="100-continue", Cookie=opened[1])
        wire.send(head)
        assert wire.reply().status == 403
        assert wire.closed
