"""Hashes and derived secrets; the only place that knows how they are made."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


def digest(secret: str) -> str:
    """Return the SHA-256 of a random secret as hex; what the database keeps of tokens, tickets and sessions."""
    return hashlib.sha256(secret.encode()).hexdigest()


def keyed(key: str, purpose: str, text: str) -> str:
    """Return a hash as hex that nobody without the key can tell from another's, nor try texts against."""
    return hmac.new(key.encode(), f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def random_secret(bits: int = 256) -> str:
    """Return a fresh URL-safe random secret."""
    return secrets.token_urlsafe(bits // 8)


def same(left: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def instance_secret(key: bytes, instance: str, epoch: int, purpose: str) -> str:
    """Return the secret of one purpose (`jupyter`, `vnc-full` …) of an instance; nothing is stored anywhere.

    `instance` is the instance's UUID as text; raising `epoch` makes all earlier secrets worthless.
    """
    message = f"{instance}:{epoch}:{purpose}".encode()
    return base64.urlsafe_b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode().rstrip("=")
