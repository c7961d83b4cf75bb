"""What the fuzzer calls with any bytes: heads, chunked bodies, whole exchanges, each beside h11 as a second opinion.

What is passed on must be read by h11 as it was read by us, before and after; what h11 refuses must not be passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import h11

from instances.gateway import headers
from instances.gateway.bodies import ChunkedBody, Refused
from instances.gateway.http1 import Request, build, check_first_line, head_end, parse_request, parse_response
from tests.fuzz.machine import Broken, Machine, Run, Transport

_ROOM = 2**20
_SAFE = (b"GET", b"HEAD", b"OPTIONS")
#: stands in every answer of the gateway's own
_OWN = b"default-src 'none'; style-src 'sha256-"


def one(data: bytes) -> None:
    """The first letter says what the rest is."""
    target = TARGETS.get(data[:1])
    if target is not None:
        target(bytes(data[1:]))


# ---- request heads ----
def _request(data: bytes, step: int) -> Request | None:
    """Read the first head as a connection does, `step` bytes at a time; None: not complete, or refused."""
    seen = 0
    for end in [*range(step, len(data), step), len(data)]:
        try:
            size = head_end(data[:end], seen)
            if size >= 0:
                return parse_request(data[:size])
            check_first_line(data[:end])
        except Refused:
            return None
        seen = end
    return None


def request_head(data: bytes) -> None:
    request = _request(data, len(data) or 1)
    for step in (1, 7):
        pieces = _request(data, step)
        if (request is None) != (pieces is None):
            raise Broken("another decision when it comes in pieces")
    if request is None:
        return
    theirs = _first_request(data)
    _same(request, theirs)
    line = b"%b %b HTTP/1.1" % (request.method, request.target)
    rebuilt = build(line, headers.request_to_portal(request), headers.framing(request))
    _same(request, _first_request(rebuilt))
    if rebuilt.lower().count(b"\r\ncontent-length:") + rebuilt.lower().count(b"\r\ntransfer-encoding:") > 1:
        raise Broken("more than one framing field")


def _first_request(data: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
    server.receive_data(data)
    event = server.next_event()
    if not isinstance(event, h11.Request):
        raise Broken("h11 sees no request")
    return event


def _same(ours: Request, theirs: h11.Request) -> None:
    fields = dict(theirs.headers)
    if (ours.method, ours.target) != (theirs.method, theirs.target):
        raise Broken("another request")
    if ours.chunked != (b"transfer-encoding" in fields):
        raise Broken("another framing")
    # a request without a length has none to come (RFC 9112 §6.3), so that an upgrade need not repeat "0"
    if (ours.length or 0) != int(fields.get(b"content-length", 0)):
        raise Broken("another length")


# ---- response heads ----
def response_head(data: bytes) -> None:
    """The first byte chooses the request's method."""
    method = b"HEAD" if data[:1] == b"H" else b"GET"
    data = data[1:]
    try:
        end = head_end(data, 0, status=502)
        if end < 0:
            return
        response = parse_response(data[:end], method)
    except Refused:
        return
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ROOM)
    client.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data[:end])
    event = client.next_event()
    if not isinstance(event, h11.Response | h11.InformationalResponse) or event.status_code != response.status:
        raise Broken("another response")
    fields = dict(event.headers)
    if response.chunked != (b"transfer-encoding" in fields):
        raise Broken("another framing")
    if response.length != (int(fields[b"content-length"]) if b"content-length" in fields else None):
        raise Broken("another length")


# ---- chunked bodies ----
def _chunks(data: bytes, step: int, *, bare: bool) -> tuple[bytes, bytes, bool, bool]:
    """Return what is passed on, what is left, whether the body is done, and whether it was refused."""
    body, out = ChunkedBody(400, bare=bare), b""
    for start in range(0, len(data), step):
        try:
            part, rest = body.feed(data[start : start + step])
        except Refused:
            return out, b"", False, True
        out += part
        if body.done:
            return out, rest + data[start + step :], True, False
    return out, b"", body.done, False


