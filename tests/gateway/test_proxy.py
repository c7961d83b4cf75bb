"""What passes through, HTTP: to the portal, to instances, both ways stripped."""

from __future__ import annotations

import json

import pytest

from tests.gateway.harness import Harness, request


def portal(gateway: Harness) -> str:
    return f"localhost:{gateway.port}"


# ---- the portal's host ----
def test_the_portals_host_reaches_the_web_application_byte_for_byte(gateway: Harness) -> None:
    reply = gateway.get("/x%2Fy%20z//../a?q=%C3%A9&b=%2e%2e", host=portal(gateway))
    assert reply.status == 200
    assert json.loads(reply.body)["path"] == "/x%2Fy%20z//../a"
    assert gateway.portal.web_requests[0]["query_string"] == b"q=%C3%A9&b=%2e%2e"


def test_what_clients_say_of_themselves_does_not_reach_the_portal(gateway: Harness) -> None:
    gateway.get(
        host=portal(gateway),
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Proto="https",
        X_Forwarded_Host="evil",
        Forwarded="for=6.6.6.6",
        X_Real_IP="6.6.6.6",
        X_Request_Id="0" * 32,
        X_Remote_User="admin",
    )
    fields = dict(gateway.portal.web_requests[0]["headers"])
    assert fields[b"x-forwarded-for"] == b"127.0.0.1"
    assert fields[b"x-forwarded-proto"] == b"http"
    assert fields[b"host"] == portal(gateway).encode()
    assert fields[b"x-request-id"] != b"0" * 32
    assert len(fields[b"x-request-id"]) == 32
    assert not fields.keys() & {b"forwarded", b"x-real-ip", b"x-remote-user", b"x-forwarded-host"}


def test_connection_cannot_take_our_own_fields_away(gateway: Harness) -> None:
    gateway.get(host=portal(gateway), Connection="close, X-Forwarded-For, X-Request-Id, X-Forwarded-Proto")
    assert dict(gateway.portal.web_requests[0]["headers"])[b"x-forwarded-for"] == b"127.0.0.1"


def test_cookies_authorization_and_fetch_metadata_reach_the_portal(gateway: Harness) -> None:
    gateway.get(host=portal(gateway), Cookie="__Host-sid=1; a=2", Authorization="Bearer x", Sec_Fetch_Site="none")
    fields = dict(gateway.portal.web_requests[0]["headers"])
    assert fields[b"cookie"] == b"__Host-sid=1; a=2"
    assert fields[b"authorization"] == b"Bearer x"
    assert fields[b"sec-fetch-site"] == b"none"


def test_a_session_cookie_sent_twice_is_refused(gateway: Harness) -> None:
    assert gateway.get(host=portal(gateway), Cookie="__Host-sid=1; __Host-sid=2").status == 400
    assert gateway.portal.web_requests == []


def test_a_posted_body_arrives_whole(gateway: Harness) -> None:
    body = bytes(range(256)) * 5000
    with gateway.connect() as wire:
        wire.send(request("POST", "/", portal(gateway), body))
        assert json.loads(wire.reply().body)["body"] == len(body)
    assert gateway.portal.web_requests[0]["body"] == body


def test_the_loopback_address_sends_people_to_the_portals_name(gateway: Harness) -> None:
    reply = gateway.get("/instances/?a=1", host=f"127.0.0.1:{gateway.port}")
    assert (reply.status, reply.get("Location")) == (302, f"http://localhost:{gateway.port}/instances/?a=1")
    assert gateway.get(method="POST", host=f"127.0.0.1:{gateway.port}").status == 421


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost",
        "localhost:1",
        "apps.localhost:{port}",
        "a.b.apps.localhost:{port}",
        "UPPER-case.apps.localhost:{port}",
        "alpha1234.apps.localhost",
        "alpha1234.apps.localhost:1",
        "alpha1234.apps.localhost:{port}.evil.example",
        "alpha1234.apps.localhost:{port}@evil.example",
        "1234567890.apps.localhost:{port}",
        "localhost:{port} evil",
        "xn--a.apps.localhost:{port}",
        "",
    ],
)
def test_any_other_host_is_not_served(gateway: Harness, host: str) -> None:
    assert gateway.get(host=host.format(port=gateway.port)).status in (400, 421)
    assert gateway.portal.web_requests == []


def test_hosts_are_compared_without_case(gateway: Harness) -> None:
    assert gateway.get(host=f"LocalHost:{gateway.port}").status == 200


def test_the_portal_away_is_a_page(gateway: Harness) -> None:
    (gateway.folder / "web.sock").unlink()
    reply = gateway.get(host=portal(gateway))
    assert reply.status == 502
    assert b"portal is not answering" in reply.body


