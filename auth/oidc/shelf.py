"""Documents of providers, kept in the shared cache and, for when that is away, in this process.

Only what can be fetched again lies here; nothing on it decides a right (login states are database rows).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from django.core.cache import cache

from auth.oidc.errors import LoginError, ProviderDisabled
from portal.lib.hashing import digest

log = structlog.get_logger("auth.oidc")

FRESH = 3600.0
STALE = 86_400.0
RETRY = 30.0

_here: dict[str, tuple[float, Any]] = {}
_asking = threading.Lock()


def document(kind: str, url: str, load: Callable[[], dict[str, Any]], *, renew: bool = False) -> dict[str, Any]:
    """Return a document that is at most an hour old, or an older one while its provider is out of order.

    `renew` asks for a new one before its time; a provider is asked again at most once in 30 s whatever arrives.
    """
    key = key_of(kind, url)
    age, kept = _recall(key)
    if kept is not None and ((age < FRESH and not renew) or not _may_ask(key)):
        return kept
    if kept is None:
        _may_ask(key)
    try:
        fresh = load()
    except ProviderDisabled:
        _drop(key)
        raise
    except LoginError as error:
        if kept is None:
            raise
        log.error("provider out of order, going on with what it said before", url=url, reason=error.reason)
        return kept
    _keep(key, fresh)
    return fresh


def key_of(kind: str, url: str) -> str:
    return f"oidc:{kind}:{digest(url)}"


def _recall(key: str) -> tuple[float, dict[str, Any] | None]:
    try:
        entry = cache.get(key)
    except Exception as error:  # whatever the cache's client raises: it only makes things fast
        log.warning("cache away", error=type(error).__name__)
        entry = _here.get(key)
    if entry is None:
        return 0.0, None
    at, value = entry
    age = max(time.time() - at, 0.0)
    return (age, value) if age < STALE else (0.0, None)


def _keep(key: str, value: dict[str, Any]) -> None:
    _here[key] = (time.time(), value)
    try:
        cache.set(key, (time.time(), value), STALE)
    except Exception as error:
        log.warning("cache away", error=type(error).__name__)


def _drop(key: str) -> None:
    _here.pop(key, None)
    try:
        cache.delete(key)
    except Exception as error:
        log.warning("cache away", error=type(error).__name__)


def _may_ask(key: str) -> bool:
    """Take the one permission to ask within RETRY seconds."""
    gate = f"{key}:asked"
    try:
        return bool(cache.add(gate, 1, RETRY))
    except Exception as error:
        log.warning("cache away", error=type(error).__name__)
    with _asking:
        at, _ = _here.get(gate, (0.0, None))
        if time.time() - at < RETRY:
            return False
        _here[gate] = (time.time(), None)
        return True
