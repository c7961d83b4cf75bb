"""P16 and P14: memory of the idle portal, and its start-up with 10 000 users and 1000 running instances."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import aiohttp

from tests.bench.api_for_bench import Handle
from tests.bench.peers.beamport import Beamport
from tests.bench.peers.hub import Hub
from tests.bench.peers.lib import ROOT, Goal, Processes, Sample, in_turn, listens, pss, scratch
from tests.bench.peers.setup import Peers
from tests.ports import free_port

USERS, RUNNING = 10_000, 1_000
#: seconds that the peer gets for one start
LONGEST = 90


class Scale:
    """Both portals with a filled database; each round ends and starts the one, then the other."""

    def __init__(self, http: aiohttp.ClientSession, ours: Beamport, hub: Hub) -> None:
        self.http, self.ours, self.hub = http, ours, hub
        self.up = {"beamport": Sample(), "jupyterhub": Sample()}
        self.asked = self.refused = 0

    async def restart_hub(self, number: int) -> None:
        """Until the API answers and the last running server is routed again; now and then it never is."""
        await asyncio.to_thread(self.hub.stop)
        began = time.perf_counter()
        await asyncio.to_thread(self.hub.start)
        while not await self.hub.serves(self.http, f"big{RUNNING - 1:06}"):
            await asyncio.sleep(0.01)
            if time.perf_counter() - began > LONGEST:
                print(f"  round {number}: JupyterHub's last server was not routed within {LONGEST} s; does not count")
                return
        self.up["jupyterhub"].add(time.perf_counter() - began)

    async def restart_ours(self, number: int) -> None:
        """Web and worker, while somebody goes on using an instance."""
        handle = await self.open_one()
        using = asyncio.create_task(self.use(handle))
        await asyncio.to_thread(self.ours.stop, "web", "worker")
        began = time.perf_counter()
        await asyncio.to_thread(self.ours.start_again, "web", "worker")
        self.up["beamport"].add(time.perf_counter() - began)
        using.cancel()
        await asyncio.gather(using, return_exceptions=True)
        await self.ours.api.remove(self.http, handle)

    async def open_one(self) -> Handle:
        handle = await self.ours.api.create(self.http, "used")
        while not await self.ours.api.ready(self.http, handle):
            await asyncio.sleep(0.02)
        return handle

    async def use(self, handle: Handle) -> None:
        while True:
            self.asked += 1
            try:
                self.refused += not await self.ours.api.ready(self.http, handle)
            except aiohttp.ClientError:
                self.refused += 1
            await asyncio.sleep(0.02)


def fill_ours(ours: Beamport) -> None:
    """Users and running instances as rows, and the machines that the provider sees."""
    from auth.models import Facility, User
    from auth.roles import InstanceRole
    from instances.lifecycle import State, Target
    from instances.models import Instance, Member, Plan
    from portal.lib import clock

    big = (User(handle=f"big{n}", display_name="Big") for n in range(USERS))
    users = User.objects.bulk_create(big, batch_size=1000)
    plan, facility, now = Plan.objects.select_related("image__provider").get(), Facility.objects.get(), clock.now()
    endpoint = {"service": "jupyter", "kind": "tcp", "host": "127.0.0.1", "port": ours.backend, "path": ""}
    shared = {"name": "big", "facility": facility, "plan": plan, "provider": plan.image.provider, "ready_at": now}
    running = {"state": State.ACTIVE, "target": Target.ACTIVE, "endpoints": [endpoint]}
    rows = [Instance(owner=user, **shared, **running) for user in users[:RUNNING]]
    for row in rows:
        row.ref = row.machine_name
        (ours.machines / row.ref).write_text(str(row.uid))
    made = Instance.objects.bulk_create(rows)
    Member.objects.bulk_create(Member(instance=row, user_id=row.owner_id, role=InstanceRole.OWNER) for row in made)


def fill_hub(peers: Peers, hub: Hub, backend: int) -> None:
    script, url = ROOT / "tests" / "bench" / "peers" / "hub_fill.py", f"sqlite:///{hub.folder}/hub.sqlite"
    argv = [str(peers.python), str(script), url, str(USERS), str(RUNNING), str(backend)]
    subprocess.run(argv, check=True, env=peers.environment(), timeout=300)


def memory(ours: Beamport, hub: Hub) -> Goal:
    names = ("web", "gateway", "worker")
    own = [pss(pid) for pid in ours.pids(*names)]
    print("  PSS in MB: " + ", ".join(f"{name} {size:.0f}" for name, size in zip(names, own, strict=True)))
    return Goal("P16", "memory of the idle API, gateway and one worker", sum(own), "MB", 2.5, pss(hub.pid))


async def run(peers: Peers, rounds: int) -> list[Goal]:
    with scratch() as folder, Processes(folder) as processes:
        backend = free_port()
        argv = [sys.executable, str(ROOT / "tests" / "bench" / "peers" / "backend.py"), str(backend)]
        processes.start("backend", argv, answers=lambda: listens(backend))
        ours, hub = Beamport(folder, backend), Hub(peers, processes, "noop", backend)
        try:
            await asyncio.to_thread(ours.start)
            hub.start()
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
                bench = Scale(http, ours, hub)
                await ours.api.remove(http, await bench.open_one())
                await asyncio.sleep(5)
                goals = [memory(ours, hub)]
                await asyncio.to_thread(fill_ours, ours)
                await asyncio.to_thread(fill_hub, peers, hub, backend)
                await in_turn(rounds, {"jupyterhub": bench.restart_hub, "beamport": bench.restart_ours})
            for name, sample in bench.up.items():
                print(f"  {name}, start-up, s: {sample}")
            print(f"  requests to an instance while web and worker were away: {bench.asked}")
            own, peer = bench.up["beamport"].median, bench.up["jupyterhub"].median
            what = f"start-up with {USERS} users, {RUNNING} running"
            goals.append(Goal("P14", what, own, "s", 0.5, peer))
            goals.append(Goal("P14", "requests that the gateway failed meanwhile", bench.refused, "", 0))
            return goals
        finally:
            ours.stop()
