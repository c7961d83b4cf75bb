"""What never passes between browser, portal and instance, in requests, responses and both halves of a handshake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.gateway.harness import Harness, Reply, request
from tests.gateway.test_sockets import ACCEPTED, handshake

Ask = Callable[..., Reply]


@pytest.fixture(params=["HTTP", "WebSocket"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Send a page's request, or its handshake, with more fields; returns the response."""
    return _plain if request.param == "HTTP" else _socket


def _plain(gateway: Harness, cookie: str, **fields: str) -> Reply:
    return gateway.same_origin(cookie=cookie, **fields)


def _socket(gateway: Harness, cookie: str, **fields: str) -> Reply:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie).removesuffix(b"\r\n") + lines.encode() + b"\r\n")
        return wire.reply()


def answer(ask: Ask, lines: str) -> bytes:
    """Return the proper answer to what `ask` asks, with more fields."""
    if ask is _socket:
        return ACCEPTED.removesuffix(b"\r\n") + lines.encode() + b"\r\n"
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok".encode()


# ---- requests ----
def test_no_credential_of_the_portal_reaches_an_instance(gateway: Harness, ask: Ask) -> None:
    backend = gateway.instance()
    backend.answers(answer(ask, ""))
    _sid, cookie = gateway.session()
    cookies = "; ".join(
        ["_xsrf=app1", cookie, "__Host-sid=secret1", "__host-CSRF=secret2", "__Host-entry=secret3", "username=app2"]
    )
    reply = ask(
        gateway,
        cookies,
        Authorization="Bearer secret4",
        Proxy_Authorization="secret5",
        X_Forwarded_User="secret6",
        X_Remote_User="secret7",
        Referer=f"http://localhost:{gateway.port}/secret8",
        X_Forwarded_For="secret9",
        X_Forwarded_Host="secret10",
        Forwarded="for=secret11",
        X_Real_IP="secret12",
        Remote_User="secret13",
        X_Auth_Request_User="secret14",
        X_Request_Id="secret15",
        X_Original_URL="/secret16",
    )
    assert reply.status in (200, 101)
    head = backend.heads[0]
    assert b"secret" not in head
    assert cookie.encode() not in head
    assert b"\r\nCookie: _xsrf=app1; username=app2\r\n" in head
    assert head.count(b"\r\nAuthorization: token ") == 1


def test_what_connection_names_stays_behind_and_ours_stays(gateway: Harness) -> None:
    backend = gateway.instance()
    backend.answers(ACCEPTED)
    _sid, cookie = gateway.session()
    head = handshake(gateway, cookie).replace(b"Connection: Upgrade", b"Connection: Upgrade, X-A, X-Forwarded-Proto")
    with gateway.connect() as wire:
        wire.send(head.removesuffix(b"\r\n") + b"X-A: 1\r\n\r\n")
        assert wire.reply().status == 101
    assert b"X-A" not in backend.heads[0]
    assert b"\r\nX-Forwarded-Proto: http\r\n" in backend.heads[0]
    assert backend.heads[0].count(b"Connection: ") == 1


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Host", "Origin", "Sec-WebSocket-Key"])
def test_connection_names_nothing_that_decides(gateway: Harness, name: str) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    with gateway.connect() as wire:
        wire.send(handshake(gateway, cookie).replace(b"Connection: Upgrade", f"Connection: Upgrade, {name}".encode()))
        assert wire.reply().status == 400
    assert backend.heads == []


def test_a_handshake_to_the_portal_says_of_itself_nothing(gateway: Harness) -> None:
    """The web process is told by the gateway alone who asks."""
    host = f"localhost:{gateway.port}"
    seen: list[dict[bytes, bytes]] = []
    inner = gateway.portal.web

    async def web(scope: dict[str, object], receive: object, send: object) -> None:
        seen.append(dict(scope["headers"]))  # type: ignore[call-overload]
        await inner(scope, receive, send)

    gateway._servers[1].config.loaded_app = web
    head = request(
        "GET",
        "/ws/events",
        host,
        Origin=f"http://{host}",
        Upgrade="websocket",
        Connection="Upgrade",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        X_Forwarded_For="6.6.6.6",
        X_Real_IP="6.6.6.6",
        X_Remote_User="admin",
        Forwarded="for=6.6.6.6",
    )
    with gateway.connect() as wire:
        wire.send(head)
        assert wire.reply().status == 101
    assert seen[0][b"x-forwarded-for"] == b"127.0.0.1"
    assert not seen[0].keys() & {b"forwarded", b"x-real-ip", b"x-remote-user"}


