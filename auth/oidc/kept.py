"""ID tokens that a provider's logout wants back (`id_token_hint`), encrypted for as long as the session lives."""

from __future__ import annotations

import base64
import hashlib
import hmac

import structlog
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

log = structlog.get_logger("auth.oidc")

#: it travels in an address; one that is longer would not arrive
LONGEST = 6000


def seal(token: str) -> str:
    """Return what the database may keep of an ID token; nothing when there is none, or one that is too long."""
    if len(token) > LONGEST:
        log.warning("ID token too long to be kept", length=len(token))
        return ""
    return _box().encrypt(token.encode()).decode() if token else ""


def unseal(kept: str) -> str:
    """Return the ID token; nothing when none was kept, or the key has changed since."""
    try:
        return _box().decrypt(kept).decode() if kept else ""
    except InvalidToken:
        return ""


def _box() -> Fernet:
    key = hmac.digest(settings.SECRET_KEY.encode(), b"id-token", hashlib.sha256)
    return Fernet(base64.urlsafe_b64encode(key))
