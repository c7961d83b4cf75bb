"""What Jupyter's own server library makes of a request, told back (run by the image's Python, on a unix socket)."""

from __future__ import annotations

import asyncio
import json
import sys
from hashlib import sha256
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler, StaticFileHandler
from tornado.websocket import WebSocketHandler

SEEN: list[str] = []


class Echo(RequestHandler):
    def prepare(self) -> None:
        body = self.request.body
        SEEN.append(f"{self.request.method} {self.request.uri}")
        self.finish(
            {
                "method": self.request.method,
                "target": self.request.uri,
                "size": len(body),
                "body": sha256(body).hexdigest(),
                "fields": sorted([name.lower(), value] for name, value in self.request.headers.get_all()),
            }
        )


class Seen(RequestHandler):
    def get(self) -> None:
        self.finish(json.dumps(SEEN))


class Socket(WebSocketHandler):
    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[-1] if subprotocols else None

    def check_origin(self, origin: str) -> bool:
        return True

    def on_message(self, message: Any) -> None:
        if message == "close":
            self.close(4001, "as asked")
        else:
            self.write_message(message, binary=isinstance(message, bytes))


async def main(path: str, folder: str) -> None:
    rows: list[Any] = [
        (r"/files/(.*)", StaticFileHandler, {"path": folder}),
        (r"/ws", Socket),
        (r"/seen", Seen),
        (r".*", Echo),
    ]
    server = HTTPServer(Application(rows, websocket_max_message_size=2**26), max_buffer_size=2**27)
    server.add_socket(bind_unix_socket(path))
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
