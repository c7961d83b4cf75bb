"""What a start without a machine leads to: one server that answers every request of everybody at once.

python -m tests.bench.peers.backend PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-JupyterHub-Version: 0\r\n"
    b'Content-Length: 15\r\n\r\n{"version":"1"}'
)


class Answer(asyncio.Protocol):
    """One answer for each head; nobody sends bodies here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.rest = cast(asyncio.Transport, transport), b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        self.transport.write(_ANSWER * len(heads))


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
