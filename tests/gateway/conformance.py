"""What messages may not be (RFC 9110, 9112, 6455): asked of every part, and where the fuzzer begins."""

from __future__ import annotations

from instances.gateway.http1 import FIELD_COUNT, FIELD_LIMIT

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

#: field lines that no message may have, whichever way it goes
NEVER = {
    "length and coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "two equal lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "two unequal lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "a list of lengths": b"Content-Length: 5, 5\r\n",
    "a signed length": b"Content-Length: +5\r\n",
    "a negative length": b"Content-Length: -5\r\n",
    "a hexadecimal length": b"Content-Length: 0x5\r\n",
    "an empty length": b"Content-Length:\r\n",
    "a length that overflows": b"Content-Length: 99999999999999999999\r\n",
    "an underscore in a length": b"Content-Length: 1_0\r\n",
    "a unicode digit in a length": "Content-Length: ５\r\n".encode(),
    "an unknown coding": b"Transfer-Encoding: gzip\r\n",
    "a coding before chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, gzip\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunked in two fields": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "a coding that ends like chunked": b"Transfer-Encoding: xchunked\r\n",
    "a quoted coding": b'Transfer-Encoding: "chunked"\r\n',
    "a coding with a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "an empty coding": b"Transfer-Encoding:\r\n",
    "vertical tab in a coding": b"Transfer-Encoding: \x0bchunked\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n",
    "a tab before the colon": b"X\t: a\r\n",
    "no name": b": a\r\n",
    "no colon": b"X\r\n",
    "a space in a name": b"X Y: a\r\n",
    "a name that is no token": b"X(: a\r\n",
    "a name beyond ASCII": b"X\xe9: a\r\n",
    "a folded line": b"X: a\r\n b\r\n",
    "a line folded by a tab": b"X: a\r\n\tb\r\n",
    "a folded first line": b" X: a\r\n",
    "a bare line feed": b"X: a\nY: b\r\n",
    "a bare carriage return": b"X: a\rY: b\r\n",
    "two carriage returns": b"X: a\r\r\n",
    "NUL in a value": b"X: a\x00b\r\n",
    "NUL in a name": b"X\x00Y: a\r\n",
    "a control character": b"X: a\x01b\r\n",
    "delete": b"X: a\x7fb\r\n",
    "escape": b"X: \x1b[31m\r\n",
}

#: whole heads of requests that are refused, and with what
REFUSED = [
    (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
    (b"GET / HTTP/1.0\r\n\r\n", 400),
    (GET + b"Host: b\r\n\r\n", 400),
    (GET + b"Host: a\r\n\r\n", 400),
    (GET + b"Cookie: a=1\r\nCookie: b=2\r\n\r\n", 400),
    (GET + b"Origin: http://a\r\nOrigin: http://a\r\n\r\n", 400),
    (GET + b"Authorization: a\r\nAuthorization: b\r\n\r\n", 400),
    (GET + b"Sec-Fetch-Site: same-origin\r\nsec-fetch-site: cross-site\r\n\r\n", 400),
    (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),  # absolute-form
    (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /a%0d%0aX:b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /%0A?b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),  # HTTP/0.9
    (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\n", 400),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (POST + b"Expect: a-biscuit\r\n\r\n", 417),
    (GET + b"Connection: host\r\n\r\n", 400),
    (GET + b"Connection: close, cookie\r\n\r\n", 400),
    (GET + b"Connection: Content-Length\r\nContent-Length: 1\r\n\r\n", 400),
    (GET + b"Connection: origin\r\n\r\n", 400),
    (GET + b"X: " + b"a" * FIELD_LIMIT + b"\r\n\r\n", 431),
    (GET + b"X: a\r\n" * FIELD_COUNT + b"\r\n", 431),
]

#: fields of handshakes that are none
HANDSHAKES = [
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 5\r\n",
]

#: starts of chunked bodies
CHUNKS = [
    b"5;a=b\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\r\nhello\n",
    b"5\r\nhelloX\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"0x5\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"\r\nhello\r\n",
    b"g\r\n",
    b"5\r\r\nhello",
    b"1" * 17 + b"\r\n",
    b"0\r\ncontent-Length: 9\r\n\r\n",
    b"0\r\nX: y\r\nTransfer-Encoding: chun\r\n\r\n",
    b"f" * 40,
    b"0\r\nX: a\nY: b\r\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0\r\nno field\r\n\r\n",
    b"0\r\nX : a\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
    b"1000000000000000\r\n",
    b"0\r\n" + b"X: aaaaaaaa\r\n" * 1000,
    b"0\r\nX" + b"a" * 10_000,
]

STATUS_LINES = [
    b"HTTP/1.1 20 OK",
    b"HTTP/2 200 OK",
    b"HTTP/1.1 200OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 099 X",
    b"ICY 200 OK",
    b"200 OK",
]

#: answers that are answered 502
SENSELESS = [
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200OK\r\n\r\n",
    b"HTTP/2 200 OK\r\n\r\n",
    b"SSH-2.0-x\r\n\r\n",
    b"hello",
    b"",
    b"HTTP/1.1 200 OK\r\nContent-",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nX\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
    b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 20 + b"\r\n",
]
