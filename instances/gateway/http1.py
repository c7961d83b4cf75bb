"""Strict HTTP/1.1: heads parsed whole and rebuilt from parts, bodies framed; what is ambiguous is refused.

One rule for both sides (RFC 9110, 9112): a request that can be read in two ways is answered 400, such a response 502,
and the connection is closed; nothing is repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from instances.gateway import names
from instances.gateway.bodies import NO_BODY, Body, ChunkedBody, CountedBody, OpenBody, Refused

if TYPE_CHECKING:
    from instances.gateway.access import Grant

LINE_LIMIT = 8 * 1024
FIELD_LIMIT = 8 * 1024
HEAD_LIMIT = 64 * 1024
FIELD_COUNT = 100
_LENGTH_DIGITS = 18
#: sections up to this size are worth remembering
_OFTEN = 2048

Fields = list[tuple[bytes, bytes]]

_REQUEST_LINE = re.compile(rb'([A-Z]{1,20}) (/[!"$-~]*|\*) HTTP/1\.([01])')
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
#: a field's whole line, with the line end before it; nothing is tried twice (possessive), whatever is sent
_FIELD = re.compile(rb"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[\t ]*+([\t -~\x80-\xff]*+)(?=\r\n)")
_BARE_FEED = re.compile(rb"(?<!\r)\n")
#: a line break that a careless back end would decode into a head of its own
_ENCODED_BREAK = re.compile(rb"[^?]*%0[aAdD]")
#: what in Connection is no field's name
_OF_CONNECTION = frozenset({b"close", b"keep-alive", b"upgrade", b""})
#: what a client may not hide from the back end by naming it in Connection
_END_TO_END = names.READ | {b"host", b"cookie", b"authorization", b"content-length", b"transfer-encoding"}
#: a request that has one of these is looked at more closely
_FRAMING = frozenset({b"transfer-encoding", b"content-length", b"expect", b"upgrade", b"connection"})
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})


class Section:
    """A request's header section. `fields` are those we read (lower-case name → value), `passed` those to send on.

    `keep_alive`: the client wants to send another request on this connection.
    """

    __slots__ = ("chunked", "fields", "grant", "host", "keep_alive", "length", "passed", "prepared", "websocket")

    def __init__(self) -> None:
        self.host = b""
        self.fields: dict[bytes, bytes] = {}
        self.passed: Fields = []
        self.chunked = False
        self.length: int | None = None
        self.websocket = False
        self.keep_alive = True
        #: what lets these very bytes pass, and what is made of them for the back end
        self.grant: Grant | None = None
        self.prepared = b""


class Request:
    """A request's head: its line, and its section, which other requests may share."""

    __slots__ = (
        "chunked",
        "fields",
        "host",
        "keep_alive",
        "length",
        "method",
        "minor",
        "section",
        "target",
        "websocket",
    )

    def __init__(self, method: bytes, target: bytes, minor: int, section: Section) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.section = section
        self.host = section.host
        self.fields = section.fields
        self.chunked = section.chunked
        self.length = section.length
        self.websocket = section.websocket
        self.keep_alive = section.keep_alive

    @property
    def passed(self) -> Fields:
        return self.section.passed

    @property
    def forwarded_for(self) -> bytes:
        """What proxies say; only a configured one is believed."""
        return self.fields.get(b"x-forwarded-for", b"")

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def body(self) -> Body:
        if self.chunked:
            return ChunkedBody(400)
        return CountedBody(self.length) if self.length else NO_BODY

    @property
    def navigation(self) -> bool:
        """A person's browser going to a page, as opposed to a page's own requests."""
        return self.method == b"GET" and self.fields.get(b"sec-fetch-dest") == b"document" and not self.websocket

    @property
    def by_itself(self) -> bool:
        """What an open page of Jupyter looks at again and again, and opens anew, with nobody in front of it."""
        return self.method in (b"GET", b"HEAD") and b"/api/" in self.target.partition(b"?")[0] and not self.navigation