def chunked(data: bytes) -> None:
    for bare in (False, True):
        out, rest, done, refused = _chunks(data, len(data) or 1, bare=bare)
        for step in (1, 5):
            pieces = _chunks(data, step, bare=bare)
            if pieces[3] != refused or pieces[2] != done or (done and pieces[:2] != (out, rest)):
                raise Broken("another body when it comes in pieces")
            if not pieces[0].startswith(out):
                raise Broken("other content when it comes in pieces")
        if done:
            _same_body(data, out, rest, bare=bare)


def _same_body(data: bytes, out: bytes, rest: bytes, *, bare: bool) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    content, behind = _body(head + data)
    if behind != rest:
        raise Broken("another end of the body")
    if content != (out if bare else _body(head + out)[0]):
        raise Broken("another body")


def _body(message: bytes) -> tuple[bytes, bytes]:
    """Return a request's content and what lies behind it, as h11 reads it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
    server.receive_data(message)
    content = b""
    while not isinstance(event := server.next_event(), h11.EndOfMessage):
        if event in (h11.NEED_DATA, h11.PAUSED):
            raise Broken("h11 sees no end")
        if isinstance(event, h11.Data):
            content += event.data
    return content, server.trailing_data[0]


# ---- whole exchanges ----
@dataclass
class Message:
    """A request or a response as h11 reads it."""

    start: tuple[object, ...]
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = False
    upgrade: bool = field(default=False)


def _requests(data: bytes) -> list[Message]:
    """Read requests until they end, or until h11 refuses one."""
    found: list[Message] = []
    while data:
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
        server.receive_data(data)
        message = None
        try:
            while not isinstance(event := server.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    fields = list(event.headers)
                    upgrade = any(name == b"upgrade" for name, _ in fields)
                    start = (event.method, event.target, dict(fields).get(b"host"))
                    message = Message(start, fields, upgrade=upgrade)
                    found.append(message)
                elif isinstance(event, h11.Data) and message is not None:
                    message.body += bytes(event.data)
                else:
                    return found
        except h11.RemoteProtocolError:
            return found
        if message is None:
            return found
        message.whole = True
        data = server.trailing_data[0]
    return found


def _responses(data: bytes, methods: list[bytes], *, closed: bool) -> tuple[list[Message], bytes]:
    """Read the responses to requests of these methods; raises what h11 raises. Returns what is left as well."""
    found: list[Message] = []
    for method in methods:
        if not data:
            break
        message, data = _response(data, method, closed=closed)
        if message is not None:
            found.append(message)
        if message is None or not message.whole or message.start == (101,):
            break
        if message.start >= (400,) and _is_own(message):
            return found, b""  # the last word, with a body even to a HEAD that was no request
    return found, data


def _response(data: bytes, method: bytes, *, closed: bool) -> tuple[Message | None, bytes]:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ROOM)
    fields = [(b"Host", b"a"), (b"Connection", b"upgrade"), (b"Upgrade", b"websocket")]
    client.send(h11.Request(method=method, target=b"/", headers=fields))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if closed:
        client.receive_data(b"")
    message: Message | None = None
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            message = Message((event.status_code,), list(event.headers))
        elif isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                return Message((101,), list(event.headers), whole=True), client.trailing_data[0]
        elif isinstance(event, h11.Data) and message is not None:
            message.body += bytes(event.data)
        else:
            return message, data
    if message is not None:
        message.whole = True
    return message, client.trailing_data[0]


def _is_own(message: Message) -> bool:
    return any(_OWN in value for _, value in message.fields)


@cache
def machine() -> Machine:
    return Machine()


def exchange(data: bytes) -> None:
    whole = machine().run(data)
    forwarded = _check(whole)
    pieces = machine().run(data, piece=1 + len(data) % 5)
    again = _check(pieces)
    if not whole.disturbed:
        size = min(len(forwarded), len(again))
        if [one.start for one in forwarded[:size]] != [one.start for one in again[:size]]:
            raise Broken("other requests when they come in pieces")
        # with more than one, what a back end adds to its response may come before or after the next request
        if whole.refused != pieces.refused and len(_requests(bytes(whole.front.got))) <= 1:
            raise Broken("another decision when it comes in pieces")


def _check(run: Run) -> list[Message]:
    """Compare what went in with what came out; returns the requests that were forwarded, in order."""
    asked = _requests(bytes(run.front.got))
    forwarded: list[Message] = []
    at = 0
    for back in run.backs.made:
        sent = bytes(back.transport.out[: back.transport.tunnel_at])
        requests = _requests(sent)
        for number, request in enumerate(requests):
            at = _asked_for(asked, request, at, last=number == len(requests) - 1)
            _framed_once(request)
            if back.instance:
                _allowed(run.machine.cookie, asked[at - 1], request)
            forwarded.append(request)
        if sent and not requests:
            raise Broken("a back end got no request")
        if back.transport.tunnel_at is not None:
            _passed(run.front, back.transport)
            _passed(back.transport, run.front)
    _check_responses(run, asked)
    return forwarded


def _passed(source: Transport, target: Transport) -> None:
    """What one end of a tunnel was sent is what came from the other, nothing else and nothing left out between."""
    if bytes(target.out[target.tunnel_at :]) not in bytes(source.got):
        raise Broken("other bytes in the tunnel")


def _asked_for(asked: list[Message], request: Message, at: int, *, last: bool) -> int:
    """Find the client's request that this one is; returns the place behind it."""
    again = max(at - 1, 0) if request.start[0] in _SAFE else at  # may be sent a second time
    for place in range(again, len(asked)):
        body = asked[place].body
        same_body = body == request.body or (last and body.startswith(request.body))
        if asked[place].start == request.start and same_body:
            if request.whole and not asked[place].whole:
                raise Broken("a whole request out of half of one")
            return place + 1
    raise Broken(f"nobody asked for {request.start} with this body")


