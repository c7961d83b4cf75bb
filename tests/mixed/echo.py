"""What stands behind the instances: each says who it is and repeats what it was asked, on connections kept alive."""

from __future__ import annotations

import asyncio
import contextlib
import json

from instances.gateway.tunnel import accept_of


class Echo:
    """One instance's service on a loopback port of its own."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.port = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                if "upgrade" in fields:
                    key = accept_of(fields["sec-websocket-key"].encode()).decode()
                    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
                    writer.write("\r\n".join([*lines, f"Sec-WebSocket-Accept: {key}", "", ""]).encode())
                    await reader.read()
                    break
                answer = {"marker": self.marker, "asked": head[0].split(" ")[1], "secret": fields.get("authorization")}
                body = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        writer.close()
