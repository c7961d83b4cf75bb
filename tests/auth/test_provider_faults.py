"""A provider that is broken, slow, greedy or somewhere else costs one clean page within five seconds."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.cache.backends.redis import RedisCache

from auth.models import LoginState
from auth.oidc import http, shelf
from auth.oidc.errors import LoginError, ProviderFailed, ProviderSlow
from auth.providers import Provider
from tests.auth.conftest import Browser, forget, reason
from tests.auth.hostile_op import MISSING, HostileOP, Reply
from tests.gateway.authority import Authority

pytestmark = pytest.mark.django_db

BROKEN: dict[str, Reply] = {
    "error 500": Reply(status=500),
    "not found": Reply(status=404),
    "no JSON": Reply(b"<html>Bad Gateway</html>"),
    "empty": Reply(b""),
    "a list": Reply(b"[]"),
    "null": Reply(b"null"),
    "not UTF-8": Reply(b'{"a": "\xff"}'),
    "NaN": Reply(b'{"a": NaN}'),
    "too deep": Reply(b'{"a":' * 25 + b"1" + b"}" * 25),
    "endlessly deep": Reply(b'{"a":' * 100_000),
    "a redirect": Reply(status=302, headers={"Location": "/elsewhere"}),
    "compressed": Reply(b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"}),
    "too large": Reply(b" " * (2 * 1024 * 1024)),
    "cut off": Reply(b"{", headers={"Content-Length": "100"}),
    "no HTTP": Reply(headers={"Bad\x00Header": "x"}, status=200, body=b""),
}


@pytest.mark.parametrize("path", ["/token", "/userinfo", "/jwks"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_answer_is_a_clean_page(op: HostileOP, browser: Browser, path: str, fault: str) -> None:
    op.replies[path] = BROKEN[fault]
    response = browser.sign_in(op)
    assert response.status_code == 502, reason()
    assert not browser.is_signed_in()
    assert "/elsewhere" not in op.asked


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_discovery_is_a_clean_page_and_notes_no_attempt(op: HostileOP, browser: Browser, fault: str) -> None:
    op.replies["/.well-known/openid-configuration"] = BROKEN[fault]
    assert browser.post("/auth/demo/login/").status_code == 502
    assert not LoginState.objects.exists()


def test_a_refused_code_is_the_sign_ins_fault(op: HostileOP, browser: Browser) -> None:
    op.replies["/token"] = Reply.of({"error": "invalid_grant"}, status=400)
    assert browser.sign_in(op).status_code == 400
    assert reason() == "code-refused"


def test_a_provider_that_is_gone_is_a_clean_page(op: HostileOP, browser: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    op.configure(issuer=f"http://127.0.0.1:{port}")
    assert browser.post("/auth/demo/login/").status_code == 502
    assert reason() == "call-failed"


def test_the_client_secret_goes_into_the_body_only_where_asked(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    assert "client_secret" not in op.token_requests[0]
    forget(op)
    op.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert Browser().sign_in(op).status_code == 200
    assert op.token_requests[1]["client_secret"] == op.client_secret


DISCOVERY: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"issuer": "https://other.example"}, "wrong-issuer-announced"),
    "no issuer": ({"issuer": MISSING}, "wrong-issuer-announced"),
    "a token endpoint elsewhere": ({"token_endpoint": "http://evil.example/token"}, "endpoint-elsewhere"),
    "a host that begins alike": ({"token_endpoint": "http://127.0.0.1.evil.example/"}, "endpoint-elsewhere"),
    "keys elsewhere": ({"jwks_uri": "https://evil.example/jwks"}, "endpoint-elsewhere"),
    "a file": ({"jwks_uri": "file:///etc/passwd"}, "endpoint-not-https"),
    "a user in the address": ({"token_endpoint": "http://127.0.0.1@127.0.0.1/"}, "bad-endpoint"),
    "a control character": ({"token_endpoint": "http://127.0.0.1/\r\nX: 1"}, "bad-endpoint"),
    "no token endpoint": ({"token_endpoint": MISSING}, "bad-endpoint"),
    "an endpoint that is a list": ({"authorization_endpoint": ["x"]}, "bad-endpoint"),
    "a port that is none": ({"token_endpoint": "http://127.0.0.1:99999999/"}, "bad-endpoint"),
    "private_key_jwt only": (
        {"token_endpoint_auth_methods_supported": ["private_key_jwt"]},
        "no-client-authentication",
    ),
}


@pytest.mark.parametrize("lie", DISCOVERY)
def test_discovery_is_believed_only_where_it_fits(op: HostileOP, browser: Browser, lie: str) -> None:
    op.discovery, why = DISCOVERY[lie]
    assert browser.post("/auth/demo/login/").status_code == 502
    assert reason() == why


def test_the_issuer_is_compared_byte_for_byte(op: HostileOP, browser: Browser) -> None:
    op.configure(issuer=op.issuer + "/")
    assert browser.post("/auth/demo/login/").status_code == 502
    assert reason() == "wrong-issuer-announced"


def test_other_paths_and_configured_hosts_are_normal(op: HostileOP, browser: Browser) -> None:
    op.configure(endpoint_hosts=frozenset({"sso.provider.example"}))
    op.discovery = {"authorization_endpoint": "http://sso.provider.example/oauth2-as/authz"}
    assert browser.start().startswith("http://sso.provider.example/oauth2-as/authz?")


def test_discovery_and_keys_are_asked_for_once(op: HostileOP) -> None:
    for _ in range(5):
        assert Browser().sign_in(op).status_code == 200
    assert op.asked["/.well-known/openid-configuration"] == 1
    assert op.asked["/jwks"] == 1


def test_an_old_discovery_document_serves_while_the_provider_is_out_of_order(
    op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.sign_in(op)
    monkeypatch.setattr(shelf, "FRESH", 0.0)
    monkeypatch.setattr(shelf, "_may_ask", lambda key: True)
    op.replies["/.well-known/openid-configuration"] = Reply(status=503)
    op.replies["/jwks"] = Reply(status=503)
    assert Browser().sign_in(op).status_code == 200
    assert op.asked["/.well-known/openid-configuration"] > 1


def test_a_provider_that_now_announces_another_issuer_is_not_kept(
    op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    op.discovery = {"issuer": "https://other.example"}
    assert browser.post("/auth/demo/login/").status_code == 502
    op.discovery = {}
    assert browser.sign_in(op).status_code == 200


def test_sign_in_works_without_the_cache(op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    away = RedisCache("unix:///nowhere/redis.sock", {})
    monkeypatch.setattr(shelf, "cache", away)
    assert browser.sign_in(op).status_code == 200
    assert Browser().sign_in(op).status_code == 200
    assert op.asked["/jwks"] == 1


# ---- the calls themselves ----
PROVIDER = Provider("sso", "Facility account", "https://provider.example", "beamport", "secret")
PRIVATE = replace(PROVIDER, slug="private", allow_private=True)


def get(url: str, provider: Provider = PROVIDER) -> http.Answer:
    return http.call(provider, "GET", url, limit=1000)


def test_plain_http_is_refused_outside_the_demo(op: HostileOP) -> None:
    with pytest.raises(ProviderFailed) as failed:
        get(f"{op.issuer}/jwks")
    assert failed.value.reason == "not-https"
    assert not op.asked


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "fd00::1",
                "::ffff:127.0.0.1", "0.0.0.0", "100.64.0.1", "224.0.0.1"]
)  # fmt: skip
def test_private_addresses_are_none_of_a_providers(address: str) -> None:
    assert not http.is_public(address)


@pytest.mark.parametrize("address", ["83.97.93.30", "2001:798:3::1e"])
def test_public_addresses_are(address: str) -> None:
    assert http.is_public(address)


@pytest.mark.parametrize(
    ("address", "named"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("10.2.0.1", False), ("127.0.0.1", False), ("fd00::1", True)],
)
def test_the_operator_may_name_networks_that_hold_the_provider(address: str, named: bool) -> None:
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    assert not http.is_public(address)
    assert http.is_named(replace(PROVIDER, private_networks=networks), address) == named


def test_a_name_that_leads_to_a_private_address_is_refused_before_a_byte_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        private = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: private)
        with pytest.raises(ProviderFailed) as failed:
            get(f"https://provider.example:{port}/")
        assert failed.value.reason == "private-address"
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("host", "trusted", "status"),
    [("localhost", True, 200), ("localhost", False, 0), ("127.0.0.1", True, 0)],
    ids=["known", "of an unknown authority", "of another name"],
)
def test_a_certificate_must_be_known_and_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool, status: int
) -> None:
    authority = Authority(tmp_path)
    pair = authority.pair("localhost")
    ours = ssl.create_default_context(cafile=str(authority.path) if trusted else None)
    monkeypatch.setattr(ssl, "create_default_context", lambda: ours)
    http._tls.cache_clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", lambda handler: handler.send_error(200))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    near = replace(PROVIDER, private_networks=(ipaddress.ip_network("127.0.0.0/8"),))
    url = f"https://{host}:{server.server_address[1]}/"
    try:
        if status:
            assert get(url, near).status == status
        else:
            with pytest.raises(ProviderFailed) as failed:
                get(url, near)
            assert failed.value.reason == "call-failed"
    finally:
        server.shutdown()
        server.server_close()
        http._tls.cache_clear()


@pytest.mark.parametrize(
    "reply",
    [Reply(b"{}", delay=2), Reply(b"{}", trickle=0.05), Reply(b"{}", headers={"Content-Length": "9"})],
    ids=["silent", "a header byte by byte", "an end that does not come"],
)
def test_the_deadline_is_for_the_whole_call(op: HostileOP, monkeypatch: pytest.MonkeyPatch, reply: Reply) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.4)
    op.replies["/slow"] = reply
    with pytest.raises(LoginError) as failed:
        get(f"{op.issuer}/slow", PRIVATE)
    assert isinstance(failed.value, ProviderSlow | ProviderFailed)


def test_a_slow_provider_is_a_page_that_says_so(
    op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = op.authorize(browser.start())
    monkeypatch.setattr(http, "DEADLINE", 0.3)
    op.replies["/token"] = Reply(delay=3)
    response = browser.come_back(answer)
    assert response.status_code == 504
    assert reason() == "too-slow"


def test_a_call_that_was_given_up_is_cut_off(op: HostileOP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.2)
    for _ in range(12):
        op.replies["/slow"] = Reply(trickle=0.05)
        with pytest.raises(LoginError):
            get(f"{op.issuer}/slow", PRIVATE)
    monkeypatch.setattr(http, "DEADLINE", 5.0)
    began = time.monotonic()
    assert get(f"{op.issuer}/jwks", PRIVATE).status == 200
    assert time.monotonic() - began < 5
