"""Generated heads, read by us, by llhttp (what stands before uvicorn) and by h11: what we accept, they read as we do.

They may accept what we refuse: a gateway has to be strict. `DIFFERENT` lists where they refuse what we accept.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import h11
import httptools
import pytest

from instances.gateway.bodies import Refused
from instances.gateway.http1 import Request, Response, head_end, parse_request, parse_response

Fields = list[tuple[bytes, bytes]]
#: (who, their word for it) → why theirs is no other reading but a refusal that does no harm
DIFFERENT: dict[tuple[str, str], str] = {
    ("h11", "Received server _SWITCH_UPGRADE event without a pending proposal"): "we ask that of the exchange instead",
}

METHODS = [b"GET", b"POST", b"OPTIONS", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"GE T", b"get", b"CONNECT", b"PRI"]
TARGETS = [
    b"/",
    b"/a/b?c=d",
    b"/%2F%20",
    b"/a//../b",
    b'/"<>{}|\\^`',
    b"*",
    b"/a#b",
    b"//host/",
    b"http://h/",
    b"/\xe4",
]
VERSIONS = [b"HTTP/1.1"] * 8 + [b"HTTP/1.0"] * 2 + [b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b""]
STATUSES = [b"200 OK", b"204 No Content", b"304", b"404 \xe4\x01", b"101 Switching Protocols", b"100 Continue", b"99 x"]
STATUSES += [b"500\t", b"206 ", b"1234 OK"]
NAMES = [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"Cookie", b"X-A"]
NAMES += [b"!#$%&'*+-.^_`|~9z", b"TE", b"Trailer", b"Keep-Alive", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"]
NAMES += [b"content-length ", b"X_A", b"", b"X:A", b" X"]
VALUES = [b"example", b"0", b"5", b"+5", b"05", b"5, 5", b"5 5", b"0x5", b"9" * 20, b"chunked", b"Chunked", b"identity"]
VALUES += [b"chunked, chunked", b"gzip, chunked", b"close", b"keep-alive", b"Close, X-A", b"keep-alive, close"]
VALUES += [b"Upgrade", b"upgrade, TE", b"websocket", b"h2c", b"100-continue", b"dGhlIHNhbXBsZSBub25jZQ==", b"13"]
VALUES += [b"", b"a=b; c=d", b"\xe4\xff", b"a\tb", b"a\x0bb", b"a\x00b", b'"quoted, value"']
USUAL = {b"Host": [b"example"], b"Content-Length": [b"0", b"5", b"05"], b"Transfer-Encoding": [b"chunked", b"Chunked"]}
SPACES = [b" "] * 12 + [b"", b"\t", b"  ", b" \t ", b"\x0b", b"\r\n "]
ENDS = [b"\r\n"] * 40 + [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\t\r\n"]
ODD = [bytes([byte]) for byte in (0, 9, 10, 11, 13, 32, 34, 44, 58, 59, 127, 128, 255)]


def head_of(chance: random.Random, first: bytes) -> bytes:
    """A head whose every part is mostly as it should be."""
    lines = [first + chance.choice(ENDS)]
    names = chance.choices(NAMES, k=chance.randrange(5)) + [b"Host"] * (chance.random() < 0.9)
    chance.shuffle(names)
    for name in names:
        fitting = USUAL.get(name, VALUES) if chance.random() < 0.8 else VALUES
        lines.append(name + b":" + chance.choice(SPACES) + chance.choice(fitting) + chance.choice(ENDS))
    head = b"".join(lines) + b"\r\n"
    if chance.random() < 0.2:
        at = chance.randrange(len(head))
        head = head[:at] + chance.choice(ODD) + head[at + chance.randrange(2) :]
    return head


def request_of(chance: random.Random) -> bytes:
    usual = chance.random() < 0.8
    method = chance.choice(METHODS[:7] if usual else METHODS)
    target = chance.choice(TARGETS[:5] if usual else TARGETS)
    return head_of(chance, b" ".join((method, target, chance.choice(VERSIONS))))


def response_of(chance: random.Random) -> bytes:
    return head_of(chance, b" ".join((chance.choice(VERSIONS), chance.choice(STATUSES))))


# ---- readings ----
#: llhttp takes a tab behind the word for a part of it, and so refuses a request and reads a response to its end;
#: RFC 9110 §5.5 strips it, and what we send on is the word alone
_TAB_BEHIND = re.compile(rb"(\r\ntransfer-encoding:[ \t]*chunked)[ \t]+(?=\r\n)", re.IGNORECASE)


@dataclass
class Reading:
    """What somebody made of a head; `ends` = the message is over when its body has come as we understand it."""

    first: tuple[object, ...] = ()
    fields: Fields = field(default_factory=list)
    ends: bool = False
    goes_on: bool = False
    refused: str = ""


def body_of(message: Request | Response) -> bytes:
    if isinstance(message, Response) and message.bodyless:
        return b""
    return b"0\r\n\r\n" if message.chunked else b"x" * min(message.length or 0, 10_000)


class _Heard:
    """Takes llhttp's calls."""

    def __init__(self) -> None:
        self.url, self.complete = b"", 0
        self.fields: Fields = []
        #: asked before the message ends, when it has forgotten
        self.goes_on = False
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        assert self.parser is not None
        self.goes_on = self.parser.should_keep_alive()

    def on_message_complete(self) -> None:
        self.complete += 1