# ---- instances: requests ----
def test_an_instance_answers_on_its_own_host_with_its_own_secret(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    reply = gateway.same_origin("/lab", cookie=cookie)
    assert (reply.status, reply.body) == (200, b"hello")
    assert backend.heads[0].count(b"\r\nAuthorization: token ") == 1
    assert f"\r\nHost: {gateway.host()}\r\n".encode() in backend.heads[0]
    assert b"\r\nX-Forwarded-Proto: http\r\n" in backend.heads[0]


def test_connection_cannot_take_the_instances_secret_away(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    assert gateway.same_origin(cookie=cookie, Connection="close, authorization").status == 400
    assert gateway.same_origin(cookie=cookie, Connection="close, X-Forwarded-Proto, X-A", X_A="1").status == 200
    assert b"Authorization: token" in backend.heads[0]
    assert b"X-Forwarded-Proto: http" in backend.heads[0]
    assert b"X-A" not in backend.heads[0]


def test_the_instances_own_referer_and_origin_pass(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    origin = f"http://{gateway.host()}"
    gateway.same_origin(cookie=cookie, Origin=origin, Referer=f"{origin}/lab")
    assert f"\r\nReferer: {origin}/lab\r\n".encode() in backend.heads[0]
    assert f"\r\nOrigin: {origin}\r\n".encode() in backend.heads[0]


def test_the_path_is_forwarded_byte_for_byte(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    gateway.same_origin("/api/contents/a%2Fb%20c/../%2e%2e//x?y=%00", cookie=cookie)
    assert backend.heads[0].startswith(b"GET /api/contents/a%2Fb%20c/../%2e%2e//x?y=%00 HTTP/1.1\r\n")


# ---- what cannot be reached ----
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("stopped", b"is stopped"),
        ("starting", b"is starting"),
        ("stopping", b"is stopping"),
        ("error", b"has a problem"),
    ],
)
def test_an_instance_that_is_not_served_says_what_it_does(gateway: Harness, state: str, words: bytes) -> None:
    gateway.instance()
    _sid, cookie = gateway.session()
    gateway.route("alpha1234", state, None, version=2)
    reply = gateway.navigate(cookie=cookie)
    assert reply.status == 503
    assert words in reply.body
    assert gateway.portal.routes["alpha1234"]["instance"].encode() in reply.body
    assert gateway.same_origin(cookie=cookie).status == 503


def test_a_service_that_does_not_answer_is_not_called_a_proxy_error(gateway: Harness) -> None:
    backend = gateway.instance()
    backend.path.unlink()
    _sid, cookie = gateway.session()
    reply = gateway.navigate(cookie=cookie)
    assert reply.status == 502
    assert b"does not answer" in reply.body


def test_an_instance_that_is_unavailable_is_still_served(gateway: Harness) -> None:
    gateway.instance(state="unavailable")
    _sid, cookie = gateway.session()
    assert gateway.same_origin(cookie=cookie).status == 200


# ---- pages and log ----
def test_our_own_pages_run_no_script_and_are_not_kept(gateway: Harness) -> None:
    reply = gateway.get(host="evil.example")
    assert reply.get("Content-Security-Policy").startswith("default-src 'none'")
    assert reply.get("Cache-Control") == "no-store"
    assert reply.get("Server") == ""


def test_the_log_has_a_line_for_each_request_and_no_secret(gateway: Harness) -> None:
    backend = gateway.instance()
    sid, cookie = gateway.session()
    gateway.same_origin("/lab/x%22?token=secret1", cookie=f"{cookie}; a=secret2", Referer="http://secret3/")
    gateway.navigate("/.portal/enter?t=secret4secret4secret4", cookie="__Host-entry=" + "s" * 43)
    gateway.navigate("/?x=secret5", slug="beta12345")
    log = gateway.log
    rows = [json.loads(line) for line in log.splitlines()]
    requests = [row for row in rows if row["event"] == "request"]
    assert [(row["status"], row["path"]) for row in requests] == [
        (200, "/lab/x%22"),
        (403, "/.portal/enter"),
        (303, "/"),
    ]
    assert "secret" not in log
    assert sid not in log
    assert cookie not in log
    assert backend.path.name not in log


def test_control_characters_cannot_forge_log_lines(gateway: Harness) -> None:
    with gateway.connect() as wire:
        wire.send(b"GET /\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.reply().status == 400
    gateway.get("/%0a%0d%1b", host="evil\xff\x85.example")
    for line in gateway.log.splitlines():
        json.loads(line)
    assert "\x1b" not in gateway.log


def test_the_very_same_request_gets_the_new_secret_and_only_while_it_may_pass(gateway: Harness) -> None:
    backend, (sid, cookie) = gateway.instance(), gateway.session()
    assert [gateway.same_origin(cookie=cookie).status for _ in range(2)] == [200, 200]
    gateway.route("alpha1234", "active", backend.path, version=2, secret_epoch=2)
    assert gateway.same_origin(cookie=cookie).status == 200
    first, again, other = backend.heads
    assert first == again
    assert first != other
    gateway.call(gateway.gateway.sessions.withdraw, sid)
    assert gateway.same_origin(cookie=cookie).status == 401
    assert len(backend.heads) == 3
