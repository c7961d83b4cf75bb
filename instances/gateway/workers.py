"""Several gateway processes on the same addresses: a parent that holds the sockets, starts, watches and replaces them.

Each process accepts from sockets of its own (SO_REUSEPORT spreads connections over them), and the parent keeps them
open: whoever takes a process's place goes on with the same queue, so that nobody who waits in it is refused, neither
when a process dies nor when all are replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from typing import Any

from instances.gateway.config import Config
from instances.gateway.listen import Door, bind
from instances.gateway.log import Log
from instances.gateway.metrics import Figures, add_up, counters, exposition, serve

#: a process that has lived so long did not die of its start
_SETTLED = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0
#: how long new processes may take until they accept, before the reload is given up
_PATIENCE = 30.0
_ANSWERS_WITHIN = 1.0
#: beyond what the processes themselves need to end
_GRACE = 5.0


class Worker:
    """One process and the socket over which it is spoken to; when that ends, so does the process."""

    def __init__(self, slot: int, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.slot = slot
        self.process = process
        self.began = time.monotonic()
        self.ready = asyncio.Event()
        self.figures: Figures = {}
        self._heard = asyncio.Event()
        self._control = control

    async def listen(self) -> None:
        """Hear what it says, until it has ended."""
        reader, self._writer = await asyncio.open_connection(sock=self._control)
        with contextlib.suppress(OSError, ValueError):  # it may end in the middle of a line
            while line := await reader.readline():
                if line == b"ready\n":
                    self.ready.set()
                else:
                    self.figures = json.loads(line)
                    self._heard.set()
        self._writer.close()

    def tell(self, word: str) -> None:
        self._writer.write(word.encode() + b"\n")

    async def look(self) -> None:
        """Have it say its figures; those it said before stand when it does not answer."""
        if self.ready.is_set():
            self._heard.clear()
            self.tell("figures")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWERS_WITHIN):
                    await self._heard.wait()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def is_ready(self, seconds: float) -> bool:
        """Wait until it accepts connections; False when it ended or took too long."""
        waiting = [asyncio.ensure_future(self.ready.wait()), asyncio.ensure_future(self.process.wait())]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return self.ready.is_set() and self.process.returncode is None


class Parent:
    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._doors: list[list[Door]] = []
        self._current: dict[int, Worker] = {}
        #: those that drain are here, too
        self._workers: set[Worker] = set()
        self._waits: dict[int, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        #: what processes that have ended counted
        self._past: Figures = {}
        self._stopping = False
        self._reloading: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serve until a signal; returns the exit status. Raises CannotStart."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        self._bind()
        await serve(self._config, self._figures)
        slots = range(self._config.processes)
        for slot in slots:
            self._current[slot] = await self._start(slot)
        started = await asyncio.gather(*(worker.is_ready(_PATIENCE) for worker in self._current.values()))
        if all(started):
            self._log.event("info", "gateway runs", processes=len(slots))
            await stop.wait()
        await self._stop()
        return 0 if all(started) else 1

    def _bind(self) -> None:
        """Make each process its sockets. Only the first can tell whether somebody else has the port."""
        for door in bind(self._config):
            door.sock.close()
        self._doors = [bind(self._config, shared=True) for _ in range(self._config.processes)]

    async def _start(self, slot: int, *, successor: bool = False) -> Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        doors = self._doors[slot]
        argv = ["--control", str(theirs.fileno()), "--doors", ",".join(map(_described, doors))]
        argv += ["--lead"] * (slot == 0) + ["--successor"] * successor
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "instances.gateway", *argv],
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), *(door.sock.fileno() for door in doors)],
        )
        theirs.close()
        worker = Worker(slot, process, ours)
        self._workers.add(worker)
        self._spawn(self._watch(worker))
        return worker

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---- watching ----
    async def _watch(self, worker: Worker) -> None:
        await worker.listen()
        status = await worker.process.wait()
        self._workers.discard(worker)
        self._past = add_up([self._past, counters(worker.figures)])
        if self._stopping or self._current.get(worker.slot) is not worker:
            return
        self._log.event("error", "gateway process ended", process=worker.slot, status=status)
        while True:
            await asyncio.sleep(self._back_off(worker))
            if self._stopping or self._current.get(worker.slot) is not worker:
                return
            try:
                self._current[worker.slot] = await self._start(worker.slot)
            except OSError as error:  # no memory, no descriptors
                self._log.event("error", "gateway process not started", process=worker.slot, error=error)
            else:
                return

    def _back_off(self, worker: Worker) -> float:
        """A process that has run for a while is replaced at once, one that dies of its start later and later."""
        if time.monotonic() - worker.began > _SETTLED:
            self._waits[worker.slot] = 0.0
        else:
            self._waits[worker.slot] = min(max(self._waits.get(worker.slot, 0.0) * 2, _FIRST_WAIT), _LONGEST_WAIT)
        return self._waits[worker.slot]

    async def _figures(self) -> str:
        workers = sorted(self._workers, key=lambda worker: worker.process.pid)
        await asyncio.gather(*(worker.look() for worker in workers))
        each = {str(worker.process.pid): worker.figures for worker in workers}
        return exposition(add_up([self._past, *each.values()]), each)

    # ---- replacing ----
    def _reload_soon(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = self._spawn(self._reload())

    async def _reload(self) -> None:
        """Start new processes, and only when all of them accept let the old ones drain."""
        new: list[Worker] = []
        with contextlib.suppress(OSError):
            for slot in self._current:
                new.append(await self._start(slot, successor=True))
        ready = await asyncio.gather(*(worker.is_ready(_PATIENCE) for worker in new))
        if not all(ready) or len(new) < len(self._current):
            self._log.event("error", "reload given up, the old processes stay")
            for worker in new:
                worker.signal(signal.SIGTERM)
            return
        old = list(self._current.values())
        self._current = {worker.slot: worker for worker in new}
        for worker in old:
            worker.tell("drain")
        self._log.event("info", "reloaded", draining=len(self._workers) - len(self._current))

    async def _stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        ending = [worker.process.wait() for worker in self._workers]
        try:
            async with asyncio.timeout(self._config.limits.drain + _GRACE):
                await asyncio.gather(*ending)
        except TimeoutError:
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _described(door: Door) -> str:
    return f"{'redirect' if door.redirects else 'serve'}:{door.sock.fileno()}"


def inherited(text: str) -> list[Door]:
    """Return the sockets that a parent has described."""
    doors = []
    for part in text.split(","):
        kind, _, descriptor = part.partition(":")
        doors.append(Door(socket.socket(fileno=int(descriptor)), kind == "redirect"))
    return doors


def run(config: Config) -> int:
    """Be the parent; returns the exit status. Raises CannotStart."""
    return asyncio.run(Parent(config, Log(shared=True)).run())