def by_llhttp(head: bytes, ours: Request | Response, method: bytes = b"") -> Reading:
    heard = _Heard()
    made = httptools.HttpRequestParser if isinstance(ours, Request) else httptools.HttpResponseParser
    parser = heard.parser = made(heard)
    upgraded = False
    try:
        try:
            parser.feed_data(_TAB_BEHIND.sub(rb"\1", head))
            early = heard.complete
            parser.feed_data(body_of(ours))
        except httptools.HttpParserUpgrade:
            upgraded, early = True, 0
    except httptools.HttpParserError as error:
        return Reading(refused=str(error) or type(error).__name__)
    first = (parser.get_method(), heard.url) if isinstance(ours, Request) else (parser.get_status_code(),)
    if isinstance(ours, Response) and method == b"HEAD":  # which it cannot be told: a body is to come, it believes
        return Reading((*first, parser.get_http_version()), heard.fields, ends=True, goes_on=True)
    ends = upgraded or (heard.complete == 1 and (early == 0 or not body_of(ours)))
    return Reading((*first, parser.get_http_version()), heard.fields, ends, heard.goes_on)


def by_h11(head: bytes, ours: Request | Response, method: bytes = b"GET") -> Reading:
    parser = h11.Connection(h11.SERVER if isinstance(ours, Request) else h11.CLIENT, max_incomplete_event_size=2**20)
    if isinstance(ours, Response):
        parser.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"x")]))
        parser.send(h11.EndOfMessage())
    try:
        parser.receive_data(head)
        event = parser.next_event()
        if not isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            return Reading(refused="not seen")
        parser.receive_data(body_of(ours))
        last: object = event
        while isinstance(last, h11.Request | h11.Response | h11.Data):
            last = parser.next_event()
    except h11.RemoteProtocolError as error:
        return Reading(refused=str(error))
    first = (event.method, event.target) if isinstance(event, h11.Request) else (event.status_code,)
    version = event.http_version.decode()
    fields = [(name, value) for name, value in event.headers]
    ends = isinstance(last, h11.EndOfMessage) or isinstance(event, h11.InformationalResponse)
    goes_on = parser.their_state is not h11.MUST_CLOSE or version == "1.0"  # there it never goes on
    return Reading((*first, version), fields, ends, goes_on)


READERS: dict[str, Callable[..., Reading]] = {"llhttp": by_llhttp, "h11": by_h11}


# ---- comparing ----
def differences(ours: Request | Response, theirs: Reading) -> list[str]:
    """In what another reading is not ours."""
    minor = f"1.{ours.minor}"
    first = (ours.method, ours.target, minor) if isinstance(ours, Request) else (ours.status, minor)
    found = []
    if theirs.first != first:
        found.append(f"first line {theirs.first}")
    passed = [(name.lower(), value.strip(b" \t")) for name, value in ours.passed]
    rest = iter(theirs.fields)
    if not all(pair in rest for pair in passed):
        found.append(f"fields {theirs.fields}")
    read = ours.fields.items() if isinstance(ours, Request) else ()
    found += [
        f"{name.decode()} is {value!r}"
        for name, value in read
        if _words(b",".join(said for key, said in theirs.fields if key == name)) != _words(value)
    ]
    framed = isinstance(ours, Request) or ours.bodyless or ours.chunked or ours.length is not None
    if framed and not theirs.ends:
        found.append("another end of the message")
    if ours.keep_alive and framed and not theirs.goes_on:
        found.append("closes where we go on")
    return found


def _words(value: bytes) -> list[bytes]:
    return [word.strip(b" \t").lower() for word in value.split(b",")]


def compare(chance: random.Random, counted: Counter[str], kind: str) -> None:
    head = request_of(chance) if kind == "request" else response_of(chance)
    method = chance.choice([b"GET", b"HEAD"])
    counted["made"] += 1
    try:
        end = head_end(head, 0, status=400 if kind == "request" else 502)
        if end < 0:
            return
        head = head[:end]
        ours = parse_request(head) if kind == "request" else parse_response(head, method)
    except Refused:
        return
    counted["accepted"] += 1
    for name, read in READERS.items():
        theirs = read(head, ours, method)
        if theirs.refused:
            assert (name, theirs.refused) in DIFFERENT, f"{name} refuses {head!r}: {theirs.refused}"
            counted[f"{name}: {theirs.refused}"] += 1
        else:
            assert not (other := differences(ours, theirs)), f"{name} reads {head!r} otherwise: {other}"


def compare_many(kind: str, number: int, seed: int) -> Counter[str]:
    chance, counted = random.Random(seed), Counter[str]()
    for _ in range(number):
        compare(chance, counted, kind)
    print(kind, dict(counted))
    return counted


@pytest.mark.parametrize("kind", ["request", "response"])
def test_what_we_accept_others_read_as_we_do(kind: str) -> None:
    counted = compare_many(kind, 4_000, 1)
    assert counted["accepted"] > 400


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["request", "response"])
def test_what_we_accept_of_a_million_others_read_as_we_do(kind: str) -> None:
    assert compare_many(kind, 500_000, 2)["accepted"] > 50_000
