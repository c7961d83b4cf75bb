"""Where a message's body ends: counted, chunked, until the connection closes, or not at all."""

from __future__ import annotations

import re
from typing import Protocol

TRAILER_LIMIT = 8 * 1024
#: characters that may stand in a line of a head or of trailers
TEXT = bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100)) + b"\t"
#: no back end counts a chunk's size past 63 bits
_CHUNK_DIGITS = 15
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,%d}" % _CHUNK_DIGITS)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
#: fields that no trailer may be, for they would frame the message a second time (RFC 9110 §6.5.1)
_FRAMING = (b"content-length", b"transfer-encoding")


class Refused(Exception):
    """A message that is not passed on; `status` is what the client is told, `reason` one short sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Body(Protocol):
    """Where a message's body ends. `feed` returns what to pass on and what lies behind the end."""

    done: bool
    #: whether the end of the connection is a proper end
    until_close: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]: ...


class NoBody:
    __slots__ = ()
    done = True
    until_close = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return b"", data


NO_BODY = NoBody()


class CountedBody:
    """A body of `Content-Length` bytes."""

    __slots__ = ("_left", "done")
    until_close = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        size = len(data)
        if size <= self._left:
            self._left -= size
            self.done = self._left == 0
            return data, b""
        left, self._left, self.done = self._left, 0, True
        return data[:left], data[left:]


class OpenBody:
    """A response's body that lasts as long as its connection."""

    __slots__ = ()
    done = False
    until_close = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class ChunkedBody:
    """A chunked body: each size line checked and written anew, extensions refused, trailers dropped (and
    refused where they would frame the message again).

    `bare` passes on the content alone, for a client that does not know chunks.
    """

    __slots__ = ("_bare", "_rest", "_size", "_status", "_trailer", "_where", "done")
    until_close = False
    _SIZE, _DATA, _GAP, _TRAILER = range(4)

    def __init__(self, status: int, *, bare: bool = False) -> None:
        self._status = status
        self._bare = bare
        self._rest = b""
        self._size = 0
        self._trailer = 0
        self._where = self._SIZE
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if self._rest:
            data, self._rest = self._rest + data, b""
        out: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._where == self._DATA:
                at = self._content(data, at, out)
            else:
                end = data.find(b"\n", at)
                if end < 0:
                    self._hold(data[at:])
                    return b"".join(out), b""
                self._line(data[at : end + 1], out)
                at = end + 1
        return b"".join(out), data[at:]

    def _content(self, data: bytes, at: int, out: list[bytes]) -> int:
        piece = data[at : at + self._size]
        out.append(piece)
        self._size -= len(piece)
        if self._size == 0:
            self._where = self._GAP
        return at + len(piece)

    def _hold(self, start: bytes) -> None:
        """Keep the start of a line for the next read, when it can still become a proper one."""
        limit = {self._SIZE: _CHUNK_DIGITS + 1, self._GAP: 1}.get(self._where, TRAILER_LIMIT)
        if len(start) > limit or (self._where == self._SIZE and not _CHUNK_SIZE.match(start.rstrip(b"\r") or b"0")):
            raise Refused(self._status, "bad chunk")
        self._rest = start

    def _line(self, line: bytes, out: list[bytes]) -> None:
        if not line.endswith(b"\r\n"):
            raise Refused(self._status, "bare line feed in a chunked body")
        text = line[:-2]
        if self._where == self._SIZE:
            if not _CHUNK_SIZE.fullmatch(text):
                raise Refused(self._status, "bad chunk size")
            self._size = int(text, 16)
            if self._size:
                self._where = self._DATA
                if not self._bare:
                    out.append(b"%x\r\n" % self._size)
            else:
                self._where = self._TRAILER
        elif self._where == self._GAP:
            if text:
                raise Refused(self._status, "chunk longer than its size")
            self._where = self._SIZE
            if not self._bare:
                out.append(b"\r\n")
        else:
            self._drop_trailer(text, out)

    def _drop_trailer(self, text: bytes, out: list[bytes]) -> None:
        self._trailer += len(text) + 2
        if self._trailer > TRAILER_LIMIT or (text and not _TRAILER.fullmatch(text)):
            raise Refused(self._status, "bad trailer")
        if text.partition(b":")[0].lower() in _FRAMING:
            raise Refused(self._status, "framing in a trailer")
        if not text:
            self.done = True
            if not self._bare:
                out.append(b"0\r\n\r\n")
