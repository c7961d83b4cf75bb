"""Questions to a process from outside: does it answer? (standard library only)"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def loopback_https(host: str, port: int, *, timeout: float) -> http.client.HTTPConnection:
    """HTTPS to our own gateway by its address, which no certificate names: whether it answers is all that is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def http_ok(connect: Callable[[], http.client.HTTPConnection], path: str, host: str) -> Callable[[], bool]:
    """A question to ask until it is answered with 200."""
    return _http(connect, path, host, lambda status: status == 200)


def http_any(connect: Callable[[], http.client.HTTPConnection], path: str, host: str) -> Callable[[], bool]:
    """A question that any answer is good enough for: the process is there and thinks."""
    return _http(connect, path, host, lambda status: True)


def _http(
    connect: Callable[[], http.client.HTTPConnection], path: str, host: str, good: Callable[[int], bool]
) -> Callable[[], bool]:
    def ask() -> bool:
        connection = connect()
        try:
            connection.request("GET", path, headers={"Host": host})
            return good(connection.getresponse().status)
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ask


def pong(path: Path) -> Callable[[], bool]:
    """Whether the supervisor answers its ping."""

    def ask() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(path))
                connection.sendall(b'{"id": 1, "op": "ping"}\n')
                with connection.makefile("rb") as answers:
                    return bool(json.loads(answers.readline() or b"{}").get("ok"))
        except (OSError, ValueError):
            return False

    return ask
