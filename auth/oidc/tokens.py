"""What a provider signs: ID tokens (OpenID Connect Core 3.1.3.7, RFC 8725), signed userinfo answers and logout tokens
(Back-Channel Logout 2.4, 2.6)."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from datetime import UTC, datetime
from typing import Any

import jwt

from auth.oidc import keys
from auth.oidc.discovery import Metadata
from auth.oidc.documents import BadDocument, parse_object
from auth.oidc.errors import SignInRefused
from auth.providers import Provider
from portal.lib.hashing import same

LEEWAY = 60
#: how long after its making a logout token is taken; `jti` are kept for at least as long
LOGOUT_AGE = 600
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_SUBJECT = re.compile(r"[\x20-\x7e]{1,255}")
#: what comes later is no date, and what has more digits no float
_YEAR_10000 = 253_402_300_800
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512, "dsa": hashlib.sha512}


def id_token_claims(
    provider: Provider, metadata: Metadata, token: str, *, nonce: str, access_token: str
) -> dict[str, Any]:
    """Return the claims of an ID token that is this provider's, for us, of this attempt, and of now."""
    header, claims = _signed(provider, metadata, token)
    _check_issuer_and_audience(provider, claims)
    _check_times(claims)
    if not _SUBJECT.fullmatch(_text(claims, "sub")):
        raise SignInRefused("bad-subject")
    if not same(_text(claims, "nonce"), nonce):
        raise SignInRefused("wrong-nonce")
    if "at_hash" in claims and not same(_text(claims, "at_hash"), _at_hash(header["alg"], access_token)):
        raise SignInRefused("wrong-at-hash")
    return claims


def userinfo_claims(provider: Provider, metadata: Metadata, token: str) -> dict[str, Any]:
    """Return the claims of a signed userinfo answer: same keys, algorithms, issuer and audience; times where given."""
    _, claims = _signed(provider, metadata, token)
    _check_issuer_and_audience(provider, claims)
    _check_times(claims, required=())
    return claims


def logout_claims(provider: Provider, metadata: Metadata, token: str) -> dict[str, Any]:
    """Return the claims of a logout token that is this provider's, for us, and of the last ten minutes.

    `jti`, and of `sub` and `sid` what is there, are texts of at most 255 characters. That a `jti` comes once is the
    caller's to see.
    """
    _, claims = _signed(provider, metadata, token, types=("JWT", "LOGOUT+JWT"))
    _check_issuer_and_audience(provider, claims)
    _check_times(claims, required=("iat",))
    if claims["iat"] < time.time() - LOGOUT_AGE - LEEWAY:
        raise SignInRefused("too-old")
    events = claims.get("events")
    if not isinstance(events, dict) or list(events) != [LOGOUT_EVENT] or not isinstance(events[LOGOUT_EVENT], dict):
        raise SignInRefused("no-logout-event")
    if "nonce" in claims:
        raise SignInRefused("nonce-in-logout-token")  # else an ID token could be one
    if "sub" not in claims and "sid" not in claims:
        raise SignInRefused("logout-of-nobody")
    for name in ("jti", "sub", "sid"):
        if (name == "jti" or name in claims) and len(_text(claims, name)) > 255:
            raise SignInRefused(f"bad-{name}")
    return claims


def moment(claims: dict[str, Any], name: str) -> datetime | None:
    """Return an optional time of a claim; None when it is not there or makes no sense."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _signed(
    provider: Provider, metadata: Metadata, token: str, types: tuple[str, ...] = ("JWT",)
) -> tuple[dict[str, Any], dict[str, Any]]:
    header = _header(provider, token, types)
    for renew in (False, True):
        for key in keys.suitable(provider, metadata, header, renew=renew):
            payload = _payload(token, key, header["alg"])
            if payload is not None:
                try:
                    return header, parse_object(payload)
                except BadDocument:
                    raise SignInRefused("bad-token") from None
    raise SignInRefused("bad-signature")


def _header(provider: Provider, token: str, types: tuple[str, ...]) -> dict[str, Any]:
    try:
        encoded, _, _ = token.encode("ascii").split(b".")
        header = parse_object(base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)))
    except ValueError:
        raise SignInRefused("bad-token") from None
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in provider.algorithms:
        raise SignInRefused("algorithm-not-allowed")
    if "crit" in header:
        raise SignInRefused("critical-header")
    if str(header.get("typ", "JWT")).upper() not in types:
        raise SignInRefused("wrong-token-type")  # a logout or access token is no ID token (RFC 8725 §3.11)
    if "kid" in header and not isinstance(header["kid"], str):
        raise SignInRefused("bad-token")
    return header


def _payload(token: str, key: jwt.PyJWK, alg: str) -> bytes | None:
    try:
        payload: bytes = jwt.PyJWS().decode_complete(token, key, algorithms=[alg])["payload"]
    except Exception:  # any failure is "not signed by this key"; the caller says so
        return None
    return payload


def _check_issuer_and_audience(provider: Provider, claims: dict[str, Any]) -> None:
    if _text(claims, "iss") != provider.issuer:
        raise SignInRefused("wrong-issuer")
    named = claims.get("aud")
    audiences = {named} if isinstance(named, str) else set(_texts(named))
    if provider.client_id not in audiences or not audiences <= {provider.client_id, *provider.extra_audiences}:
        raise SignInRefused("wrong-audience")
    if ("azp" in claims or len(audiences) > 1) and claims.get("azp") != provider.client_id:
        raise SignInRefused("wrong-authorised-party")


def _check_times(claims: dict[str, Any], required: tuple[str, ...] = ("exp", "iat")) -> None:
    now = time.time()
    at = {name: _number(claims, name) for name in ("exp", "iat", "nbf") if name in claims or name in required}
    if at.get("exp", math.inf) <= now - LEEWAY:
        raise SignInRefused("expired")
    if at.get("iat", now) > now + LEEWAY:
        raise SignInRefused("issued-in-the-future")
    if at.get("nbf", now) > now + LEEWAY:
        raise SignInRefused("not-yet-valid")


def _at_hash(alg: str, access_token: str) -> str:
    digest = _HASHES[alg[-3:].lower()](access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value or not value.isascii():
        raise SignInRefused(f"bad-{name}")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SignInRefused("bad-aud")
    return value


def _number(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _YEAR_10000:
        raise SignInRefused(f"bad-{name}")
    return value
