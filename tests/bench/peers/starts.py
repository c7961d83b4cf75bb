"""P8 and P9: starts that start no machine, through Beamport and JupyterHub in turn."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

from tests.bench.api_for_bench import Handle
from tests.bench.peers.beamport import Beamport
from tests.bench.peers.hub import Hub
from tests.bench.peers.lib import PATIENCE, ROOT, Goal, Processes, Sample, in_turn, listens, scratch
from tests.bench.peers.setup import Peers
from tests.ports import free_port

ONE_BY_ONE = 10
AT_ONCE = (20, 100)


class Starts:
    """Counts seconds of single starts and starts a second of bursts; names are never used twice."""

    def __init__(self, http: aiohttp.ClientSession, ours: Beamport, hub: Hub) -> None:
        self.http, self.ours, self.hub = http, ours, hub
        self.single = {"beamport": Sample(), "jupyterhub": Sample()}
        self.bursts = {(who, count): Sample() for who in self.single for count in AT_ONCE}
        self.lost = 0
        self.reasons: set[str] = set()
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"bench{self._names}"

    async def start_ours(self) -> tuple[float, Handle]:
        api, began = self.ours.api, time.perf_counter()
        handle = await api.create(self.http, "bench")
        while not await api.ready(self.http, handle):
            await asyncio.sleep(0.005)
            assert time.perf_counter() - began < PATIENCE, f"{handle.id} never became ready"
        return time.perf_counter() - began, handle

    async def one_by_one_ours(self, number: int) -> None:
        for _ in range(ONE_BY_ONE):
            took, handle = await self.start_ours()
            self.single["beamport"].add(took)
            await self.ours.api.remove(self.http, handle)

    async def one_by_one_hub(self, number: int) -> None:
        for _ in range(ONE_BY_ONE):
            name = self.name()
            await self.hub.add(self.http, name)
            self.single["jupyterhub"].add(await self.hub.spawn(self.http, name))
            await self.hub.remove(self.http, name)

    def burst_ours(self, count: int) -> Callable[[int], Awaitable[None]]:
        async def burst(number: int) -> None:
            began = time.perf_counter()
            done = await asyncio.gather(*(self.start_ours() for _ in range(count)), return_exceptions=True)
            took = time.perf_counter() - began
            handles = [result[1] for result in done if not isinstance(result, BaseException)]
            self.lost += count - len(handles)
            self.reasons |= {repr(result)[:300] for result in done if isinstance(result, BaseException)}
            self.bursts["beamport", count].add(len(handles) / took)
            await asyncio.gather(*(self.ours.api.remove(self.http, handle) for handle in handles))

        return burst

    def burst_hub(self, count: int) -> Callable[[int], Awaitable[None]]:
        async def burst(number: int) -> None:
            names = [self.name() for _ in range(count)]
            for name in names:
                await self.hub.add(self.http, name)
            began = time.perf_counter()
            await asyncio.gather(*(self.hub.spawn(self.http, name) for name in names))
            self.bursts["jupyterhub", count].add(count / (time.perf_counter() - began))
            await asyncio.gather(*(self.hub.remove(self.http, name) for name in names))

        return burst

    def measures(self) -> dict[str, Callable[[int], Awaitable[None]]]:
        found: dict[str, Callable[[int], Awaitable[None]]] = {
            "one by one, jupyterhub": self.one_by_one_hub,
            "one by one, beamport": self.one_by_one_ours,
        }
        for count in AT_ONCE:
            found[f"{count} at once, jupyterhub"] = self.burst_hub(count)
            found[f"{count} at once, beamport"] = self.burst_ours(count)
        return found

    def goals(self) -> list[Goal]:
        for name, sample in self.single.items():
            print(f"  {name}, one by one, s: {sample}")
        for (name, count), sample in self.bursts.items():
            print(f"  {name}, {count} at once, starts/s: {sample}")
        for reason in self.reasons:
            print(f"  lost: {reason}")
        ours, peer = self.single["beamport"], self.single["jupyterhub"]
        found = [
            Goal("P8", "start without a machine", 1000 * ours.median, "ms", 1.5, 1000 * peer.median),
            Goal("P8", "the same, p95", 1000 * ours.percentile(0.95), "ms", 150),
        ]
        for count in AT_ONCE:
            rates = self.bursts["beamport", count].median, self.bursts["jupyterhub", count].median
            found.append(Goal("P9", f"{count} at once, starts a second", rates[0], "/s", 0.8, rates[1], least=True))
        found.append(Goal("P9", "starts that were lost", self.lost, "", 0))
        return found


async def run(peers: Peers, rounds: int) -> list[Goal]:
    with scratch() as folder, Processes(folder) as processes:
        backend = free_port()
        argv = [sys.executable, str(ROOT / "tests" / "bench" / "peers" / "backend.py"), str(backend)]
        processes.start("backend", argv, answers=lambda: listens(backend))
        ours, hub = Beamport(folder, backend), Hub(peers, processes, "noop", backend)
        try:
            await asyncio.to_thread(ours.start)
            hub.start()
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
                starts = Starts(http, ours, hub)
                await starts.one_by_one_ours(0)
                await starts.one_by_one_hub(0)
                for sample in starts.single.values():  # the first ones warm up
                    sample.values.clear()
                await in_turn(rounds, starts.measures())
                return starts.goals()
        finally:
            ours.stop()
