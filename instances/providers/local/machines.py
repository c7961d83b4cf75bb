"""The verbs of the local provider on the side of the supervisor; each machine's verbs one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import NoCapacity, Rejected
from instances.providers.local import disk, processes, sandbox
from instances.providers.local.bubblewrap import Bubblewrap
from instances.providers.local.cgroups import Groups, Limits
from instances.providers.local.session import Log, Order, Session, start, tail
from instances.providers.local.store import Ending, Record, Store
from instances.providers.local.wire import home_key, name_of, refusal, unpack_data, unpack_spec
from portal.lib.hashing import instance_secret

log = logging.getLogger("beamport.supervisor")

#: processes and threads of one session
PROCESSES = 512
#: seconds after which a server that has not opened its sockets holds up nobody else's start
_STARTING = 60.0
#: the share of its memory from which a session without a cgroup is watched more closely
_NEARLY = 0.7
#: of the log that people see
LINES = 40


@dataclass
class Machines:
    """All machines of this host. `publish` gets an event for whoever watches."""

    store: Store
    bubblewrap: Bubblewrap
    groups: Groups
    key: bytes
    every: float  # seconds between two counts of a home
    publish: Callable[[dict[str, Any]], None]
    running: dict[str, Session] = field(default_factory=dict)
    #: being started or stopped just now
    moving: set[str] = field(default_factory=set)
    usage: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: how many machines may start at a time
    turns: int = max(4, 2 * (os.cpu_count() or 1))
    #: memory of machines that are on their way to run
    promised: dict[str, int] = field(default_factory=dict)
    _locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    # ---- verbs ----
    async def create(self, spec: dict[str, Any]) -> str:
        """Make and start a machine, or find the one of this name and tag; nothing is left of one that fails."""
        wanted = unpack_spec(spec)
        async with self._alone(wanted.name):
            known = self.store.read(wanted.name)
            if known is not None:
                if known.deployment != wanted.deployment:
                    raise Rejected(f"the name {wanted.name} is taken by another deployment")
                return wanted.name
            with self._room(wanted.name, wanted.flavour.memory):
                record = self.store.make(wanted)
                try:
                    await self._start(record)
                except BaseException:
                    self._remove(self.store.set_aside(record.name))
                    raise
        return wanted.name

    async def start(self, name: str, deployment: str, data: Any = None) -> None:
        async with self._alone(name):
            record = self._mine(name, deployment)
            if name not in self.running:
                record = self._remounted(record, data)
                with self._room(name, record.memory):
                    self.store.check_disk()
                    await self._start(record)

    async def stop(self, name: str, deployment: str) -> None:
        async with self._alone(name):
            self._mine(name, deployment)
            await self._stop(name)

    async def reboot(self, name: str, deployment: str, data: Any = None) -> None:
        async with self._alone(name):
            record = self._remounted(self._mine(name, deployment), data)
            self.promised[name] = record.memory  # its own stays its own while it is down
            try:
                await self._stop(name)
                await self._start(record)
            finally:
                del self.promised[name]

    async def delete(self, name: str, deployment: str) -> None:
        """Remove a machine with its disk; a missing one is fine, another deployment's is left alone."""
        async with self._alone(name):
            record = self.store.read(name)
            if record is None or record.deployment != deployment:
                return
            await self._stop(name)
            self._remove(self.store.set_aside(name))
            self.publish({"event": "deleted", "name": name})

    # ---- sight ----
    def look(self, name: str, deployment: str) -> dict[str, Any]:
        record = self.store.read(name)
        if record is None or record.deployment != deployment:
            return {"name": "", "phase": Phase.MISSING}
        return self._seen(record)

    def observe(self, deployment: str) -> list[dict[str, Any]]:
        records = (self.store.read(name) for name in self.store.names())
        return [self._seen(record) for record in records if record and record.deployment == deployment]

    def console(self, name: str, deployment: str) -> str:
        record = self.store.read(name)
        if record is None or record.deployment != deployment:
            return ""
        return tail(self.store.folder(name) / "log", LINES)

    def capacity(self) -> dict[str, int]:
        """Return memory in bytes: the host's, and what running machines may take of it; and its cores."""
        running = {name: session.record.memory for name, session in self.running.items()}
        given = sum((self.promised | running).values())
        return {"memory": _host_memory(), "given": given, "cores": os.cpu_count() or 1}

    def images(self) -> list[str]:
        return self.store.references()

    # ---- homes ----
    async def home_usage(self, key: str) -> dict[str, Any]:
        """Return bytes and when they were counted (seconds since the epoch); none for a home that is not there.

        `limit` is what a file system of its own holds, 0 where there is none.
        """
        folder = self.store.homes / home_key(key)
        if not folder.is_dir():
            return {"used": 0, "at": time.time(), "limit": 0}
        if key not in self.usage or time.time() - self.usage[key][1] > self.every:
            await self._measure(key)
        used, at = self.usage.get(key, (None, None))
        return {"used": used, "at": at, "limit": disk.size(folder) if os.path.ismount(folder) else 0}

    async def delete_home(self, key: str) -> None:
        users = self.store.home_users(home_key(key))
        if users:
            raise Rejected(f"the home is in use by {len(users)} instance(s), stopped ones too; delete those first")
        self.usage.pop(key, None)
        try:
            aside = self.store.set_home_aside(key)
        except OSError:  # a file system of its own is emptied where it is
            await disk.empty(self.store.homes / key)
            return
        if aside is not None:
            self._remove(aside)

    # ---- by itself ----
    async def recover(self) -> None:
        """Clear away what an earlier supervisor left: nothing of it runs, its folders are stopped machines."""
        await self.groups.sweep()
        for path in self.store.lay():
            self._remove(path)
        for name in self.store.names():
            self.store.close_run(name)

    async def close(self) -> None:
        """Stop everything, at the same time."""
        names = [*self.running]
        await asyncio.gather(*(self._end_with_us(name) for name in names), return_exceptions=True)

    async def look_after(self) -> None:
        """Tell what the kernel ended or refused in the name of a limit."""
        for session in [*self.running.values()]:
            before = session.limit_reached
            session.kills, session.refused = session.group.memory_kills(), session.group.refused_processes()
            if session.limit_reached != before:
                log.info("%s: %s", session.record.name, session.limit_reached)
                self.publish({"event": "changed", "name": session.record.name, "reason": session.limit_reached})

    async def watch_memory(self) -> None:
        """Without a memory cgroup play its part; who is near the limit is looked at each time, others each second."""
        now = time.monotonic()
        due = [session for session in self.running.values() if session.weigh_at <= now]
        if "memory" not in self.groups.missing or not due:
            return
        taken = await asyncio.to_thread(processes.memory_below, [session.process.pid for session in due])
        for session, memory in zip(due, taken, strict=True):
            session.weigh_at = now + (0.0 if memory > _NEARLY * session.record.memory else 1.0)
            if memory > session.record.memory:
                session.verdict = "out-of-memory"
                session.kill()

    async def measure(self) -> None:
        """Count the homes in use, and end who fills more disk than his flavour has."""
        for key in {session.record.home for session in self.running.values()} - {""}:
            await self._measure(key)
        for session in [*self.running.values()]:
            limit = session.record.disk
            if limit:
                used = await disk.used(self.store.folder(session.record.name) / "scratch", session.record.ids.uid)
                if used is not None and used > limit:
                    session.verdict = "disk-full"
                    await session.end()

    # ---- inside ----
    @contextlib.asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        async with self._locks[name_of(name)]:
            self.moving.add(name)
            try:
                yield
            finally:
                self.moving.discard(name)

    async def _start(self, record: Record) -> None:
        folder = self.store.folder(record.name)
        image = self.store.image(record.image)
        self.store.mount_points(record)
        places = sandbox.Places(
            image=image,
            scratch=folder / "scratch",
            sockets=self.store.open_run(record),
            etc=folder / "etc",
            home=self.store.home(record),
            data=record.data,
        )
        token = instance_secret(self.key, record.instance, record.secret_epoch, "jupyter")
        environment = sandbox.environment(token, record.cores)
        group = self.groups.group(record.name)
        await group.remove()
        group.make(Limits(record.memory, PROCESSES, record.cores))
        order = Order(
            record,
            group,
            self.bubblewrap.path,
            sandbox.arguments(places, environment, record.memory),
            sandbox.command(
                PROCESSES if "pids" in self.groups.missing else None,
                2 * record.memory if "memory" in self.groups.missing else None,
            ),
        )
        self.store.started(record.name)
        try:
            session = await start(order, Log(folder / "log"), self._ended)
        except BaseException:
            self.store.write_ending(record.name, Ending())
            self.store.close_run(record.name)
            await group.remove()
            raise
        self.running[record.name] = session
        log.info("%s started as uid %s", record.name, record.ids.uid)

    async def _stop(self, name: str) -> None:
        session = self.running.get(name)
        if session is not None:
            await session.end()

    async def _end_with_us(self, name: str) -> None:
        async with self._alone(name):
            await self._stop(name)
            self.store.write_ending(name, Ending("supervisor-restarted", "The portal on this machine was stopped."))

    def _ended(self, session: Session, code: int) -> None:
        """Note why a session ended, once nothing of it runs any more."""
        name = session.record.name
        self.running.pop(name, None)
        ending = _why(session, code)
        self.store.close_run(name)
        with contextlib.suppress(OSError):
            self.store.write_ending(name, ending)
        self._later(self._after(session, ending))

    async def _after(self, session: Session, ending: Ending) -> None:
        await session.group.remove()
        session.ended.set()
        name = session.record.name
        log.info("%s ended: %s", name, ending.reason or "stopped")
        self.publish({"event": "exited", "name": name, "reason": ending.reason})

    def _seen(self, record: Record) -> dict[str, Any]:
        name, session = record.name, self.running.get(record.name)
        seen = {"name": name, "instance": record.instance, "deployment": record.deployment}
        if session is not None:
            sockets = [
                {"service": service.name, "kind": "unix", "path": str(self.store.socket(name, service.name))}
                for service in record.services
            ]
            phase = Phase.PENDING if session.stopping else Phase.RUNNING
            reason = session.limit_reached
            detail = _memory_text(record) if reason == "out-of-memory" else ""
            return seen | {"phase": phase, "endpoints": sockets, "reason": reason, "detail": detail}
        if name in self.moving:
            return seen | {"phase": Phase.PENDING}
        ending = self.store.ending(name)
        return seen | {"phase": Phase.STOPPED, "reason": ending.reason, "detail": ending.detail}

    def _mine(self, name: str, deployment: str) -> Record:
        record = self.store.read(name)
        if record is None or record.deployment != deployment:
            raise Rejected(f"no machine {name}")
        return record

    def _remounted(self, record: Record, data: Any) -> Record:
        """Keep new data mounts before anything is tried with them, so that no later start brings old ones back."""
        return record if data is None else self.store.remount(record, unpack_data(data))

    @contextlib.contextmanager
    def _room(self, name: str, wanted: int) -> Iterator[None]:
        """Keep memory for a machine until it runs, so that of many that start at once none gets another's.

        As many start at a time as the cores can carry: all at once, all would be late.
        """
        starting = {*self.promised, *(one for one, session in self.running.items() if self._still_starts(session))}
        if len(starting) >= self.turns:
            raise refusal(NoCapacity, "waiting-for-turn", f"{len(starting)} machines are starting just now")
        have = self.capacity()
        if have["given"] + wanted > have["memory"]:
            raise NoCapacity(f"{have['given']} of {have['memory']} bytes of memory are given to running instances")
        self.promised[name] = wanted
        try:
            yield
        finally:
            del self.promised[name]

    def _still_starts(self, session: Session) -> bool:
        """Whether it was started a moment ago and has not opened its sockets yet."""
        if session.stopping or time.monotonic() - session.began > _STARTING:
            return False
        record = session.record
        return not all(self.store.socket(record.name, service.name).exists() for service in record.services)

    async def _measure(self, key: str) -> None:
        folder = self.store.homes / key
        if folder.is_dir():
            began = time.time()  # what is written while it counts may be left out
            used = await disk.used(folder, folder.stat().st_uid)
            if used is not None:
                self.usage[key] = (used, began)

    def _remove(self, path: Path) -> None:
        self._later(disk.remove(path))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _why(session: Session, code: int) -> Ending:
    killed = code in (137, -9)
    if session.verdict == "disk-full":
        return Ending("disk-full", "It wrote more than the disk of its plan holds.")
    if session.verdict == "out-of-memory" or (killed and session.group.memory_kills() > 0 and not session.stopping):
        return Ending("out-of-memory", _memory_text(session.record))
    if session.stopping:
        return Ending()
    if code == 0:
        return Ending("shut-down")
    return Ending("ended", f"It ended with code {code}.")


def _memory_text(record: Record) -> str:
    return f"A program reached the limit of {record.memory / 2**30:g} GiB of memory and was ended."


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
