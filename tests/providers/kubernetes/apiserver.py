"""A server that answers what a test has written down, for answers that a real API server cannot be brought to give."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from instances.providers.kubernetes.client import Cluster
from tests.providers.kubernetes.objects import site

#: method, path, query → status and body, or an iterator of the lines of a watch
Script = Callable[[str, str, dict[str, str]], "tuple[int, bytes | Iterator[bytes]]"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = urlsplit(self.path)
        self.server.asked.append((self.command, path.path, self.headers, body))
        status, answer = self.server.script(self.command, path.path, dict(parse_qsl(path.query)))
        self.send_response(status)
        if isinstance(answer, bytes):
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in answer:
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.ahead)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.ahead = 0.0
        self.asked: list[tuple[str, str, Message, bytes]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def serving(script: Script, folder: Path) -> Iterator[tuple[Server, Cluster]]:
    """Serve a script, and give a cluster whose kubeconfig names it."""
    server = Server(script)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    config = folder / "kubeconfig"
    write_config(config, server, "first-token")
    try:
        yield server, Cluster(site(kubeconfig=str(config)))
    finally:
        server.shutdown()
        server.server_close()


def write_config(path: Path, server: Server, token: str) -> None:
    address = f"http://127.0.0.1:{server.server_address[1]}"
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": address}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
