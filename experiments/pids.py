"""Reading persistent identifiers as people paste them: DOIs, Handles, their many dresses, and what hangs on them.

ISO 26324 (DOI), RFC 3651 (Handle), ANSI/NISO Z39.56 (SICI). `canonical` is what look-ups compare.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

#: longest text that is looked at, and longest identifier
LONGEST_TEXT = 16_384
LONGEST = 2048


class Kind(StrEnum):
    DOI = "doi"
    HANDLE = "handle"


@dataclass(frozen=True)
class PID:
    """`canonical`: ASCII lower case, for look-ups; `display`: as it was spelled; `fallbacks`: further canonical
    forms to try, in order, when the exact one is unknown."""

    kind: Kind
    canonical: str
    display: str
    fallbacks: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        return (self.canonical, *self.fallbacks)

    @property
    def url(self) -> str:
        """The resolver's address."""
        return pid_url(self.display)


_DOI = r"10\.[0-9]{4,9}(?:\.[0-9]+)*/"
_HANDLE = r"(?!10\.)[0-9]+\.[0-9]+(?:\.[0-9]+)*/"  # a DOI is a Handle, but a wrong DOI is not one
_START = re.compile(rf"(?:(?P<doi>{_DOI})|{_HANDLE})(?=\S)")
_DOI_IN_URL = re.compile(rf"(?<=[/=:?&(<,])(?:(?P<doi>{_DOI}))(?=\S)")
_HANDLE_IN_URL = re.compile(rf"(?<=[/=:?&(<,])(?:(?P<doi>{_DOI})|{_HANDLE})(?=\S)")
_URL = re.compile(r"https?:/|//|[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,24}(?::[0-9]+)?/", re.I)
_HANDLE_HOST = re.compile(r"(?:https?:)?/{0,2}(?:hdl\.handle\.net|(?:dx\.|www\.)?doi\.org)/", re.I)
_LEAD = re.compile(
    r"""(?:[\s<(\[{"'“”„‟‘’‚‛«»‹›]|info:(?=doi/|hdl/)|urn:(?=doi:|hdl:)|doi/|hdl/|doi\s{0,9}:|hdl\s{0,9}:|doi(?=\s))*""",
    re.I,
)
_SICI_TAIL = re.compile(r">[0-9]\.[0-9]\.[a-z]{2};[0-9]-[0-9a-z#](?![0-9a-z])", re.I)
_HANGS_ON = re.compile(r"[?#;]")
_ESCAPE = re.compile(r"%[0-9a-f]{2}", re.I)
_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58]")
_TRAILING = frozenset(".,;:!?\"'“”„‟‘’‚‛«»‹›")
_CLOSING = {")": "(", "]": "[", "}": "{", ">": "<"}
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def parse_pid(text: object) -> PID | None:
    """Return the identifier that `text` is or dresses, None when there is none. Never raises."""
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        return None
    clear = _clear(text)
    if clear is None:
        return None
    found = _find(clear[_LEAD.match(clear).end() :])  # type: ignore[union-attr]  # matches the empty text too
    if found is None:
        return None
    kind, prefix, suffix = found
    if not suffix or len(prefix) + len(suffix) > LONGEST or not _is_clean(suffix):
        return None
    display = prefix + suffix
    return PID(kind, canonical(display), display, _fallbacks(prefix, suffix))


def canonical(pid: str) -> str:
    """ASCII lower case: DOIs ignore the case of ASCII letters, and of no others."""
    return pid.translate(_LOWER)


def pid_url(pid: str) -> str:
    """The resolver's address of a registered DOI or Handle; what a URL must not hold is escaped."""
    host = "doi.org" if pid.startswith("10.") else "hdl.handle.net"
    return f"https://{host}/{quote(pid, safe='/:;()[]@!$*,=~')}"


def _clear(text: str) -> str | None:
    """NFKC without invisible characters, percent escapes undone up to twice; None when it is nothing readable."""
    for round_ in range(3):
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
        if not _ESCAPE.search(text):
            return text.strip()
        if round_ == 2:
            return None
        try:
            text = unquote(text, errors="strict")
        except ValueError:
            return None
    return None


def _find(text: str) -> tuple[Kind, str, str] | None:
    """Split into kind, prefix with slash, and trimmed suffix."""
    match, in_query = _START.match(text), False
    if match is None and _URL.match(text):
        pattern = _HANDLE_IN_URL if _HANDLE_HOST.match(text) else _DOI_IN_URL
        match = pattern.search(text)
        in_query = match is not None and "?" in text[: match.start()]
    if match is None:
        return None
    suffix = re.split(r"\s", text[match.end() :], maxsplit=1)[0]
    kind = Kind.DOI if match["doi"] else Kind.HANDLE
    return kind, match[0], _trim(suffix.split("&", 1)[0] if in_query else suffix)


def _trim(suffix: str) -> str:
    """Cut what hangs on an identifier: query, fragment, `;…`, closing punctuation. A SICI stays whole."""
    sici = _SICI_TAIL.search(suffix)
    if sici:
        return suffix[: sici.end()]
    suffix = _HANGS_ON.split(suffix, maxsplit=1)[0]
    excess = {close: suffix.count(close) - suffix.count(opened) for close, opened in _CLOSING.items()}
    end = len(suffix)
    while end:
        last = suffix[end - 1]
        if last in _CLOSING and excess[last] > 0:
            excess[last] -= 1
        elif last not in _TRAILING:
            break
        end -= 1
    return suffix[:end]


def _is_clean(suffix: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in suffix)


def _fallbacks(prefix: str, suffix: str) -> tuple[str, ...]:
    """Plain dashes for typographic ones (copied from a PDF), the part before a comma, no slash at the end."""
    straight = _DASHES.sub("-", suffix)
    tries = [straight, suffix.rstrip("/"), straight.rstrip("/")]
    for text in (suffix, straight):
        tries += [text.rpartition(",")[0], text.partition(",")[0] if "," in text else ""]
    forms = [canonical(prefix + _trim(text)) for text in tries if _trim(text)]
    own = canonical(prefix + suffix)
    return tuple(dict.fromkeys(form for form in forms if form != own))
