"""The parent of all sandboxes: `python -m instances.providers.local.supervisor`.

One process, one loop, standard library only. It speaks one JSON object a line on a unix socket that only root, its own
uid and the portal's may use, in a session of its own, so that web, worker and their parent may come and go. Killed, it
takes its sandboxes with it; what it wrote on disk then means: stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import grp
import hashlib
import inspect
import json
import logging
import os
import pwd
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instances.providers.base import NoCapacity, ProviderError, ProviderUnavailable, Rejected
from instances.providers.local import bubblewrap, cgroups
from instances.providers.local.machines import Machines
from instances.providers.local.store import FIRST_UID, Store
from instances.providers.local.wire import LONGEST, pack_error, refusal
from portal.lib import variables

log = logging.getLogger("beamport.supervisor")

OPERATIONS = (
    *("create", "start", "stop", "reboot", "delete", "look", "console"),
    *("capacity", "images", "home_usage", "delete_home"),
)
#: bytes that stay free on the disk of the state folder
RESERVE = 256 * 2**20
SHORTEST_KEY = 32
_LOOK_AFTER = 1.0
_WATCH = 0.25
_HEARTBEAT = 5.0


@dataclass(frozen=True)
class Settings:
    """What the environment says; nothing of it reaches a session."""

    state: Path
    key: bytes
    portal_uid: int | None
    gateway_gid: int | None
    count_every: float

    @classmethod
    def read(cls, environment: dict[str, str]) -> Settings:
        state = Path(environment.get("BEAMPORT_STATE") or "/var/lib/beamport").absolute()
        given = variables.read("INSTANCE_KEY", environment, state / "secrets") or ""
        if len(given) < SHORTEST_KEY:
            raise ValueError("INSTANCE_KEY is not set, or shorter than 32 characters: set INSTANCE_KEY_FILE.")
        every = float(environment.get("DISK_COUNT_SECONDS") or 60)
        portal = _number(environment, "PORTAL_UID", lambda name: pwd.getpwnam(name).pw_uid)
        gateway = _number(environment, "GATEWAY_GID", lambda name: grp.getgrnam(name).gr_gid)
        return cls(state, given.strip().encode(), portal, gateway, every)


def _number(environment: dict[str, str], name: str, find: Callable[[str], int]) -> int | None:
    """Return a uid or gid, which may be given by name; None when it is not given."""
    text = environment.get(name, "").strip()
    if not text or text.isdigit():
        return int(text) if text else None
    try:
        return find(text)
    except KeyError:
        raise ValueError(f"{name}: there is no {text} on this machine") from None


class Server:
    """The socket: who may speak, one answer to each line, and events for who watches."""

    def __init__(self, machines: Machines, allowed: set[int]) -> None:
        self.machines, self.allowed = machines, allowed
        self.watchers: set[asyncio.Queue[dict[str, Any]]] = set()
        self.operations: dict[str, Callable[..., Any]] = {name: getattr(machines, name) for name in OPERATIONS}
        self.operations["list"] = machines.observe
        self.operations["ping"] = lambda: {"pid": os.getpid()}
        machines.publish = self.publish

    def publish(self, event: dict[str, Any]) -> None:
        for queue in self.watchers:
            if queue.full():  # somebody who does not read looks again by himself
                queue.get_nowait()
            queue.put_nowait(event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", peer)
        try:
            if uid not in self.allowed:
                log.warning("uid %s may not speak to the supervisor", uid)
                return
            while line := await reader.readline():
                await self._one(line, writer)
        except (ConnectionError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # gone, or a line longer than any of ours
        finally:
            writer.close()

    async def _one(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            await _send(writer, pack_error(Rejected("not a JSON object")))
            return
        number, operation = request.pop("id", None), request.pop("op", "")
        if operation == "watch":
            await _send(writer, {"id": number, "ok": True, "result": None})
            await self._watch(writer)
            return
        await _send(writer, {"id": number} | await self._answer(operation, request))

    async def _answer(self, operation: object, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            verb = self.operations.get(operation) if isinstance(operation, str) else None
            if verb is None:
                raise Rejected(f"no operation {operation!r}")
            try:
                inspect.signature(verb).bind(**arguments)
            except TypeError as error:
                raise Rejected(f"{operation}: {error}") from error
            result = verb(**arguments)
            return {"ok": True, "result": await result if isinstance(result, Awaitable) else result}
        except ProviderError as error:
            log.info("%s refused: %s: %s", operation, error.code, error)
            return pack_error(error)
        except OSError as error:
            log.exception("%s failed", operation)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return pack_error(refusal(NoCapacity, "disk-full", "The disk for sessions is full."))
            return pack_error(ProviderUnavailable(f"the supervisor could not: {error.strerror}"))
        except Exception as error:  # one request must not end all sessions
            log.exception("%s failed", operation)
            return pack_error(ProviderUnavailable(f"the supervisor failed: {type(error).__name__}"))

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1000)
        self.watchers.add(queue)
        try:
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        event = await queue.get()
                except TimeoutError:
                    event = {"event": "heartbeat"}
                await _send(writer, event)
        finally:
            self.watchers.discard(queue)


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    async with asyncio.timeout(10):
        await writer.drain()


async def _repeat(work: Callable[[], Awaitable[None]], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            await work()
        except Exception:  # the next round may do better
            log.exception("looking after the sessions failed")


def _listen(path: Path, portal_uid: int | None) -> socket.socket:
    """Bind the socket 0600 of the portal's uid, whole before anybody can see it."""
    fresh = path.with_name("fresh.sock")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(fresh))
    fresh.chmod(0o600)
    if portal_uid is not None and os.geteuid() == 0:
        os.chown(fresh, portal_uid, -1)
    listener.listen(64)
    fresh.rename(path)
    return listener