class Response:
    """A response's head. `passed` are the fields to send on; `check`: some of them only the portal may send."""

    __slots__ = ("bodyless", "check", "chunked", "keep_alive", "length", "minor", "passed", "status", "upgrade")

    def __init__(self, status: int, minor: int) -> None:
        self.status = status
        self.minor = minor
        self.passed: Fields = []
        self.check = False
        self.chunked = False
        self.length: int | None = None
        self.keep_alive = minor == 1
        self.bodyless = False
        self.upgrade = b""

    def body(self, *, bare: bool) -> Body:
        if self.bodyless:
            return NO_BODY
        if self.chunked:
            return ChunkedBody(502, bare=bare)
        return OpenBody() if self.length is None else CountedBody(self.length)


@lru_cache(256)
def _connection(value: bytes, minor: int) -> tuple[bool, bool, frozenset[bytes]]:
    """Return what Connection says: whether another message may follow, whether it upgrades, which fields it names."""
    words = frozenset(word.strip(b" \t").lower() for word in value.split(b","))
    keep_alive = b"close" not in words and bool(minor or b"keep-alive" in words)
    return keep_alive, b"upgrade" in words, words - _OF_CONNECTION


def head_end(buffer: bytes | bytearray, start: int, *, status: int = 400) -> int:
    """Return where the head in `buffer` ends, or -1 while it is not complete; raises when it never can be.

    `start` is how much of the buffer had been looked at before. `status` 400 means a request's head.
    """
    end = buffer.find(b"\r\n\r\n", max(0, start - 3))
    size = len(buffer) if end < 0 else end + 4
    if size > LINE_LIMIT:
        line = buffer.find(b"\r\n", 0, LINE_LIMIT + 2)
        if line < 0 or line > LINE_LIMIT:
            raise Refused(414 if status == 400 else status, "first line too long")
        if size > HEAD_LIMIT:
            raise Refused(431 if status == 400 else status, "head too long")
    if end >= 0:
        return end + 4
    if _BARE_FEED.search(buffer, start):
        raise Refused(status, "bare line feed")
    return -1


def _fields(section: bytes, status: int) -> Fields:
    """Return the fields of a header section: from the end of the first line to the blank line, both included."""
    count = section.count(b"\r\n") - 2
    if count > FIELD_COUNT:
        raise Refused(431 if status == 400 else status, "too many fields")
    fields: Fields = _FIELD.findall(section)
    if len(fields) != count:  # a line that is no field
        raise Refused(status, "malformed field")
    if len(section) > FIELD_LIMIT and any(len(name) + len(value) > FIELD_LIMIT for name, value in fields):
        raise Refused(431 if status == 400 else status, "field too long")
    return fields


def check_first_line(buffer: bytes | bytearray) -> None:
    """Refuse at once what can never become a request (HTTP/0.9, TLS on a plain port), before its head is complete."""
    end = buffer.find(b"\r\n")
    if end >= 0 and not _REQUEST_LINE.fullmatch(buffer, 0, end):
        _refuse_line(bytes(buffer[:end]))


def _refuse_line(line: bytes) -> None:
    if line.startswith(b"TRACE "):
        raise Refused(405, "TRACE is not answered")
    raise Refused(400, "malformed request line")


def _check_target(method: bytes, target: bytes) -> None:
    if target == b"*" and method != b"OPTIONS":
        raise Refused(400, "malformed request target")
    if _ENCODED_BREAK.match(target):
        raise Refused(400, "line break in the path")


def parse_request(head: bytes) -> Request:
    """Parse a complete head, blank line included."""
    end = head.find(b"\r\n")
    match = _REQUEST_LINE.fullmatch(head, 0, end)
    if match is None:
        _refuse_line(head[:20])
        raise AssertionError
    method, target, minor = match.groups()
    if method not in _METHODS:
        raise Refused(405 if method == b"TRACE" else 400 if method == b"CONNECT" else 501, "method not supported")
    if target == b"*" or b"%0" in target:
        _check_target(method, target)
    section = head[end:]
    read = _section if len(section) <= _OFTEN else _read_section
    return Request(method, target, int(minor), read(method, int(minor), section))


def _read_section(method: bytes, minor: int, text: bytes) -> Section:
    section = Section()
    fields, passed, kinds = section.fields, section.passed, names.REQUEST
    for pair in _fields(text, 400):
        kind = kinds[pair[0]]
        if kind is names.PASS:
            passed.append(pair)
        elif kind is not names.DROP:
            fields[kind] = pair[1].strip(b" \t") if kind not in fields else _again(fields, kind, pair[1], 400)
            if kind in names.READ:
                passed.append(pair)
    if b"host" not in fields:
        raise Refused(400, "no Host field")
    section.host = fields[b"host"]
    section.keep_alive = bool(minor)
    if not _FRAMING.isdisjoint(fields):
        _frame_request(section, method, minor)
    return section


