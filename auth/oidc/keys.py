"""A provider's signing keys: cached, fetched again when a signature does not fit, at most once in 30 seconds."""

from __future__ import annotations

from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from auth.oidc import discovery, shelf
from auth.oidc.discovery import Metadata
from auth.providers import Provider

log = structlog.get_logger("auth.oidc")

#: without `kid` each suitable key is tried, as proxies without kid rotate too; but no more than this
MOST_TRIED = 5
_SMALLEST_RSA = 2048
_KTY = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


def suitable(provider: Provider, metadata: Metadata, header: dict[str, Any], *, renew: bool = False) -> list[jwt.PyJWK]:
    """Return the keys that may have made a signature with this header, by `kid`, use, type and algorithm.

    Keys named by the header itself (`jku`, `jwk`, `x5u`, `x5c`) are never looked at.
    """
    document = shelf.document(
        "jwks", metadata.jwks_uri, lambda: discovery.fetch_object(provider, metadata.jwks_uri), renew=renew
    )
    listed = document.get("keys")
    fitting = [key for key in listed if _fits(key, header)] if isinstance(listed, list) else []
    usable = [key for key in (_key(entry, header["alg"]) for entry in fitting[: 4 * MOST_TRIED]) if key is not None]
    return usable[:MOST_TRIED]


def _fits(key: object, header: dict[str, Any]) -> bool:
    if not isinstance(key, dict):
        return False
    alg = header["alg"]
    return (
        key.get("kty") == _KTY[alg[:2]]
        and key.get("use", "sig") == "sig"
        and key.get("alg", alg) == alg
        and ("kid" not in header or key.get("kid") == header["kid"])
    )


def _key(entry: dict[str, Any], alg: str) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(entry, algorithm=alg)
    except Exception as error:  # a malformed key raises whatever the library below it raises
        log.warning("unusable key of a provider", error=type(error).__name__)
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _SMALLEST_RSA:
        return None
    return key
