"""Everything that is measured beside its peers, in one run: `make bench-peers`.

    python -m tests.bench.peers.run [--only starts,labs] [--rounds 3]

Each bench is a module with `async def run(peers, rounds) -> list[Goal]`, and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from tests.bench.peers import setup
from tests.bench.peers.lib import ROOT, Goal, load, table

BENCHES = ("web", "sockets", "withdrawal", "authority", "starts", "scale", "labs")


def one(name: str, rounds: int, answer: Path) -> None:
    """Run a bench here and leave its goals in a file."""
    module = import_module(f"tests.bench.peers.{name}")
    goals: list[Goal] = asyncio.run(module.run(setup.set_up(), rounds))
    answer.write_text(json.dumps([asdict(goal) for goal in goals]))


def each(names: list[str], rounds: int) -> tuple[list[Goal], list[str]]:
    """Return all goals, and the benches that broke."""
    goals: list[Goal] = []
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            answer = Path(folder) / name
            print(f"{name}, load {load()}:", flush=True)
            argv = [sys.executable, "-m", "tests.bench.peers.run", "--one", name, "--rounds", str(rounds)]
            if wait(subprocess.Popen([*argv, "--answer", str(answer)], cwd=ROOT)):
                broken.append(name)
            else:
                goals += [Goal(**row) for row in json.loads(answer.read_text())]
    return goals, broken


def wait(process: subprocess.Popen[bytes]) -> int:
    """Let a bench end, or end what it started itself when we are asked to stop."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHES), help="names of benches, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=BENCHES, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # what was started is ended by `finally`
    if given.one:
        one(given.one, given.rounds, given.answer)
        return 0
    setup.set_up()
    goals, broken = each(given.only.split(","), given.rounds)
    goals.sort(key=lambda goal: int(goal.number.removeprefix("P")))
    print(f"\nload at the end {load()}\n\n{table(goals)}")
    for name in broken:
        print(f"BROKEN: {name}, see above")
    return 1 if broken or not all(goal.met for goal in goals) else 0


if __name__ == "__main__":
    sys.exit(main())
