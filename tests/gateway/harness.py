"""A whole gateway on a loop of its own, between a programmable portal and back ends that do as they are told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from instances.gateway.config import Config, Limits
from instances.gateway.listen import Door
from instances.gateway.log import Log
from instances.gateway.server import Gateway
from instances.gateway.upstream import Endpoint
from tests import canary

TOKEN = canary.mark("gateway-token-of-the-tests", "the gateway's token")
INSTANCE_KEY = canary.mark("instance-key-of-the-tests", "the instance key").encode()
WAIT = 10.0

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Backend:
    """An instance's service on a unix socket: `handler` answers each connection; what it got is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        self.heads: list[bytes] = []
        self.handler: Handler = self.hello

    async def start(self) -> None:
        self.server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.handler(reader, writer)
        writer.close()

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        canary.look(head, "a request to an instance", may_have="an instance's token")
        if not head.startswith((b"GET /api/status", b"GET /api/kernels", b"GET /api/terminals")):
            self.heads.append(head)
        return head

    async def hello(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every request with `hello`, on one connection."""
        while True:
            await self.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            await writer.drain()

    def answers(self, response: bytes, *, close: bool = True) -> None:
        """Answer every request with these bytes."""

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await self.head(reader)
                writer.write(response)
                await writer.drain()
                if close:
                    return

        self.handler = handler


class Portal:
    """What the gateway asks: the internal application and the web application, both under the test's command."""

    def __init__(self) -> None:
        self.routes: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.tickets: dict[str, dict[str, Any]] = {}
        self.gone: set[str] = set()
        self.calls: list[tuple[str, Any]] = []
        self.streams: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.web_requests: list[dict[str, Any]] = []
        self.away = False
        self.silent = False
        self.ready_status = 200
        self.ready_answer: dict[str, Any] = {}
        self.uid = os.geteuid()
        self.keys = {"current": "k1", "keys": {"k1": base64.urlsafe_b64encode(b"1" * 32).decode()}}

    def send(self, **message: Any) -> None:
        for stream in self.streams:
            stream.put_nowait(message)

    async def internal(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        assert dict(scope["headers"])[b"authorization"] == f"Bearer {TOKEN}".encode()
        path = scope["path"]
        if self.away:
            await _json(send, 503, {})
        elif path == "/stream":
            await self._stream(send)
        elif path == "/snapshot":
            rows = {"routes": list(self.routes.values()), "sessions": list(self.sessions.values())}
            await _json(send, 200, {"now": time.time(), "uid": self.uid, "keys": self.keys, **rows})
        else:
            body = json.loads(await _body(receive))
            self.calls.append((path, body))
            await _json(send, *self._answer(path, body))

    def _answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/redeem":
            ticket = self.tickets.get(body["ticket"])
            if ticket is None or ticket["session"]["slug"] != body["slug"]:
                return 403, {}
            if ticket["nonce"] != body["nonce"]:
                return 409, {}
            del self.tickets[body["ticket"]]
            self.sessions[ticket["session"]["sid"]] = ticket["session"]
            return 200, ticket["session"]
        if path == "/renew":
            asked = [row["sid"] for row in body["sessions"]]
            for sid in asked:
                if sid in self.sessions:
                    row = self.sessions[sid]
                    row |= {"expires": time.time() + 300, "version": row["version"] + 1}
            alive = [self.sessions[sid] for sid in asked if sid in self.sessions]
            return 200, {"sessions": alive, "gone": [sid for sid in asked if sid not in self.sessions]}
        if path == "/ready":
            return self.ready_status, self.ready_answer
        return 200, {}

    async def _stream(self, send: Any) -> None:
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.streams.append(queue)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        message: dict[str, Any] | None = {"type": "heartbeat", "now": time.time()}
        try:
            while message is not None:
                body = json.dumps(message).encode() + b"\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})
                try:
                    message = await asyncio.wait_for(queue.get(), 0.5)
                except TimeoutError:
                    message = {"type": "heartbeat", "now": time.time()}
                while self.silent:
                    await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.streams.remove(queue)

    async def web(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": "events: " + message["text"]})
            return
        if scope["type"] != "http":
            return
        body = await _body(receive)
        self.web_requests.append({**scope, "body": body})
        await _json(send, 200, {"path": scope["raw_path"].decode(), "body": len(body)})


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _json(send: Any, status: int, value: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-test", b"1")]})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


class Harness:
    """Start with `with Harness() as gateway:`; the test itself talks to it over blocking sockets."""

    def __init__(self, limits: Limits | None = None, **config: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gw-", dir="/var/tmp"))
        self.portal = Portal()
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._servers: list[uvicorn.Server] = []
        self._backends: list[Backend] = []
        self.doors = [door()]
        self.port = self.doors[0].port
        self.log_path = self.folder / "log"
        self.config = Config(
            listen=(("127.0.0.1", self.port),),
            portal_url=f"http://localhost:{self.port}",
            apps_domain=f"apps.localhost:{self.port}",
            web=Endpoint(str(self.folder / "web.sock")),
            internal=Endpoint(str(self.folder / "internal.sock")),
            token=TOKEN,
            instance_key=INSTANCE_KEY,
            limits=limits or Limits(drain=0.2),
        )
        self.config = replace(self.config, **config)

    def __enter__(self) -> Harness:
        self._thread.start()
        self.run(self._start())
        self.until(lambda: self.gateway.link.up.is_set())
        return self

    def __exit__(self, *_exc: object) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self) -> None:
        """Run the loop, and leave nothing open whose descriptor could be another test's by then."""
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.02))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _start(self) -> None:
        for name, application in (("internal", self.portal.internal), ("web", self.portal.web)):
            config = uvicorn.Config(
                application,
                uds=str(self.folder / f"{name}.sock"),
                log_config=None,
                lifespan="off",
                interface="asgi3",
                ws="websockets-sansio",
            )
            server = uvicorn.Server(config)
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            self._servers.append(server)
            self.loop.create_task(server._serve(None))
            while not server.started:
                await asyncio.sleep(0.01)
        self._log = self.log_path.open("wb")
        self.gateway = Gateway(self.config, Log(self._log.fileno()), self.doors)
        # the tests' back ends run as ourselves, like everything of a plain user
        self.gateway._may_serve = lambda uid: True  # type: ignore[method-assign]
        self.gateway.pool._may_serve = lambda uid: True
        self.gateway.probes._may_serve = lambda uid: True
        self.gateway.agents._may_serve = lambda uid: True
        await self.gateway.start()

    async def _stop(self) -> None:
        await self.gateway.stop()
        for stream in self.portal.streams:
            stream.put_nowait(None)
        await asyncio.sleep(0.02)
        for server in self._servers:
            server.should_exit = server.force_exit = True
        for backend in self._backends:
            backend.server.close()
        self._log.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(WAIT)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call something on the gateway's loop."""

        async def work() -> Any:
            return function(*args)

        return self.run(work())

    def until(self, condition: Callable[[], object], seconds: float = WAIT) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("this did not come true")
            time.sleep(0.01)

    @property
    def log(self) -> str:
        self.call(self.gateway.log.flush)
        return self.log_path.read_text()

    # ---- instances and sessions ----
    def instance(self, slug: str = "alpha1234", state: str = "active", **row: Any) -> Backend:
        """Make an instance with a back end, and let the gateway know."""
        backend = Backend(self.folder / f"{slug}.sock")
        self._backends.append(backend)
        self.run(backend.start())
        self.route(slug, state, backend.path, **row)
        return backend

    def route(self, slug: str, state: str, path: Path | None, version: int = 1, **row: Any) -> dict[str, Any]:
        known = self.portal.routes.get(slug, {"instance": str(uuid.uuid4())})
        service = {
            "name": "jupyter",
            "kind": "unix",
            "path": str(path),
            "probe": "/api/status",
            "required": True,
            "roles": ["owner", "user"],
        }
        self.portal.routes[slug] = {
            "slug": slug,
            "instance": known["instance"],
            "state": state,
            "version": version,
            "secret_epoch": 1,
            "services": [service] if path else [],
            **row,
        }
        self.call(self.gateway.apply, {"type": "route", **self.portal.routes[slug]})
        return self.portal.routes[slug]

    def session_row(self, slug: str = "alpha1234", role: str = "owner", life: float = 300) -> dict[str, Any]:
        return {
            "sid": str(uuid.uuid4()),
            "slug": slug,
            "instance": self.portal.routes[slug]["instance"],
            "role": role,
            "epoch": 1,
            "expires": time.time() + life,
            "version": 1,
        }

    def session(self, slug: str = "alpha1234", role: str = "owner", life: float = 300) -> tuple[str, str]:
        """Make a living session; returns its sid and its cookie (`name=value`)."""
        row = self.session_row(slug, role, life)
        self.portal.sessions[row["sid"]] = row
        session = self.call(self.gateway.sessions.add, row)
        return row["sid"], self.call(self.gateway.sessions.cookie, session).partition(";")[0]

    def host(self, slug: str = "alpha1234") -> str:
        return f"{slug}.apps.localhost:{self.port}"

    # ---- talking to it ----
    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.doors[0].port), timeout=WAIT))

    def get(self, path: str = "/", *, host: str | None = None, method: str = "GET", **fields: str) -> Reply:
        """One request on a connection of its own; a field's underscores become hyphens."""
        with self.connect() as wire:
            wire.send(request(method, path, self.host() if host is None else host, **fields))
            return wire.reply(method)

    def same_origin(self, path: str = "/", *, cookie: str, slug: str = "alpha1234", **fields: str) -> Reply:
        """What a page of the instance's own asks."""
        return self.get(path, host=self.host(slug), Cookie=cookie, Sec_Fetch_Site="same-origin", **fields)

    def navigate(self, path: str = "/", *, slug: str = "alpha1234", cookie: str = "", **fields: str) -> Reply:
        """What a person's browser asks when going to an address."""
        if cookie:
            fields["Cookie"] = cookie
        fields = {"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document", **fields}
        return self.get(path, host=self.host(slug), **fields)


