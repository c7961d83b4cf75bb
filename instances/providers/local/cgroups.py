"""Limits of memory, processes and CPU by cgroups, version 1 or 2, without systemd.

What a host does not let us write is left out and named in `missing`; the watchdog then takes over the memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("beamport.supervisor.cgroups")

CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD = 100_000


def _write(path: Path, value: object) -> None:
    path.write_text(str(value))


@dataclass(frozen=True)
class Limits:
    """Bytes, processes and threads, cores."""

    memory: int
    pids: int
    cores: float


class Group:
    """The cgroup of one session: one folder in version 2, one a controller in version 1."""

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self.folders, self.version = folders, version

    @property
    def paths(self) -> list[Path]:
        return list(dict.fromkeys(self.folders.values()))

    @property
    def join_files(self) -> list[str]:
        return [str(path / "cgroup.procs") for path in self.paths]

    def make(self, limits: Limits) -> None:
        for path in self.paths:
            path.mkdir(exist_ok=True)
        for controller, folder in self.folders.items():
            getattr(self, f"_limit_{controller}")(folder, limits)

    def _limit_memory(self, folder: Path, limits: Limits) -> None:
        if self.version == 2:
            _write(folder / "memory.max", limits.memory)
            with contextlib.suppress(OSError):
                _write(folder / "memory.swap.max", 0)
            return
        _write(folder / "memory.limit_in_bytes", limits.memory)
        with contextlib.suppress(OSError):  # only where swap is accounted
            _write(folder / "memory.memsw.limit_in_bytes", limits.memory)

    def _limit_pids(self, folder: Path, limits: Limits) -> None:
        _write(folder / "pids.max", limits.pids)

    def _limit_cpu(self, folder: Path, limits: Limits) -> None:
        quota = max(1000, int(limits.cores * _PERIOD))
        if self.version == 2:
            _write(folder / "cpu.max", f"{quota} {_PERIOD}")
            return
        _write(folder / "cpu.cfs_period_us", _PERIOD)
        _write(folder / "cpu.cfs_quota_us", quota)

    def memory_kills(self) -> int:
        """Return how many processes the kernel ended here for memory."""
        return self._count("memory", "memory.events" if self.version == 2 else "memory.oom_control", "oom_kill")

    def refused_processes(self) -> int:
        """Return how often a process or thread was refused here, because there were as many as may be."""
        return self._count("pids", "pids.events", "max")

    def _count(self, controller: str, file: str, event: str) -> int:
        folder = self.folders.get(controller)
        if folder is None:
            return 0
        return sum(int(line.split()[1]) for line in _lines(folder / file) if line.split()[0] == event)

    def pids(self) -> set[int]:
        found: set[int] = set()
        for path in self.paths:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (path / "cgroup.procs").read_text().split()}
        return found

    async def remove(self, patience: float = 5.0) -> None:
        """Kill what is left and remove the folders; the kernel needs a moment to let the dead go."""
        for _ in range(int(patience / 0.02)):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for path in self.paths:
                with contextlib.suppress(OSError):
                    path.rmdir()
            if not any(path.exists() for path in self.paths):
                return
            await asyncio.sleep(0.02)
        log.warning("cgroup of a session stays: %s", ", ".join(str(path) for path in self.paths))


class Groups:
    """Where this supervisor may make cgroups: `parents` by controller."""

    def __init__(self, parents: dict[str, Path], version: int) -> None:
        self.parents, self.version = parents, version
        self.missing = [name for name in CONTROLLERS if name not in parents]

    def group(self, name: str) -> Group:
        return Group({controller: parent / name for controller, parent in self.parents.items()}, self.version)

    async def sweep(self) -> None:
        """End what a supervisor before us left behind."""
        names = {
            path.name
            for parent in self.parents.values()
            for path in parent.iterdir()
            if path.is_dir() and path.name != _LEAF
        }
        for name in names:
            await self.group(name).remove()

    def close(self) -> None:
        """Remove our own place, when nothing of it is in use."""
        for parent in set(self.parents.values()):
            if parent.name.startswith("beamport-"):
                with contextlib.suppress(OSError):
                    parent.rmdir()

    def describe(self) -> str:
        if not self.parents:
            return "no cgroups: limits by rlimits and watchdog"
        text = f"cgroup v{self.version}: {', '.join(self.parents)}"
        return text + (f"; not limited by cgroup: {', '.join(self.missing)}" if self.missing else "")


_LEAF = "supervisor"


def find(identity: str, *, mounts: Path = Path("/proc/mounts"), own: Path = Path("/proc/self/cgroup")) -> Groups:
    """Find and prepare a place of our own, called after `identity` so that two portals on a host do not meet."""
    v1, v2 = _mounted(mounts)
    name = f"beamport-{identity}"
    if v2 is not None:
        for parent in _candidates(v2, own, name):
            if _prepare(v2, parent):
                return Groups(dict.fromkeys(_enabled(parent), parent), 2)
    parents: dict[str, Path] = {}
    for controller, mount in v1.items():
        parent = mount / name
        with contextlib.suppress(OSError):
            parent.mkdir(exist_ok=True)
            if os.access(parent / "cgroup.procs", os.W_OK):
                parents[controller] = parent
    return Groups(parents, 1)


def _mounted(mounts: Path) -> tuple[dict[str, Path], Path | None]:
    """Return version 1's mount of each controller of ours, and version 2's when it has the memory controller."""
    v1: dict[str, Path] = {}
    v2 = None
    for line in mounts.read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup":
            v1 |= {name: Path(place) for name in CONTROLLERS if name in options.split(",")}
        elif kind == "cgroup2" and "memory" in _words(Path(place) / "cgroup.controllers"):
            v2 = Path(place)
    return v1, v2


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _candidates(mount: Path, own: Path, name: str) -> list[Path]:
    """Version 2: below our own group when it was delegated to us, else beside everybody's (root only)."""
    line = next((line for line in own.read_text().splitlines() if line.startswith("0::")), "0::/")
    ours = mount / line[3:].lstrip("/")
    return [mount / name] if ours == mount else [ours, mount / name]


def _prepare(mount: Path, parent: Path) -> bool:
    """Have `parent` hand the controllers to its children; a group that does so must hold no process itself."""
    try:
        parent.mkdir(exist_ok=True)
        if str(os.getpid()) in _words(parent / "cgroup.procs"):
            (parent / _LEAF).mkdir(exist_ok=True)
            _write(parent / _LEAF / "cgroup.procs", os.getpid())
        above = [folder for folder in (parent.parent,) if folder == mount]
        for folder in [*above, parent]:
            for controller in CONTROLLERS:
                if controller in _words(folder / "cgroup.controllers") and controller not in _enabled(folder):
                    _write(folder / "cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        log.info("cgroup %s cannot be used: %s", parent, error.strerror)
        return False
    return "memory" in _enabled(parent)


def _enabled(parent: Path) -> list[str]:
    return [name for name in CONTROLLERS if name in _words(parent / "cgroup.subtree_control")]
