"""Every secret that the suite makes is remembered, and all that leaves the portal's own hands is looked through.

`arm()` is called once, before anything else is imported. What makes secrets is wrapped, and so is what writes log
lines, SQL, messages for Redis (cache, bus, tasks) and requests to instances. `sightings` must stay empty:
tests/conftest.py looks after each test. It costs one look-up per place in a text.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: a secret is known by this many of its first characters, wherever they stand
KNOWN_BY = 20
_RUN = re.compile(rf"[A-Za-z0-9_-]{{{KNOWN_BY},}}")

#: tables that keep one in clear, and why
IN_CLEAR = {"accounts_loginstate": "nonce and verifier of a sign-in under way: worth nothing without its state"}

_known: dict[str, str] = {}
sightings: list[str] = []


def mark(secret: str, what: str) -> str:
    """Remember a secret; returns it. What repeats a letter or two is what tests fill something up with."""
    if len(secret) >= KNOWN_BY and len(set(secret[:KNOWN_BY])) > 4:
        _known[secret[:KNOWN_BY]] = what
    return secret


def seen_in(text: str) -> set[str]:
    """What secrets stand in a text, by their names."""
    found = set()
    for run in _RUN.findall(text):
        for start in range(len(run) - KNOWN_BY + 1):
            if what := _known.get(run[start : start + KNOWN_BY]):
                found.add(what)
    return found


def look(text: str | bytes, where: str, *, may_have: str = "") -> None:
    """Note each secret that stands in a text which must have none."""
    plain = text.decode("latin-1") if isinstance(text, bytes) else text
    for what in seen_in(plain) - {may_have}:
        sightings.append(f"{what} in {where}: {plain[:400]}")


@contextmanager
def expected() -> Iterator[list[str]]:
    """For tests that put one there on purpose."""
    before = len(sightings)
    planted: list[str] = []
    yield planted
    planted += sightings[before:]
    del sightings[before:]


def _wrap(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    inner = getattr(owner, name)
    setattr(owner, name, functools.wraps(inner)(around(inner)))


def _marks(what: str, part: Callable[[Any], str] = str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A wrapper of something that makes secrets."""

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **named: Any) -> Any:
            secret = inner(*args, **named)
            mark(part(secret), what)
            return secret

        return made

    return around


def _looks(where: str, part: Callable[..., str | bytes | None]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A wrapper of something that writes; `part` picks what is written out of the arguments."""

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def written(*args: Any, **named: Any) -> Any:
            if text := part(*args, **named):
                look(text, where)
            return inner(*args, **named)

        return written

    return around


def _seal_of(cookie: str) -> str:
    return cookie.partition(";")[0].rpartition(".")[2]


def mark_token(token: str) -> None:
    """Remember a token of a provider; of a signed one payload and signature, as all heads are alike."""
    for part in token.split(".")[-2:]:
        mark(part, "a provider's token")


def _exchanges(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper of what hands a provider's code in for tokens."""

    def exchanged(*args: Any, code: str, **named: Any) -> Any:
        mark(code, "a provider's code")
        held = inner(*args, code=code, **named)
        mark_token(held.access_token)
        mark_token(held.id_token)
        return held

    return exchanged


def _takes_logout(inner: Callable[..., Any]) -> Callable[..., Any]:
    def taken(provider: Any, metadata: Any, token: str) -> Any:
        mark_token(token)
        return inner(provider, metadata, token)

    return taken


def _of_sql(_cursor: Any, sql: Any, params: Any, *_more: Any) -> str | None:
    if not params or any(table in str(sql) for table in IN_CLEAR):
        return None
    return f"{str(sql)[:200]} {params!r}"


def _of_redis(_encoder: Any, value: Any) -> str | bytes | None:
    return value if isinstance(value, str | bytes) else None


def arm() -> None:
    """Wrap what makes secrets and what writes; once, before their users import them by name."""
    _wrap(secrets, "token_urlsafe", _marks("a secret of ours"))
    from portal.lib import hashing

    _wrap(hashing, "instance_secret", _marks("an instance's token"))
    from instances.gateway.log import Log
    from instances.gateway.session import Sessions

    _wrap(
        Sessions, "cookie", _marks("an instance cookie's seal", lambda line: line.partition(";")[0].rpartition(".")[2])
    )
    _wrap(Log, "flush", _looks("the gateway's log", lambda log: "".join(log._lines)))


def arm_django() -> None:
    """The same for what needs settings."""
    from django.conf import settings
    from django.db.backends.utils import CursorWrapper
    from django.middleware import csrf
    from redis._parsers.encoders import Encoder
    from structlog.stdlib import ProcessorFormatter

    from auth import sessions
    from auth.oidc import client, http, tokens

    for name in ("SECRET_KEY", "GATEWAY_TOKEN"):
        mark(getattr(settings, name), name)
    mark(settings.INSTANCE_KEY.decode(), "INSTANCE_KEY")
    _wrap(sessions, "get_random_string", _marks("a session key"))
    _wrap(csrf, "get_random_string", _marks("a CSRF token"))
    _wrap(CursorWrapper, "_execute", _looks("the database", _of_sql))
    _wrap(CursorWrapper, "_executemany", _looks("the database", _of_sql))
    _wrap(Encoder, "encode", _looks("Redis", _of_redis))

    def formatted(inner: Callable[..., str]) -> Callable[..., str]:
        def line(formatter: Any, record: Any) -> str:
            text = inner(formatter, record)
            look(text, "a log line")
            return text

        return line

    _wrap(ProcessorFormatter, "format", formatted)
    _wrap(client, "exchange", _exchanges)
    _wrap(tokens, "logout_claims", _takes_logout)
    _wrap(http, "call", _looks("an address that is called", lambda _provider, _method, url, **_: url))
