"""The web process: pages and API on one socket; the gateways' internal address on another, in a process of its own.

    python -m portal.serve --web unix:/run/beamport/front/web.sock --internal unix:/run/beamport/front/internal.sock

An address is `unix:<path>`, `<host>:<port>`, or `fd:<name>` for a socket that systemd holds and hands over
(sd_listen_fds(3)): several processes accept from such a one, and none of them is missed when it stops. A unix socket
is for its owner and group alone; the folder's group (set-group-id) makes that the gateway's.

What is asked at the internal address must not wait for pages, neither for a thread, a connection to the database nor
Python's lock: therefore the second process. The two begin together and end together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
import uvicorn

from portal import env
from portal.lib import postgres

log = structlog.get_logger("portal.serve")

#: seconds that somebody who waits for a page waits for the database
PATIENCE = 5.0
#: longer than the gateway keeps an idle connection, so that it never writes into one that we are closing
KEEP_ALIVE = 75
GRACE = 5
#: streams of the link end when we end them, and a gateway asks again for whatever else was cut
LINK_GRACE = 1
#: a connection that was taken just before the end has its request on the way
LAST_REQUESTS = 0.2


class _Server(uvicorn.Server):
    """One whose signals are ours: it first takes no more connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def handed_over(name: str) -> socket.socket:
    """Return the listening socket that systemd calls `name`; its descriptors begin at 3."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or name not in names:
        raise OSError(f"systemd hands over no socket that is called {name}")
    taken = socket.socket(fileno=3 + names.index(name))
    taken.set_inheritable(False)
    taken.setblocking(False)
    return taken


def listen(address: str) -> socket.socket:
    """Bind a socket; a stale unix socket of ours is replaced, anything else in its place is not."""
    if address.startswith("fd:"):
        return handed_over(address.removeprefix("fd:"))
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=1024)
        bound.setblocking(False)
        return bound
    path = Path(address.removeprefix("unix:"))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(f"{path} is there and is not a socket")
        path.unlink()
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        bound.bind(str(path))
    finally:
        os.umask(before)
    bound.listen(1024)
    bound.setblocking(False)
    return bound


def _pages() -> _Server:
    # only the gateway connects here, and it replaces what clients say of themselves; a page says nothing on its socket
    behind = {"proxy_headers": True, "forwarded_allow_ips": "*"}
    return _server("portal.asgi:application", GRACE, lifespan="off", ws_max_size=1024, **behind)


def _link() -> _Server:
    return _server("portal.internal:application", LINK_GRACE, lifespan="auto", proxy_headers=False, ws="none")


def _server(application: str, grace: int, **options: object) -> _Server:
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=grace,
        **options,  # type: ignore[arg-type]
    )
    config.load()
    return _Server(config)


async def serve(server: _Server, bound: socket.socket, other: socket.socket) -> int:
    """Serve until a signal, here or in the other process, or until that one is gone; returns 0 when asked to stop.

    `other` is one end of a pair: a byte says that the other process was asked to stop, its end that it is no more.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        server.should_exit = True

    def retire() -> None:
        """Take no more connections, then stop: what waits in the queue is for the process beside us, or after us."""
        nonlocal asked
        if asked:
            return
        asked = True
        with contextlib.suppress(OSError):
            other.send(b".")
        for one in getattr(server, "servers", ()):
            one.close()
        loop.call_later(LAST_REQUESTS, stop)

    def listen_to_other() -> None:
        try:
            word = other.recv(1)
        except ConnectionResetError:  # it ended before it had read ours
            word = b""
        if word:
            retire()
            return
        loop.remove_reader(other)
        if not asked:
            stop()

    other.setblocking(False)
    loop.add_reader(other, listen_to_other)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, retire)
    await server.serve(sockets=[bound])
    return 0 if asked else 1


def serve_both(web: socket.socket, internal: socket.socket) -> int:
    """Serve pages in this process, and the link in another with as many connections as it has threads."""
    import uvloop

    ours, theirs = socket.socketpair()
    link = os.fork()  # nothing has been started yet: no thread, no loop, no connection
    if not link:
        ours.close()
        web.close()
        from portal.internal import THREADS

        postgres.serve(patience=PATIENCE, connections=THREADS)
        sys.exit(uvloop.run(serve(_link(), internal, theirs)))
    theirs.close()
    internal.close()
    _end_what_was_restored()
    try:
        return uvloop.run(serve(_pages(), web, ours))
    finally:
        ours.close()
        os.waitpid(link, 0)


def _end_what_was_restored() -> None:
    """Let nobody in by what a restored database brought back. If it is away: the worker looks each second."""
    from django.db import Error, connection

    from auth import restored

    try:
        restored.look()
    except Error as error:
        log.warning("not looked whether the database was restored", error=str(error)[:200])
    finally:
        connection.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve pages, API and the gateways' internal address.")
    parser.add_argument("--web", required=True, help="unix:<path>, <host>:<port> or fd:<name>")
    parser.add_argument("--internal", required=True, help="unix:<path>, <host>:<port> or fd:<name>")
    given = parser.parse_args(argv)
    postgres.serve(patience=PATIENCE, connections=env.number("DATABASE_CONNECTIONS", 20))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    import django

    from portal import checks

    django.setup()
    checks.stop_if_unsafe()
    code = serve_both(listen(given.web), listen(given.internal))
    for address in (given.web, given.internal):
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
