"""What a provider says about itself (OpenID Connect Discovery), believed only as far as it fits the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog

from auth.oidc import http, shelf
from auth.oidc.documents import BadDocument, parse_object
from auth.oidc.errors import ProviderDisabled, ProviderFailed
from auth.providers import Provider

log = structlog.get_logger("auth.oidc")

LARGEST = 512 * 1024


@dataclass(frozen=True)
class Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str  # empty: it has none
    end_session_endpoint: str  # empty: it has none
    basic_auth: bool
    sends_iss: bool


def of(provider: Provider) -> Metadata:
    """Return the provider's endpoints, from the shelf when they are not too old."""
    url = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
    return _metadata(provider, shelf.document("discovery", url, lambda: _load(provider, url)))


def fetch_object(provider: Provider, url: str) -> dict[str, Any]:
    """GET a JSON object; anything but 200 with one is the provider's fault."""
    answer = http.call(provider, "GET", url, limit=LARGEST)
    if answer.status != 200:
        raise ProviderFailed(f"http-{answer.status}")
    try:
        return parse_object(answer.body)
    except BadDocument as error:
        raise ProviderFailed("bad-document") from error


def _load(provider: Provider, url: str) -> dict[str, Any]:
    document = fetch_object(provider, url)
    _metadata(provider, document)  # a document that we would not use is not kept
    return document


def _metadata(provider: Provider, document: dict[str, Any]) -> Metadata:
    if document.get("issuer") != provider.issuer:
        log.error("provider disabled: it announces another issuer", provider=provider.slug)
        raise ProviderDisabled("wrong-issuer-announced")
    if provider.pkce == "require" and not _offers_s256(document):
        log.error("provider disabled: it does not announce PKCE with S256", provider=provider.slug)
        raise ProviderDisabled("pkce-not-announced")
    return Metadata(
        authorization_endpoint=_endpoint(provider, document, "authorization_endpoint"),
        token_endpoint=_endpoint(provider, document, "token_endpoint"),
        jwks_uri=_endpoint(provider, document, "jwks_uri"),
        userinfo_endpoint=_endpoint(provider, document, "userinfo_endpoint", required=False),
        end_session_endpoint=_endpoint(provider, document, "end_session_endpoint", required=False),
        basic_auth=_basic_auth(document),
        sends_iss=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(provider: Provider, document: dict[str, Any], name: str, *, required: bool = True) -> str:
    url = document.get(name)
    if url is None and not required:
        return ""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable():
        raise ProviderFailed("bad-endpoint")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ProviderFailed("bad-endpoint") from error
    if parts.scheme != "https" and not (provider.allow_private and parts.scheme == "http"):
        raise ProviderFailed("endpoint-not-https")
    if parts.username is not None or parts.fragment or " " in url:
        raise ProviderFailed("bad-endpoint")
    if parts.hostname not in {provider.host, *provider.endpoint_hosts}:
        raise ProviderFailed("endpoint-elsewhere")
    return url


def _offers_s256(document: dict[str, Any]) -> bool:
    methods = document.get("code_challenge_methods_supported")
    return isinstance(methods, list) and "S256" in methods


def _basic_auth(document: dict[str, Any]) -> bool:
    """Tell how the client shows its secret: in the header, or in the body where only that is offered."""
    methods = document.get("token_endpoint_auth_methods_supported")
    if not isinstance(methods, list) or "client_secret_basic" in methods:
        return True
    if "client_secret_post" in methods:
        return False
    raise ProviderFailed("no-client-authentication")
