"""What is believed of a provider's own description, one rule each; without network, cache and database."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from auth.oidc import discovery, http, shelf
from auth.oidc.discovery import Metadata
from auth.oidc.errors import ProviderDisabled, ProviderFailed
from auth.providers import Provider
from tests.auth.hostile_op import MISSING, changed

PROVIDER = Provider("sso", "Facility account", "https://login.example/realms/users/", "beamport", "secret")
HERE = "https://login.example/realms/users"
SAID = {
    "issuer": PROVIDER.issuer,
    "authorization_endpoint": f"{HERE}/authorize",
    "token_endpoint": f"{HERE}/token",
    "jwks_uri": f"{HERE}/jwks",
    "userinfo_endpoint": f"{HERE}/userinfo",
    "end_session_endpoint": f"{HERE}/end",
    "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
    "code_challenge_methods_supported": ["plain", "S256"],
    "authorization_response_iss_parameter_supported": True,
}
ENDPOINTS = [name for name in SAID if name.endswith(("_endpoint", "_uri"))]

Read = Callable[..., Metadata]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """All calls; what each answers is in the fixture `read`."""
    monkeypatch.setattr(shelf, "document", lambda kind, url, load: load())
    return []


@pytest.fixture
def read(asked: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch) -> Read:
    def reading(provider: Provider = PROVIDER, **changes: Any) -> Metadata:
        def call(_provider: Provider, method: str, url: str, *, limit: int) -> http.Answer:
            asked.append((method, url, limit))
            return http.Answer(200, "application/json", json.dumps(changed(SAID, changes)).encode())

        monkeypatch.setattr(http, "call", call)
        return discovery.of(provider)

    return reading


def refused(read: Read, provider: Provider = PROVIDER, **changes: Any) -> str:
    with pytest.raises(ProviderFailed) as failed:
        read(provider, **changes)
    return failed.value.reason


def test_all_that_is_read(read: Read, asked: list[tuple[str, str, int]]) -> None:
    assert read() == Metadata(
        authorization_endpoint=f"{HERE}/authorize",
        token_endpoint=f"{HERE}/token",
        jwks_uri=f"{HERE}/jwks",
        userinfo_endpoint=f"{HERE}/userinfo",
        end_session_endpoint=f"{HERE}/end",
        basic_auth=True,
        sends_iss=True,
    )
    assert asked == [("GET", f"{HERE}/.well-known/openid-configuration", 512 * 1024)]


@pytest.mark.parametrize("issuer", ["https://login.example", "https://login.example/", "https://login.example/X"])
def test_it_lies_below_the_issuer(read: Read, asked: list[tuple[str, str, int]], issuer: str) -> None:
    """With a slash between them and not two (OpenID Connect Discovery §4)."""
    read(replace(PROVIDER, issuer=issuer), issuer=issuer)
    assert [url for _, url, _ in asked] == [f"{issuer.removesuffix('/')}/.well-known/openid-configuration"]


def test_it_is_kept_under_its_address(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str, str]] = []

    def document(kind: str, url: str, load: Callable[[], Any]) -> Any:
        kept.append((kind, url))
        return load()

    monkeypatch.setattr(shelf, "document", document)
    read()
    assert kept == [("discovery", f"{HERE}/.well-known/openid-configuration")]


def test_what_lay_on_the_shelf_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "document", lambda kind, url, load: SAID | {"issuer": "https://other.example"})
    with pytest.raises(ProviderDisabled):
        discovery.of(PROVIDER)


def test_what_would_not_be_used_is_not_laid_there(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def document(_kind: str, _url: str, load: Callable[[], Any]) -> Any:
        with pytest.raises(ProviderFailed):
            load()
        return SAID

    monkeypatch.setattr(shelf, "document", document)
    assert read(jwks_uri=MISSING).jwks_uri == f"{HERE}/jwks"


@pytest.mark.parametrize("status", [199, 201, 301, 404, 500])
def test_only_an_answer_of_200_counts(asked: Any, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    body = json.dumps(SAID).encode()
    monkeypatch.setattr(http, "call", lambda *_, **__: http.Answer(status, "application/json", body))
    with pytest.raises(ProviderFailed) as failed:
        discovery.of(PROVIDER)
    assert failed.value.reason == f"http-{status}"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": NaN}'])
def test_only_an_object_counts(asked: Any, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(http, "call", lambda *_, **__: http.Answer(200, "application/json", body))
    with pytest.raises(ProviderFailed) as failed:
        discovery.of(PROVIDER)
    assert failed.value.reason == "bad-document"


@pytest.mark.parametrize("issuer", [MISSING, None, PROVIDER.issuer[:-1], "https://LOGIN.example/realms/users/"])
def test_the_issuer_is_compared_byte_for_byte(read: Read, issuer: Any) -> None:
    with capture_logs() as lines, pytest.raises(ProviderDisabled) as failed:
        read(issuer=issuer)
    assert failed.value.reason == "wrong-issuer-announced"
    event = "provider disabled: it announces another issuer"
    assert {"event": event, "provider": "sso", "log_level": "error"} in lines


@pytest.mark.parametrize("methods", [MISSING, None, [], ["plain"], "S256", {"S256": 1}])
def test_pkce_is_asked_for_where_the_operator_requires_it(read: Read, methods: Any) -> None:
    strict = replace(PROVIDER, pkce="require")
    assert read(strict) == read()
    assert read(code_challenge_methods_supported=methods) == read()
    with capture_logs() as lines, pytest.raises(ProviderDisabled) as failed:
        read(strict, code_challenge_methods_supported=methods)
    assert failed.value.reason == "pkce-not-announced"
    event = "provider disabled: it does not announce PKCE with S256"
    assert {"event": event, "provider": "sso", "log_level": "error"} in lines


# ---- endpoints ----
#: an address, and why it is refused
WRONG: list[tuple[Any, str]] = [
    (["x"], "bad-endpoint"),
    (7, "bad-endpoint"),
    ("https://login.example/é", "bad-endpoint"),
    ("https://login.example/\r\nX: 1", "bad-endpoint"),
    ("https://login.example/a b", "bad-endpoint"),
    ("https://login.example:99999/", "bad-endpoint"),
    ("https://[::1/", "bad-endpoint"),
    ("https://me@login.example/", "bad-endpoint"),
    ("https://@login.example/", "bad-endpoint"),
    ("https://login.example/#here", "bad-endpoint"),
    ("http://login.example/", "endpoint-not-https"),
    ("file:///etc/passwd", "endpoint-not-https"),
    ("", "endpoint-not-https"),
    ("https://evil.example/", "endpoint-elsewhere"),
    ("https://login.example.evil.example/", "endpoint-elsewhere"),
    ("https:///path", "endpoint-elsewhere"),
]


@pytest.mark.parametrize(("url", "why"), WRONG)
@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_endpoint_is_the_providers_own(read: Read, name: str, url: Any, why: str) -> None:
    assert refused(read, **{name: url}) == why


@pytest.mark.parametrize("name", ENDPOINTS)
def test_only_userinfo_and_the_end_of_sessions_may_be_lacking(read: Read, name: str) -> None:
    if name in ("userinfo_endpoint", "end_session_endpoint"):
        assert getattr(read(**{name: MISSING}), name) == ""
    else:
        assert refused(read, **{name: MISSING}) == "bad-endpoint"


def test_a_port_a_query_and_a_named_host_are_no_harm(read: Read) -> None:
    wide = replace(PROVIDER, endpoint_hosts=frozenset({"sso.example"}))
    url = "https://sso.example:8443/token?realm=users"
    assert read(wide, token_endpoint=url).token_endpoint == url
    assert refused(read, token_endpoint=url) == "endpoint-elsewhere"


def test_plain_http_is_for_the_demo(read: Read) -> None:
    demo = replace(PROVIDER, allow_private=True)
    assert read(demo, token_endpoint="http://login.example/token").token_endpoint == "http://login.example/token"
    assert read(demo).token_endpoint == f"{HERE}/token"
    assert refused(read, demo, token_endpoint="ftp://login.example/token") == "endpoint-not-https"


# ---- how the client shows its secret, and what the answer names ----
@pytest.mark.parametrize(
    ("methods", "basic"),
    [
        (MISSING, True),
        (None, True),
        ("client_secret_post", True),
        (["client_secret_basic"], True),
        (["private_key_jwt", "client_secret_post"], False),
    ],
)
def test_the_secret_goes_into_the_header_unless_only_the_body_is_offered(read: Read, methods: Any, basic: bool) -> None:
    assert read(token_endpoint_auth_methods_supported=methods).basic_auth is basic


@pytest.mark.parametrize("methods", [[], ["private_key_jwt"]])
def test_a_secret_that_cannot_be_shown_is_no_sign_in(read: Read, methods: list[str]) -> None:
    assert refused(read, token_endpoint_auth_methods_supported=methods) == "no-client-authentication"


@pytest.mark.parametrize("said", [MISSING, None, False, "true", 1])
def test_that_the_answer_names_the_issuer_is_announced_by_true(read: Read, said: Any) -> None:
    assert not read(authorization_response_iss_parameter_supported=said).sends_iss