# ---- responses ----
def answered(gateway: Harness, ask: Ask, lines: str) -> list[tuple[str, str]]:
    backend = gateway.instance()
    backend.answers(answer(ask, lines))
    reply = ask(gateway, gateway.session()[1])
    assert reply.status in (200, 101)
    return reply.fields


@pytest.mark.parametrize(
    "line",
    [
        "Service-Worker-Allowed: /",
        "Clear-Site-Data: *",
        "Strict-Transport-Security: max-age=1",
        "Public-Key-Pins: x",
        "Alt-Svc: h3",
        "Refresh: 0; url=http://localhost/",
        "WWW-Authenticate: Basic",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Proxy-Connection: keep-alive",
        "Trailer: X",
        "TE: trailers",
        "Server: x",
        "Set-Cookie: a=1; Domain=apps.localhost",
        "Set-Cookie: a=1; Path=/; dOmAiN=x; Secure",
        "Set-Cookie: a=1;DOMAIN =x",
        "Set-Cookie: __Host-sid=1; Secure; Path=/",
        "Set-Cookie: __Host-inst=1; Secure; Path=/",
        "Set-Cookie:  __host-Entry=1; Secure; Path=/",
        "Set-Cookie: __Host-csrf",
        "Set-Cookie: =__Host-sid=1",
    ],
)
def test_an_instance_cannot_set_this(gateway: Harness, ask: Ask, line: str) -> None:
    name = line.partition(":")[0].lower()
    assert name not in [key.lower() for key, _ in answered(gateway, ask, line + "\r\n")]


def test_an_ordinary_answer_switches_no_protocol(gateway: Harness) -> None:
    assert "Upgrade" not in [key for key, _ in answered(gateway, _plain, "Upgrade: h2c\r\nConnection: Upgrade\r\n")]


def test_what_its_connection_field_names_is_dropped(gateway: Harness, ask: Ask) -> None:
    names = [key for key, _ in answered(gateway, ask, "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\n")]
    assert "X-Hop" not in names
    assert "X-End" in names


def test_an_instances_own_cookies_pass(gateway: Harness, ask: Ask) -> None:
    fields = answered(gateway, ask, "Set-Cookie: _xsrf=1; Path=/\r\nSet-Cookie: user=2; HttpOnly\r\n")
    assert [value for key, value in fields if key == "Set-Cookie"] == ["_xsrf=1; Path=/", "user=2; HttpOnly"]


@pytest.mark.parametrize(
    ("location", "allowed"),
    [
        ("/lab?x=1", True),
        ("tree", True),
        ("http://{host}/lab", True),
        ("https://example.org/paper", True),
        ("https://192.0.2.7:8443/", True),
        ("https://[2001:db8::7]/", True),
        ("http://localhost:{port}/auth/logout", False),
        ("//localhost:{port}/", False),
        ("///localhost:{port}/", False),
        ("http:///localhost:{port}/", False),
        ("http:/localhost:{port}/", False),
        ("http://LOCALHOST/", False),
        ("http://localhost./", False),
        ("http://127.0.0.1:{port}/", False),
        ("http://127.1:{port}/", False),
        ("http://0x7f.0.0.1:{port}/", False),
        ("http://2130706433:{port}/", False),
        ("http://0.0.0.0:{port}/", False),
        ("http://[::1]:{port}/", False),
        ("http://[::ffff:127.0.0.1]:{port}/", False),
        ("http://%6cocalhost:{port}/", False),
        ("http://\xef\xbd\x8cocalhost:{port}/", False),
        ("http://beta1234.apps.localhost:{port}/", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("http://user@{host}/", False),
        ("/\\localhost:{port}/", False),
        ("http:localhost", False),
    ],
)
def test_redirects_stay_away_from_the_portal_and_from_scripts(
    gateway: Harness, ask: Ask, location: str, allowed: bool
) -> None:
    backend = gateway.instance()
    location = location.format(port=gateway.port, host=gateway.host())
    line = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    backend.answers(line.encode("latin-1"))
    reply = ask(gateway, gateway.session()[1])
    assert reply.status == (302 if allowed else 502)
    assert reply.get("Location") == (location if allowed else "")
