"""What stands behind every proxy: a server that answers each request at once, echoes WebSocket frames, or plain bytes.

python -m tests.bench.peers.backend PORT [PORT-FOR-PLAIN-BYTES]
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import struct
import sys
from typing import cast

import uvloop

_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-JupyterHub-Version: 0\r\n"
    b'Content-Length: 15\r\n\r\n{"version":"1"}'
)
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
_KEY = re.compile(rb"\r\nSec-WebSocket-Key: *([^\r]+)", re.IGNORECASE)
#: the only message that the benches send: this many bytes, in a masked frame
MESSAGE = 1024
_MASKED = 2 + 2 + 4 + MESSAGE
FRAME = b"\x82\x7e" + struct.pack("!H", MESSAGE) + bytes(MESSAGE)


class Answer(asyncio.Protocol):
    """One answer for each head; nobody sends bodies here. A WebSocket's frames are counted, not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.rest = cast(asyncio.Transport, transport), b""
        self.upgraded, self.count = False, 0

    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            frames, self.count = divmod(self.count + len(data), _MASKED)
            if frames:
                self.transport.write(FRAME * frames)
            return
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for head in heads:
            self.transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        key = _KEY.search(head)
        if key is None:
            return _ANSWER
        self.upgraded = True
        proof = hashlib.sha1(key[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False)
        return _SWITCH % base64.b64encode(proof.digest())


class Echo(asyncio.Protocol):
    """Plain bytes, for a relay that unwraps WebSockets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def main(port: int, plain: int | None = None) -> None:
    loop = asyncio.get_running_loop()
    if plain is not None:
        await loop.create_server(Echo, "127.0.0.1", plain, backlog=4096)
    server = await loop.create_server(Answer, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
