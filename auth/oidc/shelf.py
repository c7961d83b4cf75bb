"""Documents of providers, kept in the shared cache and, for when that is away, in this process.

Only what can be fetched again lies here; nothing on it decides a right (login states are database rows).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

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
T = TypeVar("T")


class Kept(NamedTuple):
    #: seconds; negative when a clock has stepped back
    age: float
    document: dict[str, Any]


def document(kind: str, url: str, load: Callable[[], dict[str, Any]], *, renew: bool = False) -> dict[str, Any]:
    """Return a document that is at most an hour old, or an older one while its provider is out of order.

    `renew` asks for a new one before its time; a provider is asked again at most once in 30 s whatever arrives.
    """
    key = key_of(kind, url)
    kept = _recall(key)
    if kept is not None and ((kept.age < FRESH and not renew) or not _may_ask(key)):
        return kept.document
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
        return kept.document
    _keep(key, fresh)
    return fresh


def key_of(kind: str, url: str) -> str:
    return f"oidc:{kind}:{digest(url)}"


def _recall(key: str) -> Kept | None:
    entry = _shared(lambda: cache.get(key), lambda: _here.get(key))
    if entry is None:
        return None
    at, document = entry
    kept = Kept(time.time() - at, document)
    return kept if kept.age < STALE else None


def _keep(key: str, document: dict[str, Any]) -> None:
    _here[key] = entry = (time.time(), document)
    _shared(lambda: cache.set(key, entry, STALE), lambda: None)


def _drop(key: str) -> None:
    _here.pop(key, None)
    _shared(lambda: cache.delete(key), bool)


def _may_ask(key: str) -> bool:
    """Take the one permission to ask within RETRY seconds."""
    gate = f"{key}:asked"
    return _shared(lambda: bool(cache.add(gate, 1, RETRY)), lambda: _may_ask_here(gate))


def _may_ask_here(gate: str) -> bool:
    with _asking:
        at, _ = _here.get(gate, (-RETRY, None))
        if time.time() - at < RETRY:
            return False
        _here[gate] = (time.time(), None)
        return True


def _shared(ask: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """Ask the shared cache, or do without: it only makes things fast."""
    try:
        return ask()
    except Exception as error:  # whatever the cache's client raises
        log.warning("cache away", error=type(error).__name__)
        return otherwise()
