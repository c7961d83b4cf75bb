"""The same requests to the real servers behind the gateway, straight and through it: nobody can tell the difference.

Tornado is what Jupyter stands on, and comes from the image that instances run in; uvicorn is what the portal stands on.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from portal.lib.hashing import instance_secret
from tests.gateway.conformance import CHUNKS, NEVER
from tests.gateway.harness import INSTANCE_KEY, Harness, Reply, Wire

#: what the gateway takes away or sets, told back by the servers that echo
_OURS = {"authorization", "x-forwarded-proto", "cookie", "sec-fetch-site", "expect", "connection", "te", "trailer"}
#: what a browser acts on; times and the connection's own fields differ by nature
_RELEVANT = {
    "content-type",
    "content-range",
    "accept-ranges",
    "allow",
    "location",
    "content-encoding",
    "content-disposition",
    "vary",
    "etag",
    "access-control-allow-origin",
    "access-control-allow-methods",
}
#: in names of what each way makes for itself
_MARKS = {"straight": "first-way", "through": "other-way"}
_CHANGING = ("last_modified", "created", "last_activity", "started", "hash")


def images() -> Path:
    folder = Path(os.environ.get("BEAMPORT_TEST_IMAGES", "")) / "jupyter"
    if not (folder / "bin" / "python").exists():
        assert not os.environ.get("CI"), "BEAMPORT_TEST_IMAGES is not set"
        pytest.skip("needs the Jupyter image: set BEAMPORT_TEST_IMAGES, or use make test")
    return folder


class Server:
    """A real server on a unix socket, reached straight and as an instance."""

    def __init__(self, gateway: Harness, slug: str) -> None:
        self.gateway, self.slug = gateway, slug
        self.path = gateway.folder / f"{slug}.sock"
        row = gateway.route(slug, "active", self.path)
        self.secret = instance_secret(INSTANCE_KEY, row["instance"], 1, "jupyter")
        _sid, self.cookie = gateway.session(slug)
        self.host = gateway.host(slug)

    def wait(self) -> None:
        def answers() -> bool:
            with suppress(OSError), self.wire("straight"):
                return True
            return False

        self.gateway.until(answers, 30)

    def wire(self, way: str) -> Wire:
        if way == "through":
            return self.gateway.connect()
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.path))
        return Wire(sock)

    def fields(self, way: str) -> str:
        if way == "through":
            return f"Cookie: {self.cookie}\r\nSec-Fetch-Site: same-origin\r\n"
        return f"Authorization: token {self.secret}\r\nX-Forwarded-Proto: http\r\n"

    def head(self, way: str, line: str, lines: str = "") -> bytes:
        version = "" if line.endswith("HTTP/1.0") else " HTTP/1.1"
        return f"{line}{version}\r\nHost: {self.host}\r\n{self.fields(way)}{lines}\r\n".encode("latin-1")

    def ask(self, way: str, line: str, lines: str = "", body: bytes = b"") -> Reply:
        with self.wire(way) as wire:
            wire.send(self.head(way, line, lines))
            if "100-continue" in lines:
                assert wire.head().startswith(b"HTTP/1.1 100 ")
            if body:
                wire.send(body)
            return wire.reply(line.split(" ")[0])

    def open(self, way: str, path: str, **options: Any) -> ClientConnection:
        fields = dict(line.split(": ", 1) for line in self.fields(way).splitlines())
        return connect(
            f"ws://{self.host}{path}",
            sock=self.wire(way).sock,
            origin=f"http://{self.host}",  # type: ignore[arg-type]
            additional_headers=fields,
            max_size=None,
            open_timeout=20,
            **options,
        )


def start(gateway: Harness, slug: str, argv: list[str], **variables: str) -> tuple[Server, subprocess.Popen[bytes]]:
    server = Server(gateway, slug)
    argv = [part.replace("{socket}", str(server.path)) for part in argv]
    environment = {**os.environ, "JUPYTER_TOKEN": server.secret, **variables}
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server.wait()
    return server, process


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def world() -> Iterator[Harness]:
    with Harness() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "data.bin").write_bytes(bytes(range(256)) * 4096)
    (folder / "with space é.txt").write_text("text\n")
    return folder


@pytest.fixture(scope="module")
def tornado(world: Harness, files: Path) -> Iterator[Server]:
    argv = [str(images() / "bin" / "python"), str(Path(__file__).with_name("tornado_echo.py")), "{socket}", str(files)]
    server, process = start(world, "tornado1", argv)
    yield server
    end(process)


@pytest.fixture(scope="module")
def jupyter(world: Harness, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = str(tmp_path_factory.mktemp("home"))
    argv = [str(images() / "bin" / "python"), "-m", "jupyter_server", "--allow-root", "--no-browser"]
    argv += ["--ServerApp.sock={socket}", f"--ServerApp.root_dir={files}", "--ServerApp.allow_remote_access=true"]
    server, process = start(world, "jupyter1", argv, HOME=home, JUPYTER_PREFER_ENV_PATH="1")
    yield server
    end(process)


class Echo:
    """The ASGI application that tells back what came."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        digest, size, more = sha256(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            digest.update(message.get("body", b""))
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("latin-1")
        told: dict[str, Any] = {"method": scope["method"], "target": target, "size": size, "body": digest.hexdigest()}
        told["fields"] = sorted([name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"])
        if target == "/seen":
            told = self.seen  # type: ignore[assignment]
        else:
            self.seen.append(f"{scope['method']} {target}")
        body = json.dumps(told).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _socket(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        offered = scope["subprotocols"]
        await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
                return
            kind = "text" if message.get("text") is not None else "bytes"
            await send({"type": "websocket.send", kind: message[kind]})


def uvicorn_server(world: Harness, http: str) -> Iterator[Server]:
    server = Server(world, f"uvicorn{http}")
    config = uvicorn.Config(
        Echo(),
        uds=str(server.path),
        log_config=None,
        lifespan="off",
        http=http,
        ws="websockets-sansio",
        ws_max_size=2**26,
    )
    inner = uvicorn.Server(config)
    inner.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.run_coroutine_threadsafe(inner._serve(None), world.loop)
    server.wait()
    yield server
    inner.should_exit = inner.force_exit = True
    task.result(10)


@pytest.fixture(scope="module")
def httptools(world: Harness) -> Iterator[Server]:
    yield from uvicorn_server(world, "httptools")


@pytest.fixture(scope="module")
def h11(world: Harness) -> Iterator[Server]:
    yield from uvicorn_server(world, "h11")


@pytest.fixture(params=["tornado", "httptools", "h11"])
def echo(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def told(reply: Reply) -> dict[str, Any]:
    """What an echoing server says of a request, without what the gateway is there to change."""
    found: dict[str, Any] = json.loads(reply.body)
    found["fields"] = [field for field in found["fields"] if field[0] not in _OURS]
    return found


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# ---- what reaches the server ----
LINES = [
    *(f"{method} /x" for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
    "GET /a%2Fb%20c",
    "GET /%C3%A9/%e2%82%ac?q=%2F%20+&&=",
    "GET //a///b/./c/../d",
    "GET /a;b=c/d,e",
    "GET /%2e%2e/%2E/x",
    "GET /a%00b",
    "GET /100%?%",
    "GET /?",
    "GET /x??a=?b",
    "GET /~user/!$&'()*+,;=:@",
    'GET /"<>^`{|}',
    "GET /" + "a" * 8000,
    "GET /x HTTP/1.0",
]


@pytest.mark.parametrize("line", LINES)
def test_a_request_line_arrives_as_it_was_sent(echo: Server, line: str) -> None:
    straight, through = (echo.ask(way, line) for way in ("straight", "through"))
    assert (straight.status, through.status) == (200, 200)
    assert told(through) == told(straight)


FIELDS = [
    "X-A:no space\r\n",
    "X-A: \t spaces \t\r\n",
    "X-A:\r\n",
    "X-A: 1\r\nX-A: 2\r\nx-a: 3\r\n",
    "X-A: caf\xe9 \xff\r\n",
    'X-A: "quoted, \\" string"; a=b\r\n',
    "x-LoWeR: 1\r\n",
    "!#$%&'*+-.^`|~: 1\r\n",
    "X-A: " + "a" * 8000 + "\r\n",
    "".join(f"X-{number}: {number}\r\n" for number in range(90)),
    "Accept: */*\r\nAccept-Encoding: gzip\r\nAccept-Language: en-GB\r\nUser-Agent: x\r\nRange: bytes=0-1\r\n",
    'If-None-Match: "a", W/"b"\r\nIf-Modified-Since: Sat, 21 Nov 2026 15:00:00 GMT\r\n',
    "Connection: close\r\n",
    "Connection: keep-alive, X-Hop\r\n",
]


@pytest.mark.parametrize("lines", FIELDS)
def test_fields_arrive_as_they_were_sent(echo: Server, lines: str) -> None:
    straight, through = (echo.ask(way, "GET /x", lines) for way in ("straight", "through"))
    assert (straight.status, through.status) == (200, 200)
    assert told(through) == told(straight)


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
@pytest.mark.parametrize("framing", ["length", "chunks", "expect"])
def test_bodies_arrive_as_they_were_sent(echo: Server, framing: str, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    if framing == "chunks":
        lines, sent = "Transfer-Encoding: chunked\r\n", chunks(body, 10_007)
    else:
        lines, sent = f"Content-Length: {size}\r\n", body
    if framing == "expect" and size:
        lines += "Expect: 100-continue\r\n"
    straight, through = (echo.ask(way, "POST /x", lines, sent) for way in ("straight", "through"))
    assert (straight.status, through.status) == (200, 200)
    assert told(through) == told(straight)
    assert told(through)["body"] == sha256(body).hexdigest()


def test_a_head_has_no_body(echo: Server) -> None:
    for way in ("straight", "through"):
        with echo.wire(way) as wire:
            wire.send(echo.head(way, "HEAD /x") + echo.head(way, "GET /y"))
            assert wire.reply("HEAD").status == 200
            assert json.loads(wire.reply().body)["target"] == "/y"


# ---- what never reaches it ----
EVIL = "GET /evil HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"


@pytest.mark.parametrize("kind", ["fields", "chunks"])
def test_the_server_never_sees_what_it_could_read_in_another_way(echo: Server, kind: str) -> None:
    """Whatever the server itself would make of each message: it does not get it, nor what is hidden in its body."""
    evil = EVIL.format(host=echo.host, fields=echo.fields("through")).encode()
    if kind == "fields":
        messages = [
            echo.head("through", "POST /bad").removesuffix(b"\r\n") + lines + b"\r\n0\r\n\r\n" + evil
            for lines in NEVER.values()
        ]
    else:
        head = echo.head("through", "POST /bad", "Transfer-Encoding: chunked\r\n")
        messages = [head + start + b"0\r\n\r\n" + evil for start in CHUNKS]
    for message in messages:
        with echo.wire("through") as wire:
            wire.send(message)
            assert wire.reply("POST").status == 400
            assert wire.closed
    assert [line for line in json.loads(echo.ask("straight", "GET /seen").body) if "evil" in line] == []
    if kind == "fields":
        assert [line for line in json.loads(echo.ask("straight", "GET /seen").body) if "bad" in line] == []


# ---- files ----
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/files/data.bin", ""),
        ("/files/data.bin", "Range: bytes=10-19\r\n"),
        ("/files/data.bin", "Range: bytes=-5\r\n"),
        ("/files/data.bin", "Range: bytes=9999999-\r\n"),
        ("/files/data.bin", "If-None-Match: *\r\n"),
        ("/files/data.bin", "Accept-Encoding: gzip\r\n"),
        ("/files/with%20space%20%C3%A9.txt", ""),
        ("/files/missing", ""),
        ("/files/%2e%2e/%2e%2e/etc/passwd", ""),
    ],
)
@pytest.mark.parametrize("name", ["tornado", "jupyter"])
def test_files_are_the_same(request: pytest.FixtureRequest, name: str, method: str, path: str, lines: str) -> None:
    same(request.getfixturevalue(name), f"{method} {path}", lines)


def same(server: Server, line: str, lines: str = "", body: bytes = b"") -> Reply:
    """Ask both ways ({w} names the way) and compare status, body and what a browser acts on."""
    replies = [
        server.ask(way, line.replace("{w}", mark), lines, body.replace(b"{w}", mark.encode()))
        for way, mark in _MARKS.items()
    ]
    seen = [_comparable(reply, mark) for reply, mark in zip(replies, _MARKS.values(), strict=True)]
    assert seen[1] == seen[0]
    return replies[1]


def _comparable(reply: Reply, mark: str) -> tuple[Any, ...]:
    fields = [(name.lower(), value.replace(mark, "{w}")) for name, value in reply.fields if name.lower() in _RELEVANT]
    body: Any = reply.body.replace(mark.encode(), b"{w}")
    with suppress(ValueError):
        body = _steady(json.loads(body))
        fields = [field for field in fields if field[0] != "etag"]  # of a body with times
    return reply.status, sorted(fields), body


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(inner) for name, inner in value.items() if name not in _CHANGING}
    return [_steady(inner) for inner in value] if isinstance(value, list) else value


# ---- Jupyter ----
def test_jupyters_contents_are_the_same(jupyter: Server) -> None:
    notebook = json.dumps({"type": "file", "format": "text", "content": "x" * 3_000_000}).encode()
    length = f"Content-Type: application/json\r\nContent-Length: {len(notebook)}\r\n"
    assert same(jupyter, "PUT /api/contents/note-{w}.txt", length, notebook).status == 201
    coded = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    assert same(jupyter, "PUT /api/contents/note%2D{w}.txt", coded, chunks(notebook, 65_536)).status == 200
    assert same(jupyter, "GET /api/contents/note-{w}.txt?content=1").status == 200
    assert same(jupyter, "GET /files/note-{w}.txt", "Range: bytes=0-99\r\n").status == 206
    rename = b'{"path": "sp ace-{w}.txt"}'
    length = f"Content-Type: application/json\r\nContent-Length: {len(rename) + 6}\r\n"
    assert same(jupyter, "PATCH /api/contents/note-{w}.txt", length, rename).status == 200
    assert same(jupyter, "GET /api/contents/sp%20ace-{w}.txt?content=0").status == 200
    assert same(jupyter, "DELETE /api/contents/sp%20ace-{w}.txt").status == 204
    for line in (
        "GET /api/contents/sp%20ace-{w}.txt",
        "GET /api/status",
        "GET /api/contents/a%2Fb%20c",
        "GET /api/kernelspecs",
        "OPTIONS /api/contents",
        "HEAD /api/status",
        "GET /nowhere",
        "GET /tree/../lab/%2e%2e",
        "PUT /api/status",
        "POST /api/contents/missing-{w}/x",
    ):
        same(jupyter, line, "" if line[0] in "GOH" else "Content-Length: 0\r\n")


def _message(kind: str, number: str) -> bytes:
    """A message to a kernel in Jupyter's binary protocol: where each part begins, then the parts."""
    header = {"msg_id": number, "msg_type": kind, "username": "", "session": "1", "date": "", "version": "5.3"}
    parts = [b"shell", json.dumps(header).encode(), b"{}", b"{}", b"{}"]
    places = [8 * (len(parts) + 2)]
    for part in parts:
        places.append(places[-1] + len(part))
    return b"".join(number.to_bytes(8, "little") for number in (len(places), *places)) + b"".join(parts)


def test_a_kernel_is_the_same(jupyter: Server) -> None:
    made = jupyter.ask("through", "POST /api/kernels", "Content-Length: 0\r\n")
    assert made.status == 201
    kernel = json.loads(made.body)["id"]
    answers = []
    for way in ("straight", "through"):
        with jupyter.open(
            way, f"/api/kernels/{kernel}/channels?session_id={way}", subprotocols=["v1.kernel.websocket.jupyter.org"]
        ) as kernel_socket:
            assert kernel_socket.subprotocol == "v1.kernel.websocket.jupyter.org"
            kernel_socket.send(_message("kernel_info_request", way))
            until = time.monotonic() + 20
            while b"kernel_info_reply" not in (message := kernel_socket.recv(timeout=20)):  # type: ignore[operator]
                assert time.monotonic() < until
            content = json.loads(message[message.index(b'{"status"') :])  # type: ignore[index, arg-type]
            answers.append({name: value for name, value in content.items() if name != "banner"})  # a tip of the day
    assert answers[0] == answers[1]
    assert answers[0]["implementation"] == "ipython"
    assert same(jupyter, f"GET /api/kernels/{kernel}").status == 200
    assert jupyter.ask("through", f"DELETE /api/kernels/{kernel}").status == 204


def test_a_terminal_is_the_same(jupyter: Server) -> None:
    for way in ("straight", "through"):
        name = json.loads(jupyter.ask(way, "POST /api/terminals", "Content-Length: 0\r\n").body)["name"]
        with jupyter.open(way, f"/terminals/websocket/{name}") as terminal:
            terminal.send(json.dumps(["stdin", "echo 4$((1+1))\r"]))
            while "42" not in str(terminal.recv(timeout=20)):
                pass
        assert jupyter.ask(way, f"DELETE /api/terminals/{name}").status == 204


# ---- WebSockets ----
def test_sockets_are_the_same(echo: Server) -> None:
    seen = []
    for way in ("straight", "through"):
        with echo.open(way, "/ws?x=%2F", subprotocols=["one", "two"]) as opened:
            got: list[Any] = [opened.subprotocol]
            for message in ("text", "ü" * 70_000, "", b"", b"\x00\xff" * 1_000_000):
                opened.send(message)
                got.append(opened.recv(timeout=20))
            assert opened.ping().wait(10)
            opened.send("close")
            with suppress(ConnectionClosed):
                opened.recv(timeout=20)
            seen.append([*got, opened.close_code, opened.close_reason])
    assert seen[0] == seen[1]
    assert seen[0][-2:] == [4001, "as asked"]


@pytest.mark.parametrize("code", [1000, 3999, 4999])
def test_the_clients_close_code_is_answered_the_same(echo: Server, code: int) -> None:
    codes = []
    for way in ("straight", "through"):
        with echo.open(way, "/ws", compression=None) as opened:
            assert opened.subprotocol is None
            opened.close(code, "bye")
            codes.append((opened.close_code, opened.close_reason))
    assert codes[0] == codes[1]
