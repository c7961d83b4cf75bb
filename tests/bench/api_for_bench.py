"""Starts through Beamport's own API, as a client with a token and a browser's session makes them.

Ready means: one request on the instance's own origin, through the gateway and its authorisation, is answered by the
machine. The session on that origin is got by the same way as a browser's (nonce, ticket, cookie).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import aiohttp

from portal.lib.hashing import digest


@dataclass(frozen=True)
class Account:
    """Somebody who may start instances."""

    token: str
    session: str


@dataclass
class Handle:
    """One instance of a bench."""

    id: str
    account: Account
    host: str = ""
    cookie: str = ""


class Api:
    """`find_slug` gives the origin's name before the API does: it shows an instance's address only once it runs."""

    def __init__(self, port: int, plan: str, accounts: list[Account], find_slug: Callable[[str], str]) -> None:
        self.plan, self.portal = plan, f"localhost:{port}"
        #: connections of the portal's origin and of instances' are never the same, as in a browser
        self.url, self.origins = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
        self.free = deque(accounts)
        self.find_slug = find_slug
        self.experiments: list[str] = []

    def _headers(self, account: Account) -> dict[str, str]:
        return {"Host": self.portal, "Authorization": f"Bearer {account.token}"}

    async def create(self, http: aiohttp.ClientSession, name: str, account: Account | None = None) -> Handle:
        account = account or self.free.popleft()
        body = {"plan": self.plan, "experiments": self.experiments, "name": name}
        async with http.post(f"{self.url}/api/v1/instances", json=body, headers=self._headers(account)) as answer:
            made = await answer.json()
            assert answer.status == 201, made
        return Handle(made["id"], account)

    async def ready(self, http: aiohttp.ClientSession, handle: Handle) -> bool:
        if not handle.cookie and not await self._enter(http, handle):
            return False
        headers = {"Host": handle.host, "Cookie": handle.cookie, "Sec-Fetch-Site": "same-origin"}
        async with http.get(f"{self.origins}/api", headers=headers, allow_redirects=False) as answer:
            await answer.read()
            return answer.status == 200

    async def _enter(self, http: aiohttp.ClientSession, handle: Handle) -> bool:
        """Get a session on the instance's origin: the portal's ticket, redeemed by the gateway; not before that has
        heard of the portal."""
        slug = await asyncio.to_thread(self.find_slug, handle.id)
        handle.host = f"{slug}.apps.{self.portal}"
        nonce = secrets.token_urlsafe(32)
        query = urlencode({"n": digest(nonce), "to": "/"})
        browser = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
        headers = browser | {"Host": self.portal, "Cookie": f"__Host-sid={handle.account.session}"}
        where = f"{self.url}/enter/{slug}?{query}"
        async with http.get(where, headers=headers, allow_redirects=False) as answer:
            assert answer.status == 303, (answer.status, await answer.text())
            ticket = urlsplit(answer.headers["Location"])
        headers = browser | {"Host": handle.host, "Cookie": f"__Host-entry={nonce}"}
        where = f"{self.origins}{ticket.path}?{ticket.query}"
        async with http.get(where, headers=headers, allow_redirects=False) as answer:
            if answer.status != 502:
                assert answer.status in (302, 303), (answer.status, await answer.text())
                handle.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return bool(handle.cookie)

    async def remove(self, http: aiohttp.ClientSession, handle: Handle) -> None:
        """Delete the instance and wait until it is gone."""
        where, headers = f"{self.url}/api/v1/instances/{handle.id}", self._headers(handle.account)
        async with http.delete(where, headers=headers) as answer:
            assert answer.status == 202, await answer.text()
        while True:
            async with http.get(where, headers=headers) as answer:
                if answer.status == 404:
                    break
            await asyncio.sleep(0.05)
        self.free.append(handle.account)
