"""What the API server's refusals mean to us: one table, first match wins.

What a verb may understand is an error of its own here. Who does not catch it has no usable answer: it is tried again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instances.providers.base import NoCapacity, ProviderError, ProviderUnavailable, Rejected


class NotThere(ProviderUnavailable):
    """404: `kind` and `name` are what the server says that it looked for; empty from a proxy."""

    def __init__(self, text: str, kind: str = "", name: str = "") -> None:
        super().__init__(text)
        self.kind, self.name = kind, name


class Exists(ProviderUnavailable):
    """409: the name is taken."""


class Conflict(ProviderUnavailable):
    """409: a precondition failed; it is another incarnation, or somebody was faster."""


class Expired(ProviderUnavailable):
    """410: the version asked for is too old; list anew."""


class Locked(ProviderUnavailable):
    """401 (`unknown`) or 403: our account is not let in. An operator must look, and nothing may be concluded."""

    def __init__(self, text: str, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


class Busy(ProviderUnavailable):
    """429: asked too much; `after` seconds."""

    def __init__(self, text: str, after: float) -> None:
        super().__init__(text)
        self.after = after


@dataclass(frozen=True)
class Row:
    status: range
    #: the Status' reason; empty for any
    reason: str
    #: what its message contains
    says: str
    error: type[ProviderError]


def _only(status: int) -> range:
    return range(status, status + 1)


TABLE = (
    Row(_only(400), "", "denied the request", Rejected),
    Row(_only(400), "", "", Rejected),
    Row(_only(401), "", "", Locked),
    Row(_only(403), "", r"exceeded quota", NoCapacity),
    Row(_only(403), "", r"violates PodSecurity", Rejected),
    Row(_only(403), "", r"is being terminated", Rejected),
    Row(_only(403), "", r"denied (the )?request", Rejected),
    Row(_only(403), "", "", Locked),
    Row(_only(404), "NotFound", "", NotThere),
    Row(_only(409), "AlreadyExists", "", Exists),
    Row(_only(409), "Conflict", "", Conflict),
    Row(_only(410), "", "", Expired),
    Row(_only(413), "", "", Rejected),
    Row(_only(422), "", "", Rejected),
    Row(_only(429), "", "", Busy),
    Row(range(100, 1000), "", "", ProviderUnavailable),
)

_QUOTA = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>.+?), used: (?P<used>.+?), limited: (?P<limited>.+)$"
)


def error_of(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ProviderError:
    """Return the error of an answer that is no success; its body may be anything."""
    said = status_of(body)
    message = str(said.get("message") or body[:300].decode(errors="replace"))
    row = next(row for row in TABLE if _matches(row, status, str(said.get("reason", "")), message))
    text = f"{status} {said.get('reason') or ''}: {message}".replace(" :", ":")[:600]
    if row.error is NotThere:
        details = said.get("details") or {}
        return NotThere(text, str(details.get("kind", "")), str(details.get("name", "")))
    if row.error is Busy:
        return Busy(text, _seconds((headers or {}).get("Retry-After")))
    if row.error is Locked:
        return Locked(text, unknown=status == 401)
    if row.error is NoCapacity:
        return NoCapacity(quota_text(message))
    return row.error(text)


def _matches(row: Row, status: int, reason: str, message: str) -> bool:
    return status in row.status and row.reason in ("", reason) and re.search(row.says, message) is not None


def status_of(body: bytes) -> dict[str, Any]:
    """Return the Status object of an answer; empty when it is none."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and said.get("kind") == "Status" else {}


def json_status(said: Mapping[str, Any]) -> bytes:
    """Return a Status that came inside an event as the body that it would have been."""
    return json.dumps({**said, "kind": "Status"}).encode()


def quota_text(message: str) -> str:
    """Return which resource of which quota is short, from the server's words; those words when they are new."""
    found = _QUOTA.search(message)
    if found is None:
        return message
    asked, used, limit = (_amounts(found[name]) for name in ("requested", "used", "limited"))
    short = [f"{what} {asked[what]} (used {used.get(what, '?')} of {limit.get(what, '?')})" for what in asked]
    return f"quota {found['quota']} has no room for {', '.join(short)}"


def _amounts(text: str) -> dict[str, str]:
    return {name: amount for name, _, amount in (part.partition("=") for part in text.split(","))}


def _seconds(text: str | None) -> float:
    try:
        return min(30.0, max(1.0, float(text or 1)))
    except ValueError:
        return 1.0


class HomeHeld(NoCapacity):
    """The home's storage goes to one machine at a time, and another has it."""

    code = "home-held"


class DiskHeld(Rejected):
    """Somebody marked the machine's disk for deletion, or put another in its place: it goes with the next stop."""

    code = "disk-held"
