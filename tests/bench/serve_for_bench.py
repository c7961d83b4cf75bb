"""A gateway as its own process in front of given back ends, for comparing it with other proxies.

The back ends stand as services of instances that nobody made; the portal behind the gateway is a stand-in which
speaks the internal protocol and nothing else, so that what is measured is the gateway. Nothing is left unchecked:
the cookies are signed, the sessions are in the table, only longer lived than usual.

    PEERS_HTTP=127.0.0.1:9001 PEERS_WS=127.0.0.1:9002 PEERS_OURS_PORT=8100 PEERS_READY=/tmp/ready.json \\
        PEERS_RUN=/tmp/bench python tests/bench/serve_for_bench.py
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from instances.gateway.session import Keys, Session  # noqa: E402

DAY = 86_400


class Portal:
    """What a gateway asks for, from memory; SIGUSR1 withdraws every session."""

    def __init__(self, backends: dict[str, str]) -> None:
        self.keys = {"current": "k1", "keys": {"k1": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}}
        self.routes = [_route(slug, address) for slug, address in backends.items()]
        self.sessions = {route["slug"]: _session(route) for route in self.routes}
        self.withdrawing = asyncio.Event()

    def cookie(self, slug: str) -> str:
        keys = Keys()
        keys.set(self.keys)
        return "__Host-inst=" + keys.sign(Session(self.sessions[slug]), int(time.time()) + DAY)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            await self._stream(send)
        elif scope["path"] == "/snapshot":
            rows = {"routes": self.routes, "sessions": list(self.sessions.values())}
            await _end(send, {"now": time.time(), "keys": self.keys, **rows})
        else:
            await _end(send, {"sessions": [], "gone": []})

    async def _stream(self, send: Any) -> None:
        while True:
            await _line(send, {"type": "heartbeat", "now": time.time()})
            try:
                await asyncio.wait_for(self.withdrawing.wait(), 1)
            except TimeoutError:
                continue
            self.withdrawing.clear()
            for session in self.sessions.values():
                await _line(send, {"type": "withdraw", "sid": session["sid"]})


class Server(uvicorn.Server):
    """Leaves the signals to us, so that the gateway is stopped too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _line(send: Any, row: Any) -> None:
    await send({"type": "http.response.body", "body": json.dumps(row).encode() + b"\n", "more_body": True})


async def _end(send: Any, row: Any) -> None:
    await send({"type": "http.response.body", "body": json.dumps(row).encode()})


def _route(slug: str, address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    service = {"name": "jupyter", "host": host, "port": int(port), "probe": "/1k.bin", "roles": ["owner"]}
    return {
        "slug": slug,
        "instance": str(uuid.uuid4()),
        "state": "active",
        "version": 1,
        "secret_epoch": 1,
        "services": [service],
    }


def _session(route: dict[str, Any]) -> dict[str, Any]:
    return {
        "sid": str(uuid.uuid4()),
        "slug": route["slug"],
        "instance": route["instance"],
        "role": "owner",
        "epoch": 1,
        "expires": time.time() + DAY,
        "version": 1,
    }


def _start_gateway(port: int, run: Path, token: str) -> subprocess.Popen[bytes]:
    env = {
        **os.environ,
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "PORTAL_URL": f"http://localhost:{port}",
        "WEB_UPSTREAM": f"unix:{run}/web.sock",
        "INTERNAL_URL": f"unix://{run}/internal.sock",
        "GATEWAY_TOKEN": token,
        "INSTANCE_KEY": secrets.token_urlsafe(32),
        "GATEWAY_CONNECTIONS_PER_ADDRESS": "20000",
        "GATEWAY_CONNECTIONS_PER_SESSION": "20000",
        "GATEWAY_CONNECTIONS_PER_INSTANCE": "20000",
        "BEAMPORT_DEMO": "1",
    }
    with (run / "gateway.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "instances.gateway"], cwd=ROOT, env=env, stderr=log)


async def main() -> None:
    port, run = int(os.environ["PEERS_OURS_PORT"]), Path(os.environ["PEERS_RUN"])
    backends = {"bench4http": os.environ["PEERS_HTTP"]}
    if "PEERS_WS" in os.environ:
        backends["bench4socket"] = os.environ["PEERS_WS"]
    portal = Portal(backends)
    server = Server(
        uvicorn.Config(
            portal,
            uds=f"{run}/internal.sock",
            log_level="warning",
            lifespan="off",
            interface="asgi3",
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, portal.withdrawing.set)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, partial(setattr, server, "should_exit", True))
    while not server.started:
        await asyncio.sleep(0.01)
    gateway = _start_gateway(port, run, secrets.token_urlsafe(32))
    try:
        while "link up" not in (run / "gateway.log").read_text():
            if gateway.poll() is not None:
                sys.exit((run / "gateway.log").read_text())
            await asyncio.sleep(0.05)
        ready = Path(os.environ["PEERS_READY"])
        ready.with_suffix(".new").write_text(json.dumps(_description(portal, port, gateway.pid)))
        ready.with_suffix(".new").rename(ready)
        await serving
    finally:
        gateway.terminate()
        gateway.wait(10)


def _description(portal: Portal, port: int, pid: int) -> dict[str, Any]:
    def target(slug: str) -> dict[str, Any]:
        host = f"{slug}.apps.localhost:{port}"
        fields = {"Host": host, "Origin": f"http://{host}", "Cookie": portal.cookie(slug)}
        return {"prefix": "", "headers": fields}

    described: dict[str, Any] = {"pid": pid, "scheme": "http", "withdraw": {"signal": "USR1", "pid": os.getpid()}}
    described["http"] = target("bench4http")
    if "bench4socket" in portal.sessions:
        described["ws"] = target("bench4socket")
    return described


if __name__ == "__main__":
    asyncio.run(main())
