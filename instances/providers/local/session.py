"""One running sandbox: how it is started, what it writes, how it is ended with all that runs in it.

Sandboxes are started from the main thread only: they die with the *thread* that made them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from instances.providers.base import MountMissing, ProviderError, ProviderUnavailable, Rejected
from instances.providers.local import seccomp
from instances.providers.local.cgroups import Group
from instances.providers.local.processes import descendants, program
from instances.providers.local.store import Record
from instances.providers.local.wire import refusal

LAUNCH = Path(__file__).with_name("launch.py")
#: a source that hangs (a dead file server) must not hold its start for ever
START_SECONDS = 15.0
#: what a session has to save its work and end by itself
GRACE_SECONDS = 5.0
_RLIMITS = {"CORE": 0, "NOFILE": 65536}


class Log:
    """The machine's log: everything is written, only the end is kept, so that it cannot fill the disk."""

    MOST = 256 * 1024

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "r+b", 0)
        self._size = 0

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk takes the log, not the session
            if self._size + len(data) > self.MOST:
                self._file.seek(-min(self._size, self.MOST // 2), os.SEEK_END)
                data = (self._file.read() + data)[-self.MOST // 2 :]
                self._file.seek(0)
                self._file.truncate()
                self._size = 0
            self._file.write(data)
            self._size += len(data)

    def close(self) -> None:
        self._file.close()


def tail(path: Path, lines: int = 40) -> str:
    """Return the last lines of a log, without what a terminal would take for a command."""
    try:
        text = path.read_bytes()[-32_768:].decode(errors="replace")
    except OSError:
        return ""
    shown = "".join(sign if sign.isprintable() or sign == "\n" else "·" for sign in text)
    return "\n".join(line[:500] for line in shown.splitlines()[-lines:])


@dataclass(eq=False)
class Session:
    """A sandbox that runs: bubblewrap's outer process, and the first process of its pid namespace."""

    record: Record
    process: subprocess.Popen[bytes]
    first: int  # a pidfd
    group: Group
    log: Log
    began: float = field(default_factory=time.monotonic)
    stopping: bool = False
    #: the watchdog ended it, and why
    verdict: str = ""
    kills: int = 0
    #: processes and threads that it was refused
    refused: int = 0
    #: when its memory is to be summed up again, where no cgroup does it
    weigh_at: float = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def limit_reached(self) -> str:
        """The reason that a page gives while it runs on; empty when no limit was reached."""
        return "out-of-memory" if self.kills else "process-limit" if self.refused else ""

    async def end(self, grace: float = GRACE_SECONDS) -> None:
        """Ask the server inside to end, then end everything; returns when nothing of the namespace is left."""
        self.stopping = True
        inside = next((pid for pid in descendants(self.process.pid) if program(pid) != "bwrap"), None)
        if inside is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inside, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self.ended.wait()
                return
        self.kill()
        async with asyncio.timeout(10):
            await self.ended.wait()

    def kill(self) -> None:
        """End the whole pid namespace: it dies with its first process."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.first, signal.SIGKILL)
        self.process.kill()


@dataclass(frozen=True)
class Order:
    """What launch.py is told, and bubblewrap after it."""

    record: Record
    group: Group
    bwrap: str
    arguments: list[str]
    command: list[str]

    def text(self, arguments_fd: int, info_fd: int, filter_fd: int | None) -> bytes:
        argv = [self.bwrap, "--args", str(arguments_fd), "--info-fd", str(info_fd)]
        argv += [] if filter_fd is None else ["--seccomp", str(filter_fd)]
        argv += ["--", *self.command]
        ids = self.record.ids
        return json.dumps(
            {
                "cgroups": self.group.join_files,
                "limits": _RLIMITS,
                "uid": ids.uid,
                "gid": ids.gid,
                "groups": list(ids.groups),
                "sources": self.record.data,
                "argv": argv,
            }
        ).encode()


async def start(order: Order, log: Log, ended: Callable[[Session, int], None]) -> Session:
    """Start a sandbox; `ended` is called once, when nothing of it runs any more, with bubblewrap's return code."""
    status, status_to = os.pipe()
    info, info_to = os.pipe()
    output, output_to = os.pipe()
    arguments = _memory_file("\0".join(order.arguments).encode())
    rules = seccomp.program()
    filters = [_memory_file(rules)] if rules else []
    orders = _memory_file(order.text(arguments, info_to, filters[0] if filters else None))
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCH), str(orders), str(status_to)],
            stdin=subprocess.DEVNULL,
            stdout=output_to,
            stderr=output_to,
            pass_fds=(orders, arguments, status_to, info_to, *filters),
            start_new_session=True,
            cwd="/",
            env={},
        )
    except OSError as error:
        for fd in (status, info, output):
            os.close(fd)
        raise ProviderUnavailable(f"no process can be made: {error.strerror}") from error
    finally:
        for fd in (status_to, info_to, output_to, arguments, orders, *filters):
            os.close(fd)
    _follow(output, log)
    try:
        async with asyncio.timeout(START_SECONDS):
            fault, told = await asyncio.gather(_all(status), _all(info))
        if fault:
            raise _as_error(json.loads(fault))
        first = os.pidfd_open(json.loads(told)["child-pid"])
    except (TimeoutError, ValueError, KeyError, OSError, ProviderError) as error:
        process.kill()
        process.wait()
        if isinstance(error, ProviderError):
            raise
        text = "its folders do not answer" if isinstance(error, TimeoutError) else "bubblewrap ended at once"
        raise ProviderUnavailable(f"the sandbox did not start: {text}. {tail(log.path, 3)}") from error
    session = Session(order.record, process, first, order.group, log)
    _when_ended(session, ended)
    return session


