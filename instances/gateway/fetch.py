"""A small client for our own questions: to the portal's internal address, and probes of instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from instances.gateway.bodies import Refused
from instances.gateway.http1 import HEAD_LIMIT, Fields, Response, build, head_end, parse_response
from instances.gateway.upstream import Endpoint, open_socket, peer_uid

_READ = 64 * 1024


@dataclass(frozen=True)
class Reply:
    status: int
    content: bytes


class _Connection:
    """One request on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""

    async def ask(self, method: str, target: str, fields: Fields, content: bytes) -> Response:
        own = b"Connection: close\r\n" + (b"Content-Length: %d\r\n" % len(content) if method != "GET" else b"")
        self._writer.write(build(f"{method} {target} HTTP/1.1".encode(), fields, own) + content)
        data = b""
        while True:
            end = head_end(data, 0, status=502)
            if end >= 0:
                response = parse_response(data[:end], method.encode())
                data = data[end:]
                if response.status >= 200:
                    self._rest = data
                    return response
                continue
            more = await self._reader.read(HEAD_LIMIT)
            if not more:
                raise Refused(502, "no response")
            data += more

    async def parts(self, response: Response) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        body = response.body(bare=True)
        data, self._rest = self._rest, b""
        while True:
            if data:
                out, _behind = body.feed(data)
                if out:
                    yield out
            if body.done:
                return
            data = await self._reader.read(_READ)
            if not data:
                if body.until_close:
                    return
                raise Refused(502, "cut response")


@asynccontextmanager
async def _connection(
    endpoint: Endpoint, may_serve: Callable[[int], bool] | None, on_peer: Callable[[int], None] | None
) -> AsyncIterator[_Connection]:
    sock = await open_socket(endpoint, may_serve)
    if on_peer is not None and endpoint.path:
        on_peer(peer_uid(sock))
    connect = asyncio.open_unix_connection if endpoint.path else asyncio.open_connection
    reader, writer = await connect(sock=sock)
    try:
        yield _Connection(reader, writer)
    finally:
        writer.transport.abort()


async def fetch(
    endpoint: Endpoint,
    method: str,
    target: str,
    fields: Fields,
    content: bytes = b"",
    *,
    timeout: float,
    limit: int,
    may_serve: Callable[[int], bool] | None = None,
) -> Reply:
    """Ask once; raises OSError, TimeoutError or Refused. `limit` bounds what is read of the answer."""
    async with asyncio.timeout(timeout), _connection(endpoint, may_serve, None) as connection:
        response = await connection.ask(method, target, fields, content)
        content = b""
        async for part in connection.parts(response):
            content += part
            if len(content) > limit:
                raise Refused(502, "answer too long")
        return Reply(response.status, content)


async def lines(
    endpoint: Endpoint, target: str, fields: Fields, *, silence: float, limit: int, on_peer: Callable[[int], None]
) -> AsyncIterator[bytes]:
    """Yield the lines of an endless answer; raises TimeoutError after `silence` seconds without one."""
    async with _connection(endpoint, None, on_peer) as connection:
        async with asyncio.timeout(silence):
            response = await connection.ask("GET", target, fields, b"")
        if response.status != 200:
            raise Refused(502, f"the portal answered {response.status}")
        parts = connection.parts(response)
        rest = b""
        while True:
            async with asyncio.timeout(silence):
                part = await anext(parts, b"")
            if not part:
                return
            *whole, rest = (rest + part).split(b"\n")
            if len(rest) > limit:
                raise Refused(502, "line too long")
            for line in whole:
                yield line
