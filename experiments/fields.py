"""Single values of an import file: a reader returns what the database takes, or raises ValueError with the reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator, validate_email, validate_slug

from experiments.pids import canonical, parse_pid

Reader = Callable[[Any], Any]

#: an index row of PostgreSQL holds about 2700 bytes
LONGEST_PID = 1000
_KEPT = frozenset("\n\t")
_http = URLValidator(schemes=["http", "https"])


def text(longest: int) -> Reader:
    def read(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError("must be text")
        found = str(value).strip()
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in _KEPT for c in found):
            raise ValueError("holds control characters")
        if len(found) > longest:
            raise ValueError(f"is longer than {longest} characters")
        return found

    return read


def whole(largest: int) -> Reader:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
            raise ValueError(f"must be a whole number from 0 to {largest}")
        return value

    return read


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def one_of(*choices: str) -> Reader:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return read


def _checked(check: Callable[[str], None], longest: int, reason: str) -> Reader:
    limited = text(longest)

    def read(value: Any) -> str:
        found: str = limited(value)
        try:
            check(found)
        except ValidationError:
            raise ValueError(reason) from None
        return found

    return read


slug = _checked(validate_slug, 40, "must be letters, digits, `-` and `_`")
email = _checked(validate_email, 254, "is no e-mail address")
url = _checked(_http, 2000, "is no http address")


def pid(value: Any) -> str:
    """Return the registered spelling: bare, not as a link."""
    given = text(2000)(value)
    found = parse_pid(given)
    if found is None or found.canonical != canonical(given) or len(given.encode()) > LONGEST_PID:
        raise ValueError("is no bare DOI or Handle (10.1234/abc, without doi: or https://)")
    return found.display


def zone(value: Any) -> str:
    name: str = text(64)(value)
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone such as Europe/Berlin") from None
    return name


def moment(zone_name: str) -> Reader:
    """Dates and times in ISO 8601; without offset they are the facility's local time, a bare date its midnight."""

    def read(value: Any) -> datetime:
        if not isinstance(value, str):
            raise ValueError("must be a date or time such as 2024-03-01 or 2024-03-01T08:00:00+01:00")
        try:
            found = datetime.fromisoformat(value.strip())
            if found.tzinfo is None:
                found = found.replace(tzinfo=ZoneInfo(zone_name))
            return found.astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(f"{value[:40]!r} is no date or time") from None

    return read


def orcid(value: Any) -> str:
    """ISO 7064 MOD 11-2 over the first fifteen digits."""
    found: str = text(60)(value)
    found = found.removeprefix("https://orcid.org/").upper()
    if not re.fullmatch(r"[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{3}[0-9X]", found):
        raise ValueError("is no ORCID iD")
    digits = found.replace("-", "")
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    if "0123456789X"[(12 - total % 11) % 11] != digits[-1]:
        raise ValueError("is no ORCID iD: its check digit is wrong")
    return found
