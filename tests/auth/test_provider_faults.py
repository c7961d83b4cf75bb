"""A provider that is broken, slow, greedy or somewhere else costs one clean page within five seconds."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from django.core.cache.backends.redis import RedisCache

from auth.models import LoginState
from auth.oidc import http, shelf
from tests.auth.conftest import Browser, forget, reason
from tests.auth.hostile_op import MISSING, HostileOP, Reply

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


def test_a_slow_provider_is_a_page_that_says_so(
    op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = op.authorize(browser.start())
    monkeypatch.setattr(http, "DEADLINE", 0.3)
    op.replies["/token"] = Reply(delay=3)
    response = browser.come_back(answer)
    assert response.status_code == 504
    assert reason() == "too-slow"