#: a browser sends the same section with one request after another
_section = lru_cache(512)(_read_section)


def _again(fields: dict[bytes, bytes], kind: bytes, value: bytes, status: int) -> bytes:
    """Join a field that decides something with the one before; most of these may come once."""
    if kind not in names.LISTS:
        raise Refused(status, f"several {kind.decode()} fields")
    return fields[kind] + b"," + value


def _frame_request(section: Section, method: bytes, minor: int) -> None:
    fields = section.fields
    section.length, section.chunked = _length(fields, minor, 400)
    if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise Refused(417, "unknown expectation")
    if b"upgrade" in fields:
        section.websocket = _is_handshake(section, method, minor)
    if b"connection" in fields:
        section.keep_alive, _, named = _connection(fields[b"connection"], minor)
        if not named.isdisjoint(_END_TO_END):
            raise Refused(400, "Connection names an end-to-end field")
        if named:
            section.passed = _without(section.passed, named)


def _length(fields: dict[bytes, bytes], minor: int, status: int) -> tuple[int | None, bool]:
    """Return a body's length (None: not said), and whether it is chunked (RFC 9112 §6.3, nothing repaired)."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None or not minor:
            raise Refused(status, "contradictory framing")
        if coding.lower() != b"chunked":
            raise Refused(status, "unknown transfer coding")
        return None, True
    if length is None:
        return None, False
    if not length.isdigit() or len(length) > _LENGTH_DIGITS:
        raise Refused(status, "malformed Content-Length")
    return int(length), False


def _without(fields: Fields, named: frozenset[bytes]) -> Fields:
    return [pair for pair in fields if pair[0].lower() not in named]


def _is_handshake(section: Section, method: bytes, minor: int) -> bool:
    """Whether a WebSocket is asked for (RFC 6455 §4.1). Any other Upgrade is ignored and never passed on."""
    fields = section.fields
    if fields[b"upgrade"].lower() != b"websocket" or not _connection(fields.get(b"connection", b""), minor)[1]:
        return False
    key = fields.get(b"sec-websocket-key", b"")
    if (
        method != b"GET"
        or not minor
        or section.chunked
        or section.length
        or fields.get(b"sec-websocket-version") != b"13"
        or not re.fullmatch(rb"[A-Za-z0-9+/]{22}==", key)
    ):
        raise Refused(400, "malformed WebSocket handshake")
    return True


@lru_cache(256)
def _status(line: bytes) -> tuple[int, int]:
    """Return status and minor version."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Refused(502, "malformed status line")
    return int(match[2]), int(match[1])


def parse_response(head: bytes, method: bytes) -> Response:
    """Parse a complete head of a response to a `method` request."""
    end = head.find(b"\r\n")
    response = Response(*_status(head[:end]))
    passed, kinds = response.passed, names.RESPONSE
    fields: dict[bytes, bytes] = {}
    for pair in _fields(head[end:], 502):
        kind = kinds[pair[0]]
        if kind is names.PASS:
            passed.append(pair)
        elif kind is names.CHECK:
            passed.append(pair)
            response.check = True
        elif kind is not names.DROP:
            fields[kind] = pair[1].strip(b" \t") if kind not in fields else _again(fields, kind, pair[1], 502)
    response.length, response.chunked = _length(fields, response.minor, 502)
    response.bodyless = method == b"HEAD" or response.status < 200 or response.status in (204, 304)
    if b"connection" in fields:
        response.keep_alive, upgrade, named = _connection(fields[b"connection"], response.minor)
        if upgrade:
            response.upgrade = fields.get(b"upgrade", b"").lower()
        if named:
            response.passed = _without(passed, named)
    if response.status == 101 and not response.upgrade:
        raise Refused(502, "switch to nothing")
    if response.status == 204 and (response.chunked or response.length):
        response.keep_alive = False  # whether a body follows cannot be known
    return response


def build(start: bytes, fields: Iterable[tuple[bytes, bytes]], tail: bytes) -> bytes:
    """Write a head: the first line without its end, the fields, and `tail`, ready-made lines of our own."""
    return b"\r\n".join((start, *map(b": ".join, fields), tail + b"\r\n"))
