"""P7: somebody signs out of a whole Beamport; how long until the last WebSocket opened by that sign-in is closed.

No peer closes them at all: to a proxy without sessions an open tunnel stays good.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
import time
from urllib.parse import urlencode

import aiohttp

from tests.bench.api_for_bench import Account, Handle
from tests.bench.peers.beamport import Beamport
from tests.bench.peers.lib import PATIENCE, ROOT, Goal, Processes, Sample, free_port, in_turn, listens, scratch
from tests.bench.peers.setup import Peers
from tests.bench.peers.sockets import connect

OPEN = 1000


class Withdrawal:
    def __init__(self, http: aiohttp.ClientSession, ours: Beamport) -> None:
        self.http, self.ours = http, ours
        #: seconds from the first byte of the sign-out to each socket's end
        self.after = Sample()

    async def measure(self, number: int) -> None:
        handle = await self.ours.api.create(self.http, f"withdrawn{number}")
        while not await self.ours.api.ready(self.http, handle):
            await asyncio.sleep(0.02)
        closed = await asyncio.to_thread(self.open, handle)
        began = time.perf_counter()
        ends = asyncio.create_task(asyncio.to_thread(watch, closed))
        await self.sign_out(handle.account)
        self.after.add(*(end - began for end in await ends))
        await self.ours.api.remove(self.http, handle)

    def open(self, handle: Handle) -> list[socket.socket]:
        fields = {"Host": handle.host, "Cookie": handle.cookie, "Origin": f"http://{handle.host}"}
        return [connect(self.ours.port, fields) for _ in range(OPEN)]

    async def sign_out(self, account: Account) -> None:
        """As the form on the page does."""
        api, secret = self.ours.api, "a" * 32
        cookies = f"__Host-sid={account.session}; __Host-csrf={secret}"
        headers = {"Host": api.portal, "Origin": api.url, "Sec-Fetch-Site": "same-origin", "Cookie": cookies}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        form = urlencode({"csrfmiddlewaretoken": secret})
        async with self.http.post(f"{api.url}/auth/logout/", data=form, headers=headers) as answer:
            assert answer.status == 200, (answer.status, await answer.text())


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
        try:
            await asyncio.to_thread(ours.start)
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
                bench = Withdrawal(http, ours)
                await in_turn(rounds, {"sign out": bench.measure})
        finally:
            ours.stop()
    print(f"  sign-out to a socket's end, s: {bench.after}")
    return [Goal("P7", f"{OPEN} WebSockets withdrawn, sign-out included, p99", bench.after.percentile(0.99), "s", 1)]
