"""Where the fuzzer begins: the conformance list, and scripts of ordinary and of broken exchanges."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.machine import END
from tests.gateway.conformance import CHUNKS, GET, HANDSHAKES, NEVER, OK, POST, REFUSED, SENSELESS, STATUS_LINES

_SMALL = 2048
_GET = b"cGET / HTTP/1.1\r\n{h}\r\n{c}\r\n\r\n"
_OK = b"uHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_POST = b"cPOST / HTTP/1.1\r\n{h}\r\n{c}\r\n"
_HANDSHAKE = (
    b"cGET /ws HTTP/1.1\r\n{h}\r\n{c}\r\nOrigin: http://alpha1234.apps.localhost:8000\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_SWITCH = (
    b"uHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_SCRIPTS: list[tuple[bytes, ...]] = [
    (_GET, _OK),
    (_GET, _OK, _GET, _OK, b"iHTTP/1.1 200 OK\r\n\r\n", _GET, _OK),
    (_GET + _GET[1:] + _GET[1:], _OK, _OK, _OK),
    (_GET + _GET[1:], b"C"),
    (b"cGET / HTTP/1.1\r\n{p}\r\n\r\n", _OK, b"C"),
    (b"cGET / HTTP/1.1\r\n{h}\r\n\r\n",),
    (b"B", b"c" + b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n" * 40, b"D"),
    (
        b"cGET / HTTP/1.0\r\n{h}\r\n{c}\r\n\r\n",
        b"uHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (b"cHEAD / HTTP/1.1\r\n{h}\r\n{c}\r\n\r\n", b"uHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", _GET, _OK),
    (_POST + b"Content-Length: 5\r\n\r\nhello", _OK, _GET, _OK),
    (_POST + b"Content-Length: 5\r\n\r\nhe", _OK, b"cllo"),
    (_POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"chello", _OK),
    (_POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"c1\r\nc\r\n0\r\nX: y\r\n\r\n", _OK),
    (_POST + b"Transfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n",),
    (_POST + b"Content-Length: 400\r\n\r\nhe", b"t\x20", b"t\x40"),
    (b"h", _POST + b"Content-Length: 2\r\n\r\nok", b"o", _OK),
    (b"h", _GET, b"f"),
    (b"h", _GET, b"C", b"o"),
    (_GET, b"uHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", _OK),
    (_GET, b"uHTTP/1.1 204 No Content\r\n\r\nextra", _GET, _OK),
    (_GET, b"uHTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", _GET, _OK),
    (_GET, b"uHTTP/1.0 200 OK\r\n\r\nall", b"uof it", b"E"),
    (_GET, b"uHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"E"),
    (_GET, b"uHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"X"),
    (_GET, b"uHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", _GET, _OK),
    (
        _GET,
        b"uHTTP/1.1 200 OK\r\nSet-Cookie: a=1; Domain=x\r\nConnection: close, X\r\nX: y\r\nContent-Length: 0\r\n\r\n",
    ),
    (_GET, b"uHTTP/1.1 302 Found\r\nLocation: http://localhost:8000/\r\nContent-Length: 0\r\n\r\n"),
    (_GET, b"E"),
    (_GET, _OK, _GET, b"E", _OK),
    (_GET, b"t\xff"),
    (_GET, b"uHTTP/1.1 200 OK\r\n", b"t\xff"),
    (_GET, _OK, b"t\x40"),
    (b"cGET / HT", b"t\x08"),
    (_GET, b"W"),
    (_HANDSHAKE, _SWITCH + b"first", b"cping", b"upong", b"C"),
    (_HANDSHAKE + b"early", b"b", _SWITCH, b"cmore" * 200, b"cmore" * 200, b"d"),
    (_HANDSHAKE, _SWITCH, b"B", b"u" + b"x" * 600, b"u" + b"x" * 600, b"E", b"t\xff"),
    (_HANDSHAKE, b"uHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    (_HANDSHAKE, b"uHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", _GET, _OK),
    (b"B", _GET, b"uHTTP/1.1 200 OK\r\nContent-Length: 1200\r\n\r\n" + b"x" * 600, b"u" + b"x" * 600, _GET, b"D", _OK),
    (b"b", _POST + b"Content-Length: 1200\r\n\r\n" + b"x" * 600, b"b", b"c" + b"x" * 600, b"d", _OK),
]


def _heads() -> Iterator[bytes]:
    for lines in NEVER.values():
        yield b"q" + POST + lines + b"\r\n"
        yield b"sG" + OK + lines + b"\r\n"
    yield from (b"q" + head for head, _ in REFUSED)
    yield from (b"q" + GET + lines + b"\r\n" for lines in HANDSHAKES)
    yield from (
        b"q" + GET + lines + b"\r\n" for lines in (b"", b"Upgrade: h2c\r\n", b"Connection: a, close\r\nA: b\r\n")
    )
    yield b"q" + _HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")[1:]
    yield from (
        b"q" + POST + lines + b"\r\n" for lines in (b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n")
    )
    yield from (b"sG" + line + b"\r\n\r\n" for line in STATUS_LINES)
    yield from (b"s" + which + OK + b"Content-Length: 5\r\n\r\n" for which in (b"G", b"H"))


def seeds() -> list[bytes]:
    """Return them all; what is as large as the limits is the suite's business."""
    found = [*_heads(), *(b"b" + start for start in CHUNKS)]
    found += [b"b05\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET", b"b0\r\nX: y\r\n\r\n"]
    found += [b"x" + _GET + END + b"u" + response for response in SENSELESS]
    found += [b"x" + END.join(script) for script in _SCRIPTS]
    return [seed for seed in dict.fromkeys(found) if len(seed) <= _SMALL]
