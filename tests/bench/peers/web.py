"""P1, P2, P3: requests for a file of 1 KB by 32 connections, and of 10 MB by four, through each proxy in turn (wrk)."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.bench.peers.lib import Goal, Processes, Sample, in_turn, scratch
from tests.bench.peers.proxies import CHP, JSP, NGINX, OURS, TUNED, Proxies, Target, check
from tests.bench.peers.setup import Peers

SECONDS = 3
SMALL, LARGE = ("1k.bin", 32), ("10m.bin", 4)
#: jupyter-server-proxy has a goal for small requests only
COMPARED = {SMALL: (NGINX, CHP, JSP, OURS), LARGE: (NGINX, TUNED, CHP, OURS)}
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass
class Seen:
    """One kind of request through one proxy."""

    rate: Sample = field(default_factory=Sample)
    #: milliseconds
    p99: Sample = field(default_factory=Sample)
    #: microseconds a request
    cpu: Sample = field(default_factory=Sample)


async def wrk(target: Target, name: str, connections: int, seconds: int = SECONDS) -> tuple[int, float, float]:
    """Return how many requests were answered, how many a second, and p99 in ms; all answers must be good."""
    fields = [part for key, value in target.fields.items() for part in ("-H", f"{key}: {value}")]
    argv = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency", *fields, target.url(name)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("wrk", *argv, stdout=pipe)
    text = (await process.communicate())[0].decode()
    assert "Non-2xx" not in text, text
    assert "Socket errors" not in text, text
    count = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    late = re.search(r"99% +([\d.]+)(us|ms|s)", text)
    assert count, text
    assert rate, text
    assert late, text
    return int(count[1]), float(rate[1]), float(late[1]) * _UNITS[late[2]]


class Web:
    def __init__(self, targets: dict[str, Target]) -> None:
        self.targets = targets
        self.seen = {(name, kind): Seen() for kind, names in COMPARED.items() for name in names}

    def measure(self, name: str, kind: tuple[str, int]) -> Callable[[int], Awaitable[None]]:
        async def measured(_round: int) -> None:
            target, seen = self.targets[name], self.seen[name, kind]
            before = target.cpu()
            count, rate, late = await wrk(target, *kind)
            seen.cpu.add(1e6 * (target.cpu() - before) / count)
            seen.rate.add(rate)
            seen.p99.add(late)

        return measured

    def measures(self) -> dict[str, Callable[[int], Awaitable[None]]]:
        return {f"{kind[0]}, {name}": self.measure(name, kind) for name, kind in self.seen}

    def goals(self) -> list[Goal]:
        for (name, kind), seen in self.seen.items():
            print(f"  {kind[0]} through {name}: CPU µs {seen.cpu}; requests/s {seen.rate}; p99 ms {seen.p99}")
        small = {name: self.seen[name, SMALL] for name in COMPARED[SMALL]}
        large = {name: self.seen[name, LARGE].cpu.median / 1000 for name in COMPARED[LARGE]}
        ours = small[OURS]
        found = [
            Goal("P1", f"CPU of a 1 KB request / {name}", ours.cpu.median, "µs", limit, small[name].cpu.median)
            for name, limit in ((NGINX, 2), (CHP, 1 / 6))
        ]
        found += [
            Goal(
                "P2",
                f"1 KB, 32 connections / {name}",
                ours.rate.median,
                "/s",
                limit,
                small[name].rate.median,
                least=True,
            )
            for name, limit in ((NGINX, 0.6), (CHP, 4), (JSP, 20))
        ]
        found.append(Goal("P2", f"p99 / {CHP}", ours.p99.median, "ms", 1 / 3, small[CHP].p99.median))
        found += [
            Goal("P3", f"CPU of 10 MB / {name}", large[OURS], "ms", limit, large[name])
            for name, limit in ((TUNED, 2), (CHP, 1 / 3))
        ]
        return found


async def run(peers: Peers, rounds: int) -> list[Goal]:
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; Debian's packages nginx and wrk are needed")
    with scratch() as folder, Processes(folder) as processes:
        targets = await asyncio.to_thread(Proxies(peers, processes).start, NGINX, TUNED, CHP, JSP, OURS)
        await asyncio.to_thread(check, targets.values(), folder)
        web = Web(targets)
        for name, kind in web.seen:  # the first second warms up
            await wrk(targets[name], *kind, seconds=1)
        await in_turn(rounds, web.measures())
        return web.goals()
