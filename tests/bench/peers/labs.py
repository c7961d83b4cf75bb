"""P10 and P11: real JupyterLabs, through Beamport's local provider and JupyterHub's local spawner in turn.

The floor is JupyterLab alone, as Beamport's instances start it; the peer's own is measured beside it.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable

import aiohttp

from tests.bench import story
from tests.bench.peers.hub import Hub
from tests.bench.peers.lib import PATIENCE, Goal, Processes, Sample, in_turn, scratch
from tests.bench.peers.setup import Peers
from tests.browser.conftest import Running, start, stop
from tests.ports import free_port


def answers(url: str) -> bool:
    """Whether a server says anything of its own, a refusal included."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def alone(processes: Processes, argv: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of JupyterLab to its first answer."""
    port = free_port()
    argv = [*argv, "--allow-root", "--no-browser", f"--port={port}"]
    argv += ["--IdentityProvider.token=", f"--ServerApp.root_dir={processes.folder}"]
    took = processes.start("alone", argv, environment, lambda: answers(f"http://127.0.0.1:{port}/api"))
    processes.stop("alone")
    return took


class Labs:
    """Each round starts every kind once."""

    def __init__(self, http: aiohttp.ClientSession, processes: Processes, peers: Peers, portal: Running) -> None:
        self.http, self.processes, self.peers, self.portal = http, processes, peers, portal
        self.hub = Hub(peers, processes, "simple", free_port())
        self.image = (portal.state / "images" / "jupyter").resolve()
        names = ("floor", "beamport", "beamport noticed", "floor of the peer", "jupyterhub", "jupyterhub noticed")
        self.samples = {name: Sample() for name in names}
        self.told: dict[str, float] = {}

    async def begin(self) -> None:
        """Sign in, and be an open page."""
        await asyncio.to_thread(self.hub.start)
        await self.hub.add(self.http, "bench")
        prepared = await asyncio.to_thread(story.prepare, self.portal.state)
        secret, key, self.plan, self.experiments = prepared
        self.api, ready = story.Api(self.portal.url, secret), asyncio.Event()
        self.page = asyncio.create_task(story.listen(self.portal.url, key, self.told, ready, self.api))
        await asyncio.wait_for(ready.wait(), PATIENCE)

    async def floor(self, number: int) -> None:
        programs = self.image / "bin"
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(self.processes.folder)}
        argv = [str(programs / "python"), str(self.image / "start_jupyterlab.py")]
        self.samples["floor"].add(await asyncio.to_thread(alone, self.processes, argv, environment))

    async def floor_of_the_peer(self, number: int) -> None:
        environment = self.peers.environment(HOME=str(self.processes.folder))
        argv = [str(self.peers.python), "-m", "jupyterlab"]
        took = await asyncio.to_thread(alone, self.processes, argv, environment)
        self.samples["floor of the peer"].add(took)

    async def ours(self, number: int) -> None:
        done = await story.one(self.api, self.portal.state, self.plan, self.experiments, self.told)
        self.samples["beamport"].add(done.told - done.asked)
        self.samples["beamport noticed"].add(done.noticed)

    async def theirs(self, number: int) -> None:
        """Their server listens on a port that is known, so that it can be asked past the hub."""
        began, direct = time.perf_counter(), asyncio.create_task(self._direct())
        took = await self.hub.spawn(self.http, "bench")
        self.samples["jupyterhub"].add(took)
        self.samples["jupyterhub noticed"].add(began + took - await direct)
        await self.hub.remove(self.http, "bench")

    async def _direct(self) -> float:
        url = f"http://127.0.0.1:{self.hub.backend}/user/bench/api"
        while not await asyncio.to_thread(answers, url):
            await asyncio.sleep(0.01)
        return time.perf_counter()

    def measures(self) -> dict[str, Callable[[int], Awaitable[None]]]:
        return {
            "JupyterLab alone": self.floor,
            "beamport": self.ours,
            "the peer's JupyterLab alone": self.floor_of_the_peer,
            "jupyterhub": self.theirs,
        }

    def goals(self) -> list[Goal]:
        for name, sample in self.samples.items():
            print(f"  {name}, s: {sample}")
        own, peer = (
            self.samples[name].median - self.samples[floor].median
            for name, floor in (("beamport", "floor"), ("jupyterhub", "floor of the peer"))
        )
        print(f"  above the floor, s: beamport {own:.2f}, jupyterhub {peer:.2f}")
        noticed = 1000 * self.samples["beamport noticed"].percentile(0.95)
        return [
            Goal("P10", "real JupyterLab, create → active, above JupyterLab alone", own, "s", 0.5),
            Goal("P11", "JupyterLab answers → page told, p95", noticed, "ms", 250),
        ]


async def run(peers: Peers, rounds: int) -> list[Goal]:
    """Twice the rounds, and one before that only warms up."""
    with scratch() as folder, Processes(folder) as processes:
        state = folder / "bp"
        state.mkdir(mode=0o711)
        portal = await asyncio.to_thread(start, state, free_port(2), 2 * PATIENCE)
        os.environ |= {"PORT": str(portal.port), "PORTAL_URL": portal.url}
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
                labs = Labs(http, processes, peers, portal)
                await labs.begin()
                await in_turn(1, labs.measures())
                for sample in labs.samples.values():
                    sample.values.clear()
                await in_turn(2 * rounds, labs.measures())
                labs.page.cancel()
                return labs.goals()
        finally:
            stop(portal)