async def run(settings: Settings, machines: Machines) -> None:
    """Serve until SIGTERM or SIGINT, then stop every session."""
    await machines.recover()
    log.info("%s; %s", machines.bubblewrap.describe(), machines.groups.describe())
    allowed = {0, os.geteuid()} | ({settings.portal_uid} if settings.portal_uid is not None else set())
    server = Server(machines, allowed)
    folder = settings.state / "run" / "supervisor"
    listener = _listen(folder / "supervisor.sock", settings.portal_uid)
    serving = await asyncio.start_unix_server(server.serve, sock=listener, limit=LONGEST)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    rounds = [
        asyncio.create_task(_repeat(machines.look_after, _LOOK_AFTER)),
        asyncio.create_task(_repeat(machines.watch_memory, _WATCH)),
        asyncio.create_task(_repeat(machines.measure, settings.count_every)),
    ]
    log.info("the supervisor listens on %s", folder / "supervisor.sock")
    await stop.wait()
    serving.close()
    (folder / "supervisor.sock").unlink(missing_ok=True)
    for task in rounds:
        task.cancel()
    await machines.close()
    machines.groups.close()


@contextlib.contextmanager
def _only_one(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"Another supervisor runs on {folder.parent.parent}; it goes on.") from None
        yield


def _assemble(settings: Settings) -> Machines:
    root = os.geteuid() == 0
    found = bubblewrap.find(FIRST_UID if root else None, settings.state / "cache" / "bubblewrap")
    identity = hashlib.sha256(os.fsencode(settings.state)).hexdigest()[:8]
    store = Store(settings.state, shared=root, gateway_gid=settings.gateway_gid, reserve=RESERVE)
    groups = cgroups.find(identity)
    return Machines(store, found, groups, settings.key, settings.count_every, publish=lambda event: None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Own the sessions of this machine.")
    parser.add_argument("--check", action="store_true", help="only say whether sessions can be isolated here")
    check = parser.parse_args(argv).check
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        if check:
            uid = FIRST_UID if os.geteuid() == 0 else None
            state = Path(os.environ.get("BEAMPORT_STATE") or "/var/lib/beamport")
            print(bubblewrap.find(uid, state / "cache" / "bubblewrap").describe())
            return 0
        settings = Settings.read(dict(os.environ))
        if os.geteuid() != 0 and os.environ.get("BEAMPORT_DEMO") != "1":
            raise ValueError(
                "outside the demo it runs as root, so that each session gets a uid that is not the portal's"
            )
        if os.getpid() != os.getsid(0):
            with contextlib.suppress(PermissionError):  # a group's leader already: its shell is what ends it
                os.setsid()
        with _only_one(settings.state / "run" / "supervisor"):
            asyncio.run(run(settings, _assemble(settings)))
    except (bubblewrap.CannotIsolate, OSError, ValueError) as error:
        print(f"The supervisor cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
