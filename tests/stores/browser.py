"""A person in front of a portal: kept-alive connections to the gateway, cookies per host, WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.stores.rig import SOON, Person, Rig

SESSION = "__Host-sid"


@dataclass
class Answer:
    """What came back, with enough to see whose it was."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str:
        return next((value for key, value in self.fields if key == name.lower()), "")

    def cookies(self) -> dict[str, str]:
        pairs = [value.partition(";")[0].partition("=") for key, value in self.fields if key == "set-cookie"]
        return {name: value for name, _, value in pairs}

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """Connections to the gateway, kept alive and used again by whoever asks next."""

    def __init__(self, port: int, patience: float = SOON) -> None:
        self.port, self.patience = port, patience
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(
        self,
        method: str,
        path: str,
        host: str,
        fields: dict[str, str],
        body: bytes = b"",
        *,
        abort: float | None = None,
    ) -> Answer | None:
        """Ask once, within a deadline; with `abort`, hang up after so many seconds and return None."""
        kept = bool(self.idle)
        reader, writer = self.idle.pop() if kept else await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields.items())]
        if body or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body)}")
        try:
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            if abort is not None:
                await asyncio.sleep(abort)
                writer.transport.abort()
                return None
            async with asyncio.timeout(self.patience):
                answer = await _read(reader, method)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
            if kept:  # it was closed while it lay idle
                return await self.ask(method, path, host, fields, body)
            raise
        except BaseException:
            writer.transport.abort()
            raise
        if answer.get("connection").lower() == "close":
            writer.close()
        else:
            self.idle.append((reader, writer))
        return answer

    def close(self) -> None:
        for _, writer in self.idle:
            writer.transport.abort()
        self.idle.clear()


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:] if line)]
    answer = Answer(int(head[0].split()[1]), fields, b"")
    if method == "HEAD" or answer.status in (204, 304):
        return answer
    if answer.get("transfer-encoding"):
        while size := int(await reader.readline(), 16):
            answer.body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    else:
        answer.body = await reader.readexactly(int(answer.get("content-length") or 0))
    return answer


@dataclass
class Browser:
    """One person's browser on one portal."""

    rig: Rig
    person: Person
    wire: Wire
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rig: Rig, person: Person, wire: Wire | None = None) -> Browser:
        browser = cls(rig, person, wire or Wire(rig.port))
        browser.cookies[rig.site.host] = {SESSION: person.session}
        return browser

    async def ask(
        self,
        method: str,
        path: str,
        *,
        host: str = "",
        body: bytes = b"",
        abort: float | None = None,
        **fields: str,
    ) -> Answer:
        """One request with this browser's cookies; a field's underscores become hyphens."""
        host = host or self.rig.site.host
        jar = self.cookies.setdefault(host, {})
        sent = {name.replace("_", "-"): value for name, value in fields.items()}
        if jar:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        answer = await self.wire.ask(method, path, host, sent, body, abort=abort)
        if answer is None:
            return Answer(0, [], b"")
        for name, value in answer.cookies().items():
            jar[name] = value
            if not value or value == '""':
                del jar[name]
        return answer

    async def page(self, path: str, **fields: str) -> Answer:
        return await self.ask("GET", path, **{"Sec_Fetch_Site": "same-origin", **fields})

    async def post(self, path: str, **values: str) -> Answer:
        """Send a form of ours, with the token that our pages carry."""
        if "__Host-csrf" not in self.cookies[self.rig.site.host]:
            page = await self.page("/")
            if page.status != 200:
                return page
        values["csrfmiddlewaretoken"] = self.cookies[self.rig.site.host]["__Host-csrf"]
        return await self.ask(
            "POST",
            path,
            body=urlencode(values).encode(),
            Content_Type="application/x-www-form-urlencoded",
            Origin=self.rig.site.portal_url,
            Sec_Fetch_Site="same-origin",
        )

    async def api(self, method: str, path: str, value: Any = None, **fields: str) -> Answer:
        """Call the API as this person's script does: by token, without cookies."""
        sent = {"Authorization": f"Bearer {self.person.token}"}
        sent |= {name.replace("_", "-"): text for name, text in fields.items()}
        body = b"" if value is None else json.dumps(value).encode()
        if body:
            sent["Content-Type"] = "application/json"
        answer = await self.wire.ask(method, f"/api/v1/{path}", self.rig.site.host, sent, body)
        assert answer is not None
        return answer

    async def wanted(self, name: str) -> dict[str, Any]:
        """What to send for a new instance."""
        found = (await self.api("GET", "experiments")).json()["results"]
        return {"plan": self.rig.plan, "experiments": [found[0]["id"]], "name": name}

    async def create(self, name: str, **fields: str) -> Answer:
        return await self.api("POST", "instances", await self.wanted(name), **fields)

    async def running_one(self, name: str) -> tuple[str, str]:
        """Make an instance and wait until it runs; returns its id and its slug."""
        made = (await self.create(name)).json()

        async def runs() -> bool:
            return await self.state_of(made["id"]) == "active"

        await until(runs, what=f"the start of {name}")
        url = (await self.api("GET", f"instances/{made['id']}")).json()["open_url"]
        return made["id"], url.partition("://")[2].partition(".")[0]

    async def state_of(self, uid: str) -> str:
        return str((await self.api("GET", f"instances/{uid}")).json()["state"])

    # ---- instances ----
    def host(self, slug: str) -> str:
        return f"{slug}.{self.rig.site.apps_domain}"

    async def enter(self, slug: str) -> tuple[Answer, str]:
        """Go to an instance's origin as a browser does; returns the last answer and the ticket's address."""
        navigation = {"Sec_Fetch_Site": "none", "Sec_Fetch_Dest": "document"}
        host, path, ticket = self.host(slug), "/", ""
        answer = Answer(0, [], b"")
        for _ in range(6):
            answer = await self.ask("GET", path, host=host, **navigation)
            if answer.status not in (302, 303):
                break
            url = urlsplit(answer.get("location"))
            host = url.netloc or host
            path = f"{url.path}?{url.query}" if url.query else url.path
            ticket = path if path.startswith("/.portal/enter") else ticket
        return answer, ticket

    async def inside(self, slug: str, path: str = "/") -> Answer:
        """What a page of the instance's own asks."""
        return await self.ask("GET", path, host=self.host(slug), Sec_Fetch_Site="same-origin")

    # ---- sockets ----
    def socket(self, path: str = "/ws/events", host: str = "") -> Any:
        host = host or self.rig.site.host
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.get(host, {}).items())
        return connect(
            f"ws://{host}{path}",
            host="127.0.0.1",
            port=self.rig.port,
            origin=f"http://{host}",  # type: ignore[arg-type]
            additional_headers={"Cookie": cookies} if cookies else {},
            open_timeout=SOON,
            proxy=None,
        )


class Events:
    """An open events socket and all it has said."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.heard: list[dict[str, Any]] = []
        self.closed: int | None = None

    async def __aenter__(self) -> Events:
        self._socket: ClientConnection = await self.browser.socket().__aenter__()
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._socket.close()

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._socket:
                self.heard.append(json.loads(message))
        self.closed = self._socket.close_code

    def names(self) -> list[str]:
        return [str(event["type"]) for event in self.heard]


async def until(condition: Callable[[], Any], seconds: float = SOON, what: str = "this") -> float:
    """Wait until the condition (plain or awaitable) is true; returns how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return loop.time() - began
        if loop.time() - began > seconds:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        await asyncio.sleep(0.1)


def form_token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    return found[1] if found else ""