def request(method: str, path: str, host: str, body: bytes = b"", **fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Reply:
    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def get(self, name: str) -> str:
        return next((value for key, value in self.fields if key.lower() == name.lower()), "")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def cookies(self) -> dict[str, str]:
        """What Set-Cookie sets, by name."""
        return {
            cookie.partition("=")[0]: cookie.partition(";")[0].partition("=")[2] for cookie in self.all("Set-Cookie")
        }


class Wire:
    """A blocking client that reads HTTP by hand, byte for byte."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> bytes:
        try:
            data = self.sock.recv(65_536)
        except ConnectionResetError:
            data = b""
        self.rest += data
        return data

    def head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            if not self.more():
                raise EOFError(self.rest)
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def take(self, size: int) -> bytes:
        while len(self.rest) < size:
            if not self.more():
                raise EOFError(self.rest)
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self.rest:
            if not self.more():
                raise EOFError(self.rest)
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def reply(self, method: str = "GET") -> Reply:
        """Read one response; raises EOFError when it is cut."""
        head = self.head()
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        reply = Reply(status, fields, b"")
        if method == "HEAD" or status in (101, 204, 304) or status < 200:
            return reply
        if reply.get("Transfer-Encoding"):
            while size := int(self.line(), 16):
                reply.body += self.take(size)
                assert self.line() == b""
            assert self.line() == b"", "no trailers"
        elif reply.get("Content-Length"):
            reply.body = self.take(int(reply.get("Content-Length")))
        else:
            reply.body = self.to_end()
        return reply

    def to_end(self) -> bytes:
        while self.more():
            pass
        data, self.rest = self.rest, b""
        return data

    @property
    def closed(self) -> bool:
        """Whether the other side has closed (waits for it)."""
        return not self.more()


def door(*, redirects: bool = False) -> Door:
    """Listen on a port that is nobody's."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.setblocking(False)
    return Door(sock, redirects)
