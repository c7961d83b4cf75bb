"""P7: a right ends at a whole Beamport; how long until the last WebSocket that it opened is closed.

By signing out, here and at a real Keycloak, and by everything else that takes a right away; of an API token, which
opens no socket, how long until a client that keeps asking is refused. No peer closes them at all: to a proxy without
sessions an open tunnel stays good.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from tests.bench.api_for_bench import Account, Handle
from tests.bench.peers.at_keycloak import AtKeycloak
from tests.bench.peers.beamport import Beamport, token
from tests.bench.peers.lib import PATIENCE, ROOT, Goal, Processes, Sample, in_turn, listens, scratch
from tests.bench.peers.setup import Peers
from tests.bench.peers.sockets import connect
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.bench.peers.endings import Ending, Visit

OPEN = 1000
#: API tokens revoked a round
TOKENS = 40
AT_KEYCLOAK, TOKEN = "signed out at Keycloak", "API token revoked"


class Withdrawal:
    def __init__(self, http: aiohttp.ClientSession, ours: Beamport, keycloak: AtKeycloak) -> None:
        self.http, self.ours, self.keycloak = http, ours, keycloak
        #: how a right ended → seconds from the first word of it to each socket's end
        self.after: dict[str, Sample] = {}

    def measures(self) -> dict[str, Callable[[int], Awaitable[None]]]:
        from tests.bench.peers.endings import ENDINGS, Ending

        there = Ending(AT_KEYCLOAK, lambda _visit: self.keycloak.sign_out())
        each = {ending.name: partial(self.measure, ending) for ending in (*ENDINGS, there)}
        return {**each, TOKEN: self.revoke_tokens}

    async def measure(self, ending: Ending, number: int) -> None:
        account = await asyncio.to_thread(self.keycloak.account) if ending.name == AT_KEYCLOAK else None
        handle = await self.ours.api.create(self.http, f"withdrawn{number}", account)
        while not await self.ours.api.ready(self.http, handle):
            await asyncio.sleep(0.02)
        visit = await asyncio.to_thread(self.visit, handle.account)
        await asyncio.to_thread(ending.prepare, visit)
        sockets = await asyncio.to_thread(self.open, handle)
        began = time.perf_counter()
        ends = asyncio.create_task(asyncio.to_thread(watch, sockets))
        await asyncio.to_thread(ending.end, visit)
        self.note(ending.name, *(end - began for end in await ends))
        await asyncio.to_thread(ending.undo, visit)
        await self.ours.api.remove(self.http, handle)

    def visit(self, account: Account) -> Visit:
        from auth import tokens
        from tests.bench.peers.endings import Visit

        found = tokens.find(account.token)
        assert found is not None
        return Visit(self.ours.api, account, found.user)

    def open(self, handle: Handle) -> list[socket.socket]:
        fields = {"Host": handle.host, "Cookie": handle.cookie, "Origin": f"http://{handle.host}"}
        return [connect(self.ours.port, fields) for _ in range(OPEN)]

    async def revoke_tokens(self, _number: int) -> None:
        from auth import tokens

        for _ in range(TOKENS):
            user = (await asyncio.to_thread(self.visit, self.ours.api.free[0])).user
            self.ours.api.free.rotate()
            text = await asyncio.to_thread(token, user)
            assert await self.status(text) == 200
            refused = asyncio.create_task(self.refused(text))
            began = time.perf_counter()
            await asyncio.to_thread(tokens.revoke, user, text.split("_")[1])
            self.note(TOKEN, await refused - began)

    async def refused(self, text: str) -> float:
        """Ask again and again; return when the answer was no."""
        while await self.status(text) == 200:
            pass
        return time.perf_counter()

    async def status(self, text: str) -> int:
        headers = {"Host": self.ours.api.portal, "Authorization": f"Bearer {text}"}
        async with self.http.get(f"{self.ours.api.url}/api/v1/instances", headers=headers) as answer:
            await answer.read()
            return answer.status

    def note(self, name: str, *seconds: float) -> None:
        self.after.setdefault(name, Sample()).add(*seconds)

    def goals(self) -> list[Goal]:
        what = {name: f"{OPEN} WebSockets closed: {name}, p99" for name in self.after} | {TOKEN: f"{TOKEN}, p99"}
        return [Goal("P7", what[name], sample.percentile(0.99), "s", 1) for name, sample in self.after.items()]


def watch(sockets: list[socket.socket]) -> list[float]:
    """Return when each socket came to its end; raises when one stays open."""
    poll = select.epoll()
    ends: list[float] = []
    for sock in sockets:
        poll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
    until = time.perf_counter() + PATIENCE
    while len(ends) < len(sockets):
        assert time.perf_counter() < until, f"{len(sockets) - len(ends)} WebSockets stay open"
        for descriptor, _ in poll.poll(1):
            poll.unregister(descriptor)
            ends.append(time.perf_counter())
    return ends


async def run(_peers: Peers, rounds: int) -> list[Goal]:
    os.environ |= {"GATEWAY_CONNECTIONS_PER_SESSION": "2000", "GATEWAY_CONNECTIONS_PER_ADDRESS": "20000"}
    with scratch() as folder, Processes(folder) as processes:
        backend = free_port()
        argv = [sys.executable, str(ROOT / "tests" / "bench" / "peers" / "backend.py"), str(backend)]
        processes.start("backend", argv, answers=lambda: listens(backend))
        ours = Beamport(folder, backend)
        keycloak = AtKeycloak(folder, ours)
        try:
            await asyncio.to_thread(ours.start)
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
                bench = Withdrawal(http, ours, keycloak)
                await in_turn(rounds, bench.measures())
        finally:
            ours.stop()
            keycloak.lab.stop()
    for name, sample in bench.after.items():
        print(f"  {name}, s: {sample}")
    return bench.goals()
