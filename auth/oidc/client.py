"""The two calls of a sign-in: the code for tokens, the access token for userinfo. Neither token is kept."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

from auth.oidc import http, tokens
from auth.oidc.discovery import Metadata
from auth.oidc.documents import BadDocument, parse_object
from auth.oidc.errors import ProviderFailed, SignInRefused
from auth.providers import Provider

LARGEST = 1024 * 1024


@dataclass(frozen=True)
class Tokens:
    id_token: str = field(repr=False)
    access_token: str = field(repr=False)


def exchange(provider: Provider, metadata: Metadata, *, code: str, verifier: str) -> Tokens:
    """Hand the code in. A refused code is the sign-in's fault, anything else the provider's."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": provider.redirect_uri,
        "code_verifier": verifier,
    }
    headers = {"Accept": "application/json"}
    if metadata.basic_auth:
        headers["Authorization"] = _basic(provider)
    else:
        form |= {"client_id": provider.client_id, "client_secret": provider.client_secret}
    answer = http.call(provider, "POST", metadata.token_endpoint, limit=LARGEST, headers=headers, form=form)
    if answer.status == 400:
        raise SignInRefused("code-refused")
    if answer.status != 200:
        raise ProviderFailed(f"token-endpoint-{answer.status}")
    document = _object(answer.body)
    id_token, access_token = document.get("id_token"), document.get("access_token")
    if not isinstance(id_token, str):
        raise SignInRefused("no-id-token")
    if not _is_token(access_token) or str(document.get("token_type")).lower() != "bearer":
        raise SignInRefused("no-access-token")
    return Tokens(id_token, str(access_token))


def userinfo(provider: Provider, metadata: Metadata, access_token: str, subject: str) -> dict[str, Any]:
    """Return what the provider says about this subject; an answer about another one is refused."""
    if not metadata.userinfo_endpoint:
        return {}
    answer = http.call(
        provider,
        "GET",
        metadata.userinfo_endpoint,
        limit=LARGEST,
        headers={"Authorization": f"Bearer {access_token}", "Accept": "application/json, application/jwt"},
    )
    if answer.status != 200:
        raise ProviderFailed(f"userinfo-{answer.status}")
    if answer.content_type.startswith("application/jwt"):
        claims = tokens.userinfo_claims(provider, metadata, answer.body.decode("ascii", "replace").strip())
    else:
        claims = _object(answer.body)
    if claims.get("sub") != subject:
        raise SignInRefused("userinfo-of-another")
    return claims


def _basic(provider: Provider) -> str:
    pair = f"{quote_plus(provider.client_id)}:{quote_plus(provider.client_secret)}"  # RFC 6749 §2.3.1
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        return parse_object(body)
    except BadDocument:
        raise ProviderFailed("bad-document") from None


def _is_token(value: object) -> bool:
    """A bearer token is printable ASCII: anything else must not get into a header."""
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable() and " " not in value
