"""What the comparisons share: processes and their cost, turns, medians with their spread, and goals met or missed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent.parent
#: seconds that a part may take to answer, on a machine that is busy besides
PATIENCE = 300.0


# ---- what a process tree costs ----
def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it that live."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu(*pids: int) -> float:
    """CPU seconds of the trees so far, with those of children that have ended."""
    total = 0.0
    for process in (process for pid in pids for process in tree(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def pss(*pids: int) -> float:
    """Memory of the trees in MB; a page that several share counts once."""
    total = 0
    for process in (process for pid in pids for process in tree(pid)):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


# ---- processes ----
def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Processes:
    """Starts children, each in a session of its own with its log in `folder`; ends exactly those."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_exc: object) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
        answers: Callable[[], bool] | None = None,
    ) -> float:
        """Start a program and wait until it answers; return the seconds that took."""
        began = time.perf_counter()
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                argv, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        while answers is not None and not answers():
            self.check(name, began)
            time.sleep(0.01)
        return time.perf_counter() - began

    def check(self, name: str, began: float) -> None:
        ended = self.running[name].poll() is not None
        if ended or time.perf_counter() - began > PATIENCE:
            lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-20:]
            raise RuntimeError(f"{name} {'ended' if ended else 'does not answer'}:\n" + "\n".join(lines))

    def pid(self, name: str) -> int:
        return self.running[name].pid

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for this run alone, which other users may cross."""
    with tempfile.TemporaryDirectory(prefix="bpp-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


# ---- figures ----
@dataclass
class Sample:
    """Values of one quantity over the rounds."""

    values: list[float] = field(default_factory=list)

    def add(self, *values: float) -> None:
        self.values.extend(values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median: the noise beside each figure."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def __str__(self) -> str:
        return f"median {self.median:.4g}, p95 {self.percentile(0.95):.4g}, ±{self.spread:.0%}, n={len(self.values)}"


async def in_turn(rounds: int, measures: Mapping[str, Callable[[int], Awaitable[None]]]) -> None:
    """Run every measure once a round, one after the other, so that all see the same minutes of the machine."""
    for number in range(rounds):
        for name, measure in measures.items():
            began = time.perf_counter()
            await measure(number)
            took = time.perf_counter() - began
            print(f"  round {number + 1} of {rounds}, {name}: {took:.1f} s, load {load()}", flush=True)


@dataclass(frozen=True)
class Goal:
    """One performance goal: ours against a peer (a ratio) or against a figure (`peer` is None)."""

    number: str
    what: str
    ours: float
    unit: str
    limit: float
    peer: float | None = None
    least: bool = False

    @property
    def value(self) -> float:
        """What the limit is for."""
        return self.ours if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def row(self) -> tuple[str, ...]:
        sign, times = "≥" if self.least else "≤", "" if self.peer is None else " ×"
        return (
            self.number,
            self.what,
            f"{self.ours:.4g} {self.unit}",
            "" if self.peer is None else f"{self.peer:.4g} {self.unit}",
            "" if self.peer is None else f"{self.value:.3g}",
            f"{sign} {self.limit:.4g}{times or ' ' + self.unit}",
            "met" if self.met else "MISSED",
        )


def table(goals: Iterable[Goal]) -> str:
    """All goals as a Markdown table, to be read and to be kept."""
    head: tuple[str, ...] = ("goal", "what", "ours", "peer", "ratio", "limit", "")
    rows = [head, *(goal.row() for goal in goals)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    lines = [f"| {' | '.join(cells)} |" for cells in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def versions(python: Path, *names: str) -> dict[str, Any]:
    """The versions of the peers that were measured."""
    code = "import importlib.metadata as m, sys; print(*(m.version(n) for n in sys.argv[1:]))"
    said = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True).stdout
    return dict(zip(names, said.split(), strict=True))
