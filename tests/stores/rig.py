"""A portal of real processes on stores of its own, which can be stopped, hung and flushed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from portal.embedded.addresses import Site
from portal.embedded.people import gateway_person, ourselves, portal_person
from portal.embedded.processes import Child
from portal.embedded.stack import Stack
from portal.embedded.state import ROOT, State
from tests.portals import free_port

#: a generous deadline for what should take a moment
SOON = 30.0


@dataclass
class Person:
    """A seeded user: what his browser and his scripts hold, and what only he may ever be shown."""

    uid: str
    handle: str
    marker: str
    session: str
    token: str
    instances: list[dict[str, str]]


class Rig:
    """PostgreSQL, Redis, web, worker and gateway as `manage.py up` starts them, without the parent that mends them."""

    def __init__(self, **seed: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bps-", dir="/var/tmp"))
        self.folder.chmod(0o711)
        self.port = free_port()
        self.site = Site(
            demo=True,
            port=self.port,
            portal_url=f"http://localhost:{self.port}",
            apps_domain=f"apps.localhost:{self.port}",
            listen=f"127.0.0.1:{self.port}",
        )
        self.state = State(self.folder, portal_person(), gateway_person())
        self.seed = seed | {"issuer": self.site.issuer}
        self.children: list[Child] = []
        self.people: list[Person] = []
        self.plan = ""

    # ---- life ----
    def __enter__(self) -> Rig:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        self.state.lay()
        stack = Stack(self.state, self.site)
        self.postgres, self.redis = stack.postgres(), stack.redis()
        self.web, self.worker, self.gateway = stack.web(), stack.worker(), stack.gateway()
        self.children = [self.postgres, self.redis, self.worker, self.web, self.gateway]
        self.postgres.start()
        self.redis.start()
        self.redis.wait_ready(SOON)
        made = self.run("tests.stores.seed", json.dumps(self.seed))
        self.plan = made["plan"]
        self.people = [Person(**person) for person in made["people"]]
        for child in (self.worker, self.web, self.gateway):
            child.start()
        for child in (self.worker, self.web, self.gateway):
            child.wait_ready(SOON)
        until(lambda: "link up" in self.log(self.gateway), what="the gateway's link")

    def __exit__(self, *_: object) -> None:
        """Nothing is kept, so nobody is asked politely."""
        for child in self.children:
            if not child.pid:
                continue
            doomed = [child.pid, *children_of(child.pid)] if child.alive() else []
            for pid in doomed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, module: str, *arguments: str) -> Any:
        """Run a module of the tests inside this portal's settings; what it prints is JSON."""
        environment = {**self.web.program.environment, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=6 * SOON,
            **ourselves().ids(),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def ask(self, what: str, *arguments: str) -> Any:
        """Look at the rows, or act as an operator does (see tests/stores/seed.py)."""
        return self.run("tests.stores.seed", what, *arguments)

    # ---- Redis ----
    @contextlib.contextmanager
    def redis_stopped(self) -> Iterator[None]:
        self.redis.stop()
        try:
            yield
        finally:
            self.redis.start()
            self.redis.wait_ready(SOON)

    @contextlib.contextmanager
    def redis_hung(self) -> Iterator[None]:
        os.kill(self.redis.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.redis.pid, signal.SIGCONT)

    def flush_redis(self) -> None:
        import redis

        with redis.Redis(unix_socket_path=str(self.folder / "run" / "back" / "redis.sock")) as client:
            client.flushall()

    # ---- PostgreSQL ----
    @contextlib.contextmanager
    def postgres_stopped(self) -> Iterator[None]:
        self.postgres.server.stop("immediate")  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.postgres.start()

    @contextlib.contextmanager
    def postgres_hung(self) -> Iterator[None]:
        """Every process of it stands still: connections are taken by the kernel and nobody answers."""
        self._signal_postgres(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_postgres(signal.SIGCONT)

    def database(self, **options: str) -> psycopg.Connection[Any]:
        """A connection of the test's own; each statement by itself."""
        socket = str(self.folder / "run" / "back")
        return psycopg.connect(host=socket, user="beamport", dbname="beamport", autocommit=True, **options)  # type: ignore[arg-type]

    def _signal_postgres(self, number: signal.Signals) -> None:
        parent = self.postgres.pid
        for pid in [parent, *children_of(parent)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # ---- looking ----
    def log(self, child: Child) -> str:
        return child.log.read_text(errors="replace")


def children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def memory_of(pid: int) -> int:
    """Bytes that are the process's own."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def until(condition: Callable[[], object], seconds: float = SOON, what: str = "this") -> float:
    """Wait until it is true; returns how long it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began
