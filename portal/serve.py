"""The web process: pages and API on one socket, the gateways' internal address on another, in one loop.

    python -m portal.serve --web unix:/run/beamport/front/web.sock --internal unix:/run/beamport/front/internal.sock

An address is `unix:<path>`, `<host>:<port>`, or `fd:<name>` for a socket that systemd holds and hands over
(sd_listen_fds(3)): several processes accept from such a one, and none of them is missed when it stops. A unix socket
is for its owner and group alone; the folder's group (set-group-id) makes that the gateway's.
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

import uvicorn

from portal import env
from portal.lib import postgres

#: seconds that somebody who waits for a page waits for the database
PATIENCE = 5.0
#: longer than the gateway keeps an idle connection, so that it never writes into one that we are closing
KEEP_ALIVE = 75
GRACE = 5
#: a connection that was taken just before the end has its request on the way
LAST_REQUESTS = 0.2


class _Server(uvicorn.Server):
    """One of two servers in a loop: the signals are for both, so neither may take them."""

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


def _server(application: str, **options: object) -> _Server:
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        **options,  # type: ignore[arg-type]
    )
    config.load()  # in this order, before any request: the first import sets Django up
    return _Server(config)


async def serve(web: str, internal: str) -> int:
    """Serve until a signal; when one of the two servers ends, the other follows."""
    # only the gateway connects here, and it replaces what clients say of themselves
    behind = {"proxy_headers": True, "forwarded_allow_ips": "*"}
    # a page says nothing on its events socket
    pages = _server("portal.asgi:application", lifespan="off", ws_max_size=1024, **behind)
    inside = _server("portal.internal:application", lifespan="auto", proxy_headers=False, ws="none")

    def stop() -> None:
        pages.should_exit = inside.should_exit = True

    loop = asyncio.get_running_loop()

    def retire() -> None:
        """Take no more connections, then stop: what waits in the queue is for the process beside us, or after us."""
        for server in (*getattr(pages, "servers", ()), *getattr(inside, "servers", ())):
            server.close()
        loop.call_later(LAST_REQUESTS, stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, retire)
    running = [
        asyncio.create_task(pages.serve(sockets=[listen(web)])),
        asyncio.create_task(inside.serve(sockets=[listen(internal)])),
    ]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    asked = pages.should_exit and inside.should_exit
    stop()
    await asyncio.gather(*running)
    for address in (web, internal):
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)
    return 0 if asked else 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve pages, API and the gateways' internal address.")
    parser.add_argument("--web", required=True, help="unix:<path>, <host>:<port> or fd:<name>")
    parser.add_argument("--internal", required=True, help="unix:<path>, <host>:<port> or fd:<name>")
    given = parser.parse_args(argv)
    postgres.serve(patience=PATIENCE, connections=env.number("DATABASE_CONNECTIONS", 20))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    import django
    import uvloop

    from portal import checks

    django.setup()
    checks.stop_if_unsafe()
    return uvloop.run(serve(given.web, given.internal))


if __name__ == "__main__":
    sys.exit(main())
