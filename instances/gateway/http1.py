"""Strict HTTP/1.1: heads parsed whole and rebuilt from parts, bodies framed; what is ambiguous is refused.

One rule for both sides (RFC 9110, 9112): a request that can be read in two ways is answered 400, such a response 502,
and the connection is closed; nothing is repaired. llhttp parses the header section; what it lets pass, and how long
a body is, is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import httptools

from instances.gateway.bodies import NO_BODY, TEXT, Body, ChunkedBody, CountedBody, OpenBody, Refused

LINE_LIMIT = 8 * 1024
FIELD_LIMIT = 8 * 1024
HEAD_LIMIT = 64 * 1024
FIELD_COUNT = 100
_LENGTH_DIGITS = 18

Fields = list[tuple[bytes, bytes]]

_REQUEST_LINE = re.compile(rb'([A-Z]{1,20}) (/[!"$-~]*|\*) HTTP/1\.([01])')
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t -~\x80-\xff]*)?")
_NUMBER = re.compile(rb"[0-9]{1,%d}" % _LENGTH_DIGITS)
_BARE_FEED = re.compile(rb"(?<!\r)\n")
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})

#: what a request field is to us: passed on, dropped, or (its lower-case name) read by us
PASS, DROP = b"pass", b"drop"
#: read and, unlike those in _TAKEN, passed on as well
_READ = frozenset(
    {
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-dest",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)
#: read, and written anew by whoever sends the message on
_TAKEN = frozenset(
    {
        b"host",
        b"cookie",
        b"authorization",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"connection",
        b"upgrade",
        b"referer",
        b"x-forwarded-for",
    }
)
#: read fields that may come in several lines
_LISTS = frozenset({b"connection", b"x-forwarded-for"})
_HOP_BY_HOP = frozenset({b"keep-alive", b"te", b"trailer", b"http2-settings", b"x-http2-settings"})
#: what only a proxy may say (X-Forwarded-*, Proxy-* and names with an underscore go by pattern)
_FORWARDING = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-remote-user",
        b"remote-user",
        b"x-auth-request-user",
        b"x-request-id",
        b"x-scheme",
        b"x-url-scheme",
        b"front-end-https",
        b"proxy",  # CVE-2016-5385: CGI makes HTTP_PROXY of it
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    }
)
_DROPPED_PREFIXES = (b"x-forwarded-", b"proxy-", b"x-original-", b"x-rewrite-")
_KNOWN_LIMIT = 2000
_known: dict[bytes, bytes] = {}


def classify(name: bytes) -> bytes:
    """Say what becomes of a request field of this name; remembers the names it has seen, up to a limit."""
    key = name.lower()
    if key in _READ or key in _TAKEN:
        kind = key
    elif (
        key in _HOP_BY_HOP
        or key in _FORWARDING
        or key.startswith(_DROPPED_PREFIXES)
        or b"_" in key  # X_Forwarded_For and X-Forwarded-For are one variable to CGI-like servers
    ):
        kind = DROP
    else:
        kind = PASS
    if len(_known) < _KNOWN_LIMIT:
        _known[name] = kind
    return kind


class Request:
    """A request's head. `fields` are those we read (lower-case name → value), `passed` those to send on."""

    __slots__ = ("chunked", "fields", "length", "method", "minor", "passed", "raw_size", "target", "websocket")

    def __init__(self, method: bytes, target: bytes, minor: int) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.fields: dict[bytes, bytes] = {}
        self.passed: Fields = []
        self.chunked = False
        self.length: int | None = None
        self.websocket = False
        self.raw_size = 0

    @property
    def host(self) -> bytes:
        return self.fields[b"host"]

    @property
    def forwarded_for(self) -> bytes:
        """What proxies say; only a configured one is believed."""
        return self.fields.get(b"x-forwarded-for", b"")

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants to send another request on this connection."""
        words = tokens(self.fields.get(b"connection", b""))
        return b"close" not in words if self.minor else b"keep-alive" in words

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


class Response:
    """A response's head; `fields` is all of them, in order, `length` and `chunked` its framing."""

    __slots__ = ("bodyless", "chunked", "fields", "keep_alive", "length", "minor", "status", "upgrade")

    def __init__(self, status: int, minor: int, fields: Fields) -> None:
        self.status = status
        self.minor = minor
        self.fields = fields
        self.chunked = False
        self.length: int | None = None
        self.keep_alive = False
        self.bodyless = False
        self.upgrade = b""

    def body(self, *, bare: bool) -> Body:
        if self.bodyless:
            return NO_BODY
        if self.chunked:
            return ChunkedBody(502, bare=bare)
        return OpenBody() if self.length is None else CountedBody(self.length)


def tokens(value: bytes) -> frozenset[bytes]:
    """Return a comma-separated list of words in lower case."""
    return frozenset(word.strip(b" \t").lower() for word in value.split(b","))


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


