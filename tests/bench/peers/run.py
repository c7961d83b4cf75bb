"""Everything that is measured beside its peers, in one run: `make bench-peers`.

python -m tests.bench.peers.run [--only starts,labs] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from tests.bench.peers import setup, starts
from tests.bench.peers.lib import Goal, load, table

Bench = Callable[[setup.Peers, int], Awaitable[list[Goal]]]


def benches() -> dict[str, Bench]:
    """Each bench by its name; a bench starts what it measures, asks in turns and ends it."""
    return {"starts": starts.run}


async def run(names: list[str], rounds: int) -> list[Goal]:
    peers, found = setup.set_up(), []
    for name in names:
        print(f"{name}, load {load()}:", flush=True)
        found += await benches()[name](peers, rounds)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--only", default=",".join(benches()), help="names of benches, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(argv)
    goals = asyncio.run(run([name for name in given.only.split(",") if name], given.rounds))
    print(f"\nload at the end {load()}\n\n{table(sorted(goals, key=_order))}")
    return 0 if all(goal.met for goal in goals) else 1


def _order(goal: Goal) -> int:
    return int(goal.number.removeprefix("P"))


if __name__ == "__main__":
    sys.exit(main())