def _when_ended(session: Session, ended: Callable[[Session, int], None]) -> None:
    """Wait for bubblewrap, then for the first process inside: the kernel lets it go last of its namespace."""
    loop = asyncio.get_running_loop()
    outer = os.pidfd_open(session.process.pid)

    def outer_gone() -> None:
        loop.remove_reader(outer)
        os.close(outer)
        code = session.process.wait()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(session.first, signal.SIGKILL)
        loop.add_reader(session.first, first_gone, code)

    def first_gone(code: int) -> None:
        loop.remove_reader(session.first)
        os.close(session.first)
        ended(session, code)

    loop.add_reader(outer, outer_gone)


def _follow(output: int, log: Log) -> None:
    """Write what a session says to its log until it says no more."""
    loop = asyncio.get_running_loop()
    os.set_blocking(output, False)

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(output, 65536)
            if data:
                log.write(data)
                return
            loop.remove_reader(output)
            os.close(output)
            log.close()

    loop.add_reader(output, read)


async def _all(fd: int) -> bytes:
    """Read a pipe to its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    parts: list[bytes] = []

    def read() -> None:
        data = os.read(fd, 4096)
        parts.append(data)
        if not data and not done.done():
            done.set_result(None)

    loop.add_reader(fd, read)
    try:
        await done
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return b"".join(parts)


def _memory_file(content: bytes) -> int:
    """Return a descriptor to read `content` from: what is in there shows in no list of processes."""
    fd = os.memfd_create("order")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _as_error(fault: dict[str, str]) -> ProviderError:
    """Translate what launch.py found; a host's path is for the log, the folder's name inside for people."""
    run = fault["target"].removeprefix("/work/data/")
    if fault["fault"] == "missing":
        return MountMissing(f"The data of {run} are not there.")
    if fault["fault"] == "not-a-folder":
        return MountMissing(f"The data of {run} are not a folder.")
    if fault["fault"] == "denied":
        return MountMissing(f"The data of {run} cannot be read with your account at the facility.")
    return refusal(Rejected, "rejected", f"the sandbox was not started: {fault['source']}")
