"""Strict HTTP/1.1: what is ambiguous is refused on both sides, and nothing is repaired."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.gateway.bodies import ChunkedBody, CountedBody, Refused
from instances.gateway.http1 import (
    HEAD_LIMIT,
    LINE_LIMIT,
    build,
    check_first_line,
    head_end,
    parse_request,
    parse_response,
)
from tests.gateway.conformance import CHUNKS, GET, HANDSHAKES, NEVER, OK, POST, REFUSED, STATUS_LINES


@pytest.mark.parametrize("lines", NEVER.values(), ids=NEVER.keys())
def test_a_request_with_this_is_400(lines: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(POST + lines + b"\r\n")
    assert refused.value.status == 400


@pytest.mark.parametrize("lines", NEVER.values(), ids=NEVER.keys())
def test_a_response_with_this_is_502(lines: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_response(OK + lines + b"\r\n", b"GET")
    assert refused.value.status == 502


@pytest.mark.parametrize(("head", "status"), REFUSED)
def test_this_request_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(head)
    assert refused.value.status == status


@pytest.mark.parametrize("lines", HANDSHAKES)
def test_a_bad_handshake_is_refused(lines: bytes) -> None:
    with pytest.raises(Refused):
        parse_request(GET + lines + b"\r\n")


@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"websocket, h2c", b"foo"])
def test_any_other_upgrade_is_forgotten(protocol: bytes) -> None:
    request = parse_request(
        GET + b"Upgrade: " + protocol + b"\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n"
    )
    assert not request.websocket
    assert request.passed == []


@pytest.mark.parametrize(
    "name",
    [
        b"X-Forwarded-Host",
        b"X-Forwarded-Proto",
        b"X_Forwarded_For",
        b"Forwarded",
        b"X-Real-IP",
        b"X-Remote-User",
        b"Remote-User",
        b"Remote_User",
        b"X-Request-Id",
        b"X-Original-URL",
        b"X-Rewrite-URL",
        b"X-HTTP-Method-Override",
        b"Proxy-Authorization",
        b"Proxy",
        b"Via",
        b"Keep-Alive",
        b"TE",
        b"Trailer",
    ],
)
def test_what_only_a_proxy_may_say_is_dropped(name: bytes) -> None:
    assert parse_request(GET + name + b": x\r\n\r\n").passed == []


def test_what_connection_names_is_dropped() -> None:
    request = parse_request(GET + b"X-A: 1\r\nConnection: close, X-A\r\nX-B: 2\r\n\r\n")
    assert request.passed == [(b"X-B", b"2")]
    assert not request.keep_alive


@pytest.mark.parametrize("lines", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_204_that_announces_a_body_ends_its_connection(lines: bytes) -> None:
    assert parse_response(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"GET").keep_alive
    assert not parse_response(b"HTTP/1.1 204 No Content\r\n" + lines + b"\r\n", b"GET").keep_alive


def test_an_upgrade_that_connection_does_not_name_is_none() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    assert parse_response(switch + b"Connection: Upgrade\r\n\r\n", b"GET").upgrade == b"websocket"
    for lines in (b"\r\n", b"Connection: close\r\n\r\n"):
        with pytest.raises(Refused):
            parse_response(switch + lines, b"GET")


def test_what_is_remembered_of_a_section_is_for_its_method_and_version_alone() -> None:
    handshake = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    section = handshake + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for target in (b"/a", b"/b"):
        request = parse_request(b"GET " + target + b" HTTP/1.1\r\n" + section)
        assert request.websocket
        assert request.target == target
    for line in (b"POST /a HTTP/1.1\r\n", b"GET /a HTTP/1.0\r\n"):
        with pytest.raises(Refused):
            parse_request(line + section)
    for minor, keep in ((1, True), (0, False), (1, True)):
        assert parse_request(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor).keep_alive is keep


@pytest.mark.parametrize("line", [b"A:" + b" " * 60_000, b"A" * 60_000, b"A: " + b"x " * 30_000])
def test_long_nonsense_is_read_once(line: bytes) -> None:
    """Read again from every byte on, it would take longer than a test may."""
    with pytest.raises(Refused, match="malformed field"):
        parse_request(GET + line + b"\x01\r\n\r\n")


@pytest.mark.parametrize("target", [b"/%2F%20%25", b"/?a=%0d%0a", b"/%00", b"/a//../%2e%2e;x=1"])
def test_targets_pass_byte_for_byte(target: bytes) -> None:
    assert parse_request(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n").target == target


def test_keep_alive_follows_the_version() -> None:
    assert parse_request(GET + b"\r\n").keep_alive
    assert not parse_request(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").keep_alive
    assert parse_request(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n").keep_alive
    assert not parse_request(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n").keep_alive


@pytest.mark.parametrize("line", STATUS_LINES)
def test_a_malformed_status_line_is_502(line: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_response(line + b"\r\n\r\n", b"GET")
    assert refused.value.status == 502


@pytest.mark.parametrize(
    ("head", "method"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", b"HEAD"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"HEAD"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET"),
        (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", b"GET"),
    ],
)
def test_these_responses_have_no_body_whatever_they_say(head: bytes, method: bytes) -> None:
    assert parse_response(head, method).body(bare=False).done


def test_a_response_without_length_lasts_until_the_end() -> None:
    body = parse_response(OK + b"\r\n", b"GET").body(bare=False)
    assert body.until_close
    assert not body.done


# ---- finding the head ----
@pytest.mark.parametrize("step", range(1, 28))
def test_a_head_is_found_however_it_is_cut(step: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    seen = 0
    for end in [*range(step, len(head), step), len(head)]:
        assert head_end(head[:end], seen) == (-1 if end < len(head) else len(head))
        seen = end


def test_a_bare_line_feed_is_found_however_it_is_cut() -> None:
    with pytest.raises(Refused):
        head_end(b"GET / HTTP/1.1\r\nHost: a\n", 23)


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET /" + b"a" * LINE_LIMIT, 414),
        (b"GET /" + b"a" * LINE_LIMIT + b" HTTP/1.1\r\n", 414),
        (GET + b"X: a\r\n" * (HEAD_LIMIT // 6), 431),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400),
    ],
)
def test_what_can_never_become_a_head_is_refused_early(start: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        head_end(start, 0)
    assert refused.value.status == status


@pytest.mark.parametrize("start", [b"\x16\x03\x01\x02\x00\r\n", b"GET /\r\n", b"PRI * HTTP/2.0\r\n", b"SSH-2.0-x\r\n"])
def test_another_protocol_is_refused_at_its_first_line(start: bytes) -> None:
    with pytest.raises(Refused):
        check_first_line(start)


# ---- bodies ----
def feed(body: ChunkedBody, data: bytes, step: int) -> tuple[bytes, bytes]:
    out = b""
    for start in range(0, len(data), step):
        part, rest = body.feed(data[start : start + step])
        out += part
        if body.done:
            return out, rest + data[start + step :]
    return out, b""


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_chunks_are_written_anew_without_trailers(step: int) -> None:
    data = b"05\r\nhello\r\n1\r\n!\r\n000\r\nX-Trailer: evil\r\nCookie: a=b\r\n\r\nGET /next"
    assert feed(ChunkedBody(400), data, step) == (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"GET /next")
    assert feed(ChunkedBody(400, bare=True), data, step) == (b"hello!", b"GET /next")


@pytest.mark.parametrize("step", [1, 4, 1000])
@pytest.mark.parametrize("data", CHUNKS)
def test_a_bad_chunk_is_refused(data: bytes, step: int) -> None:
    with pytest.raises(Refused):
        feed(ChunkedBody(400), data, step)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 20), st.binary(max_size=20))
def test_any_chunked_body_comes_out_as_it_went_in(parts: list[bytes], step: int, behind: bytes) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert feed(ChunkedBody(400), data + behind, step) == (data, behind)
    assert feed(ChunkedBody(400, bare=True), data + behind, step) == (b"".join(parts), behind)


@given(st.integers(0, 50), st.binary(max_size=80))
def test_a_counted_body_ends_at_its_count(length: int, data: bytes) -> None:
    body = CountedBody(length)
    assert body.feed(data) == (data[:length], data[length:])
    assert body.done == (len(data) >= length)


@given(st.binary(max_size=300))
def test_no_bytes_whatever_break_the_parsers(data: bytes) -> None:
    for head in (data + b"\r\n\r\n", GET + data + b"\r\n\r\n"):
        try:
            request = parse_request(head)
        except Refused:
            continue
        assert b"\r" not in build(b"", request.passed, b"").replace(b"\r\n", b"")
    with contextlib.suppress(Refused):
        parse_response(OK + data + b"\r\n\r\n", b"GET")


@given(
    st.lists(st.sampled_from([*NEVER.values(), b"X: 1\r\n", b"Content-Length: 3\r\n", b"Cookie: a=b\r\n"]), max_size=4)
)
def test_a_rebuilt_request_reads_the_same(lines: list[bytes]) -> None:
    try:
        first = parse_request(POST + b"".join(lines) + b"\r\n")
    except Refused:
        return
    again = parse_request(build(b"POST / HTTP/1.1", [(b"Host", first.host), *first.passed], b""))
    assert again.passed == first.passed