class _Collector:
    """What llhttp calls for each field."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: Fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def _fields(
    head: bytes, parser: type[httptools.HttpRequestParser | httptools.HttpResponseParser], status: int
) -> Fields:
    """Return the header fields of a complete head, all characters and limits checked."""
    feeds = head.count(b"\r\n")
    if head.translate(None, TEXT) or feeds != head.count(b"\n") or feeds != head.count(b"\r"):
        raise Refused(status, "control character in the head")
    if feeds - 2 > FIELD_COUNT:
        raise Refused(431 if status == 400 else status, "too many fields")
    collector = _Collector()
    try:
        parser(collector).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise Refused(status, str(error)[:100]) from error
    fields = collector.fields
    if len(fields) != feeds - 2:  # the parser and the lines must agree
        raise Refused(status, "unreadable head")
    if len(head) > FIELD_LIMIT and any(len(name) + len(value) > FIELD_LIMIT for name, value in fields):
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


def parse_request(head: bytes) -> Request:
    """Parse a complete head, blank line included."""
    match = _REQUEST_LINE.fullmatch(head, 0, head.find(b"\r\n"))
    if match is None:
        _refuse_line(head[:20])
        raise AssertionError
    method, target, minor = match.groups()
    if method not in _METHODS:
        raise Refused(405 if method == b"TRACE" else 400 if method == b"CONNECT" else 501, "method not supported")
    if target == b"*" and method != b"OPTIONS":
        raise Refused(400, "malformed request target")
    request = Request(method, target, 1 if minor == b"1" else 0)
    request.raw_size = len(head)
    fields, passed = request.fields, request.passed
    for pair in _fields(head, httptools.HttpRequestParser, 400):
        name, value = pair
        kind = _known.get(name) or classify(name)
        if kind is PASS:
            passed.append(pair)
        elif kind is not DROP:
            if kind in fields:
                if kind not in _LISTS:
                    raise Refused(400, f"several {kind.decode()} fields")
                value = fields[kind] + b"," + value
            fields[kind] = value.strip(b" \t")
            if kind in _READ:
                passed.append(pair)
    _frame_request(request)
    return request


def _frame_request(request: Request) -> None:
    fields = request.fields
    if b"host" not in fields:
        raise Refused(400, "no Host field")
    if b"transfer-encoding" in fields:
        if b"content-length" in fields or not request.minor:
            raise Refused(400, "contradictory framing")
        if fields[b"transfer-encoding"].lower() != b"chunked":
            raise Refused(400, "unknown transfer coding")
        request.chunked = True
    elif b"content-length" in fields:
        if not _NUMBER.fullmatch(fields[b"content-length"]):
            raise Refused(400, "malformed Content-Length")
        request.length = int(fields[b"content-length"])
    if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise Refused(417, "unknown expectation")
    if b"upgrade" in fields:
        _check_upgrade(request)
    connection = fields.get(b"connection")
    if connection is not None:
        _drop_named(request, tokens(connection))


def _check_upgrade(request: Request) -> None:
    """Mark a WebSocket handshake (RFC 6455 §4.1). Any other Upgrade is ignored and never passed on."""
    fields = request.fields
    if fields[b"upgrade"].lower() != b"websocket" or b"upgrade" not in tokens(fields.get(b"connection", b"")):
        return
    key = fields.get(b"sec-websocket-key", b"")
    if (
        request.method != b"GET"
        or not request.minor
        or request.has_body
        or fields.get(b"sec-websocket-version") != b"13"
        or not re.fullmatch(rb"[A-Za-z0-9+/]{22}==", key)
    ):
        raise Refused(400, "malformed WebSocket handshake")
    request.websocket = True


def _drop_named(request: Request, words: frozenset[bytes]) -> None:
    """Remove the fields that Connection names; those we decide by may not be named."""
    named = words - {b"close", b"keep-alive", b"upgrade", b""}
    if not named:
        return
    if named & _READ or named & {b"host", b"cookie", b"authorization", b"content-length", b"transfer-encoding"}:
        raise Refused(400, "Connection names an end-to-end field")
    request.passed = [pair for pair in request.passed if pair[0].lower() not in named]


def parse_response(head: bytes, method: bytes) -> Response:
    """Parse a complete head of a response to a `method` request."""
    match = _STATUS_LINE.fullmatch(head, 0, head.find(b"\r\n"))
    if match is None:
        raise Refused(502, "malformed status line")
    fields = _fields(head, httptools.HttpResponseParser, 502)
    response = Response(int(match.group(2)), 1 if match.group(1) == b"1" else 0, fields)
    lengths: list[bytes] = []
    codings: list[bytes] = []
    words: frozenset[bytes] = frozenset()
    for name, value in fields:
        key = name.lower()
        if key == b"content-length":
            lengths.append(value.strip(b" \t"))
        elif key == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
        elif key == b"connection":
            words |= tokens(value)
        elif key == b"upgrade":
            response.upgrade = value.strip(b" \t").lower()
    response.keep_alive = b"close" not in words and bool(response.minor or b"keep-alive" in words)
    _frame_response(response, lengths, codings, method)
    return response


def _frame_response(response: Response, lengths: list[bytes], codings: list[bytes], method: bytes) -> None:
    if len(lengths) + len(codings) > 1:
        raise Refused(502, "contradictory framing")
    if codings:
        if codings[0] != b"chunked" or not response.minor:
            raise Refused(502, "unknown transfer coding")
        response.chunked = True
    elif lengths:
        if not _NUMBER.fullmatch(lengths[0]):
            raise Refused(502, "malformed Content-Length")
        response.length = int(lengths[0])
    response.bodyless = method == b"HEAD" or response.status < 200 or response.status in (204, 304)


def build(start: bytes, fields: Iterable[tuple[bytes, bytes]], tail: bytes) -> bytes:
    """Write a head: the first line without its end, the fields, and `tail`, ready-made lines of our own."""
    return b"".join((start, b"\r\n", *[b"%b: %b\r\n" % pair for pair in fields], tail, b"\r\n"))
