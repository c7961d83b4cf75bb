"""The gateway as an operator runs it: a command with an environment, in front of a harness's portal and back ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from instances.gateway.tunnel import accept_of
from tests.gateway.harness import INSTANCE_KEY, TOKEN, WAIT, Harness, Reply, Wire, request
from tests.ports import free_port

SLUG = "alpha1234"
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_of(_KEY.encode())
)


class Front:
    """A gateway command. Its names are the harness's, its port is its own."""

    def __init__(self, gateway: Harness, **environment: str) -> None:
        self.gateway = gateway
        self.port = free_port()
        self.log_path = gateway.folder / f"front-{self.port}.log"
        settings = {
            "PATH": os.environ["PATH"],
            "BEAMPORT_DEMO": "1",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "GATEWAY_DRAIN_SECONDS": "0.3",
            "PORTAL_URL": gateway.config.portal_url,
            "APPS_DOMAIN": gateway.config.apps_domain,
            "WEB_UPSTREAM": f"unix:{gateway.config.web.path}",
            "INTERNAL_URL": f"unix:{gateway.config.internal.path}",
            "GATEWAY_TOKEN": TOKEN,
            "INSTANCE_KEY": INSTANCE_KEY.decode(),
            **environment,
        }
        self.environment = {name: value for name, value in settings.items() if value}

    def __enter__(self) -> Front:
        with self.log_path.open("ab") as log:
            argv = [sys.executable, "-m", "instances.gateway"]
            self.process = subprocess.Popen(argv, env=self.environment, stderr=log, start_new_session=True)
        self.until(lambda: "link up" in self.log and ("gateway runs" in self.log or not self.many), 30)
        return self

    def __exit__(self, *_exc: object) -> None:
        members = [self.process.pid, *self.children()]
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(WAIT)
        finally:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(WAIT)

    @property
    def many(self) -> bool:
        return "GATEWAY_PROCESSES" in self.environment

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def until(self, condition: Any, seconds: float = WAIT) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"this did not come true; the log says:\n{self.log}")
            time.sleep(0.02)

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def reload(self) -> None:
        """Ask for a reload, and wait until the new processes have taken over."""
        before = self.log.count('"reloaded"')
        self.process.send_signal(signal.SIGHUP)
        self.until(lambda: self.log.count('"reloaded"') > before, 40)

    # ---- talking to it ----
    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=WAIT))

    def get(self, path: str = "/", *, cookie: str = "", slug: str = SLUG) -> Reply:
        """Ask the instance when there is a cookie, else the portal."""
        with self.connect() as wire:
            wire.send(self.request(path, cookie, slug))
            return wire.reply()

    def request(self, path: str, cookie: str = "", slug: str = SLUG) -> bytes:
        if not cookie:
            return request("GET", path, f"localhost:{self.gateway.port}")
        return request("GET", path, self.gateway.host(slug), Cookie=cookie, Sec_Fetch_Site="same-origin")

    def socket(self, cookie: str, slug: str = SLUG) -> Wire:
        """Open a WebSocket to the instance; what is sent comes back."""
        host = self.gateway.host(slug)
        wire = self.connect()
        fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
        wire.send(
            request("GET", "/echo", host, Cookie=cookie, Origin=f"http://{host}", Sec_WebSocket_Key=_KEY, **fields)
        )
        assert wire.reply().status == 101
        return wire

    def sockets_on_each(self, cookie: str, slug: str = SLUG) -> dict[int, Wire]:
        """Open a WebSocket through each process: the kernel spreads connections by their ports."""
        found: dict[int, Wire] = {}
        wanted = set(self.children()) if self.many else {self.process.pid}
        for _ in range(200):
            one = self.socket(cookie, slug)
            pid = self.owner(one.sock.getsockname()[1])
            if pid in found:
                one.sock.close()
            else:
                found[pid] = one
            if found.keys() == wanted:
                return found
        raise AssertionError(f"only {found.keys()} of {wanted} accept connections")

    def owner(self, port: int) -> int:
        """Return the process that holds the connection from this port of ours."""
        ours = f"{self.port:04X}", f"{port:04X}"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if (fields[1].partition(":")[2], fields[2].partition(":")[2]) == ours:
                return next(pid for pid in self.members() if f"socket:[{fields[9]}]" in descriptors(pid))
        raise AssertionError("no such connection")

    def members(self) -> list[int]:
        return self.children() if self.many else [self.process.pid]


def talks(wire: Wire) -> bool:
    """Whether an open WebSocket still carries bytes both ways."""
    wire.send(b"still here")
    return wire.take(10) == b"still here"


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process are."""
    found = []
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(path))
    return found


class Backend:
    """An instance's service on TCP: what is upgraded echoes, `/slow` trickles until it is told to end."""

    def __init__(self, gateway: Harness) -> None:
        self.gateway = gateway
        self.finish = asyncio.Event()
        self.asked = 0
        gateway.run(self._start())
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"upgrade: websocket" in head.lower():
                    writer.write(_SWITCHED)
                    while data := await reader.read(65_536):
                        writer.write(data)
                        await writer.drain()
                    break
                self.asked += b" /api/status" not in head
                if b" /slow" in head:
                    await self._slow(writer)
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                await writer.drain()
        writer.close()

    async def _slow(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not self.finish.is_set():
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    def close(self) -> None:
        self.gateway.call(self._server.close)


class Service(Backend):
    """A back end that the harness's portal knows, and somebody's session there."""

    def __init__(self, gateway: Harness) -> None:
        super().__init__(gateway)
        row = {"name": "jupyter", "kind": "tcp", "host": "127.0.0.1", "port": self.port, "probe": "/api/status"}
        gateway.route(SLUG, "active", None, services=[row | {"roles": ["owner", "user"]}])
        self.sid, self.cookie = gateway.session(SLUG)