def _framed_once(request: Message) -> None:
    names = [name for name, _ in request.fields]
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        raise Broken("more than one framing field")
    if names.count(b"host") != 1 or set(names) & {b"te", b"trailer", b"keep-alive", b"expect", b"forwarded"}:
        raise Broken("a field that may not pass")


def _allowed(cookie: bytes, asked: Message, request: Message) -> None:
    """What reached an instance showed the session, and shows the instance's secret alone."""
    fields = dict(asked.fields)
    if cookie not in fields.get(b"cookie", b"") or fields.get(b"host") != b"alpha1234.apps.localhost:8000":
        raise Broken("forwarded without a decision")
    if any(cookie in value for _, value in request.fields):
        raise Broken("the session's cookie reached an instance")
    secrets = [value for name, value in request.fields if name == b"authorization"]
    if len(secrets) != 1 or not secrets[0].startswith(b"token "):
        raise Broken("another secret")


def _check_responses(run: Run, asked: list[Message]) -> None:
    """What the client got is well formed, and as a back end sent it, or our own."""
    methods = [bytes(message.start[0]) for message in asked] + [b"GET"]  # type: ignore[call-overload]
    got, _rest = _responses(bytes(run.front.out), methods, closed=run.front.end_of_ours == "closed")
    run.refused |= any(message.start >= (400,) and _is_own(message) for message in got)
    theirs: list[Message] = []
    for back in run.backs.made:
        wanted = [bytes(one.start[0]) for one in _requests(bytes(back.transport.out))]  # type: ignore[call-overload]
        try:
            for number, size in enumerate(back.returned):
                if _responses(bytes(back.transport.got[:size]), wanted[: number + 1], closed=False)[1]:
                    raise Broken("a connection in doubt in the pool")
            theirs += _responses(bytes(back.transport.got), wanted, closed=back.transport.ended == [None])[0]
        except h11.RemoteProtocolError:
            return  # the rest of this run cannot be told by h11
    for message in got:
        if message.whole and not _is_own(message) and not _came(message, theirs):
            raise Broken(f"nobody answered {message.start}")


def _came(message: Message, theirs: list[Message]) -> bool:
    return any((one.start, one.body, one.whole) == (message.start, message.body, True) for one in theirs)


TARGETS = {b"q": request_head, b"s": response_head, b"b": chunked, b"x": exchange}
