"""Machines that exist in this process only: for tests and benches, and the simplest example of the contract.

Options: `phases` (what a machine goes through after create and start, one phase a look; the last one stays, default
`running`), `flavours_total` (how many machines fit, default no limit), `serve` (give each running machine a real HTTP
endpoint on loopback).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import (
    Capacity,
    Endpoint,
    FlavourSpec,
    Home,
    ImageMissing,
    ImageSpec,
    Mount,
    MountKind,
    NoCapacity,
    Observation,
    Options,
    Rejected,
    Spec,
    Usage,
)
from portal.lib import readers


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@dataclass
class Machine:
    """One machine; tests may set any of it."""

    ref: str
    spec: Spec
    script: deque[Phase]
    phase: Phase = Phase.PENDING
    reason: str = ""
    detail: str = ""
    log: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def advance(self) -> None:
        """Go one phase further; the last of the script stays."""
        if self.script:
            self.phase = self.script.popleft()

    def remount(self, data: Sequence[Mount] | None) -> None:
        """Put these in the place of the data mounts; None leaves them."""
        if data is not None:
            others = (mount for mount in self.spec.mounts if mount.kind is not MountKind.DATA)
            self.spec = replace(self.spec, mounts=(*data, *others))

    def endpoints(self) -> tuple[Endpoint, ...]:
        if self.server is None or self.phase is not Phase.RUNNING:
            return ()
        host, port = self.server.server_address[:2]
        return tuple(Endpoint(s.name, "tcp", host=str(host), port=int(port)) for s in self.spec.services)

    def hang_up(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class MemoryProvider:
    """Thread-safe; everything that changes is under one lock. `calls` lists what was asked, for tests."""

    OPTIONS = Options(
        readers.table(
            {
                "phases": readers.each(readers.one_of(*Phase)),
                "flavours_total": readers.whole(0, 10**6),
                "serve": readers.flag,
            }
        )
    )

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.deployment = str(options.get("deployment", ""))
        self.script = tuple(Phase(phase) for phase in options.get("phases", [Phase.RUNNING]))
        self.room: int | None = options.get("flavours_total")
        self.serve = bool(options.get("serve", False))
        self.machines: dict[str, Machine] = {}
        self.homes: dict[str, int] = {}
        self.known_images = {"jupyter": ImageSpec("JupyterLab", "jupyter")}
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.RLock()
        self._events: deque[str] = deque()
        self._changed = threading.Condition(self._lock)
        self._closed = False

    # ---- verbs ----
    def create(self, spec: Spec) -> str:
        with self._lock:
            self.calls.append(("create", spec.name))
            known = self._named(spec.name)
            if known is not None:
                return known.ref
            if spec.image.reference not in self.known_images:
                raise ImageMissing(f"no image {spec.image.reference}")
            if self.room is not None and len(self.machines) >= self.room:
                raise NoCapacity("all places are taken")
            machine = Machine(ref=f"m-{spec.name}", spec=spec, script=deque(self.script))
            if machine.ref in self.machines:
                raise Rejected(f"the name {spec.name} is taken by another deployment")
            if spec.home is not None:
                self.homes.setdefault(spec.home.key, 0)
            self.machines[machine.ref] = machine
            self._begin(machine)
            return machine.ref

    def delete(self, ref: str) -> None:
        with self._lock:
            self.calls.append(("delete", ref))
            machine = self.machines.get(ref) or self._named(ref)
            if machine is not None and machine.spec.deployment == self.deployment:
                machine.hang_up()
                del self.machines[machine.ref]
                self._tell(ref)

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        with self._lock:
            self.calls.append(("start", ref))
            machine = self._mine(ref)
            if machine.phase is Phase.STOPPED:
                machine.remount(data)
                machine.script = deque(self.script)
                self._begin(machine)

    def stop(self, ref: str) -> None:
        with self._lock:
            self.calls.append(("stop", ref))
            machine = self._mine(ref)
            machine.hang_up()
            machine.script.clear()
            if machine.phase is not Phase.FAILED:  # which only a new one mends
                machine.phase, machine.reason = Phase.STOPPED, ""
            self._tell(ref)

    def reboot(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        with self._lock:
            self.calls.append(("reboot", ref))
            machine = self._mine(ref)
            machine.remount(data)
            machine.script = deque(self.script)
            self._begin(machine)

    # ---- sight ----
    def observe(self) -> Iterable[Observation]:
        with self._lock:
            self.calls.append(("observe", ""))
            return [self._seen(machine) for machine in list(self.machines.values()) if self._tagged(machine)]

    def look(self, ref: str) -> Observation:
        with self._lock:
            self.calls.append(("look", ref))
            machine = self.machines.get(ref) or self._named(ref)
            if machine is None or not self._tagged(machine):
                return Observation(ref="", name="", instance="", phase=Phase.MISSING)
            return self._seen(machine)

    def watch(self, wake: Callable[[str], None]) -> None:
        """Report each change; returns after `close`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self._closed)
                if self._closed:
                    return
                ref = self._events.popleft()
            wake(ref)

    def console(self, ref: str) -> str:
        with self._lock:
            machine = self.machines.get(ref)
            return "\n".join(machine.log[-50:]) if machine else ""

    # ---- homes and what there is ----
    def home_usage(self, home: Home) -> Usage:
        with self._lock:
            return Usage(self.homes.get(home.key, 0), home.limit, datetime.now(UTC))

    def delete_home(self, home: Home) -> None:
        with self._lock:
            users = [m for m in self.machines.values() if m.spec.home and m.spec.home.key == home.key]
            if users:
                raise Rejected(f"home {home.key} is used by {users[0].spec.name}")
            self.homes.pop(home.key, None)

    def capacity(self) -> Iterable[Capacity]:
        total = self.room if self.room is not None else 1000
        return [Capacity("small", free=max(0, total - len(self.machines)), total=total)]

    def images(self) -> Iterable[ImageSpec]:
        return list(self.known_images.values())

    def flavours(self) -> Iterable[FlavourSpec]:
        return [FlavourSpec("small", 1, 2**30, 0)]

    # ---- for tests: what happens to a machine by itself ----
    def happen(self, ref: str, phase: Phase, *, reason: str = "", detail: str = "") -> None:
        """Put a machine into a phase, as a fault or a person at the cloud would."""
        with self._lock:
            machine = self.machines[ref]
            machine.script.clear()
            machine.phase, machine.reason, machine.detail = phase, reason, detail
            self._tell(ref)

    def lose(self, ref: str) -> None:
        """Have a machine vanish without anybody's asking."""
        with self._lock:
            self.machines.pop(ref).hang_up()
            self._tell(ref)

    def close(self) -> None:
        """End `watch` and all endpoints."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for machine in self.machines.values():
                machine.hang_up()

    # ---- inside ----
    def _begin(self, machine: Machine) -> None:
        machine.phase, machine.reason, machine.detail = Phase.PENDING, "", ""
        if self.serve and machine.server is None:
            machine.server = ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
            threading.Thread(target=machine.server.serve_forever, args=(0.05,), daemon=True).start()
        self._tell(machine.ref)

    def _seen(self, machine: Machine) -> Observation:
        machine.advance()
        return Observation(
            ref=machine.ref,
            name=machine.spec.name,
            instance=machine.spec.instance,
            phase=machine.phase,
            endpoints=machine.endpoints(),
            reason=machine.reason,
            detail=machine.detail,
            deployment=machine.spec.deployment,
        )

    def _tagged(self, machine: Machine) -> bool:
        return machine.spec.deployment == self.deployment

    def _named(self, name: str) -> Machine | None:
        return next((m for m in self.machines.values() if m.spec.name == name and self._tagged(m)), None)

    def _mine(self, ref: str) -> Machine:
        machine = self.machines.get(ref)
        if machine is None or not self._tagged(machine):
            raise Rejected(f"no machine {ref}")
        return machine

    def _tell(self, ref: str) -> None:
        self._events.append(ref)
        self._changed.notify_all()
