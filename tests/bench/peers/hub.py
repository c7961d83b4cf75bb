"""A JupyterHub with its own proxy, and starts through its API."""

from __future__ import annotations

import asyncio
import secrets
import time
import urllib.request
from pathlib import Path

import aiohttp

from tests.bench.peers.lib import PATIENCE, Processes
from tests.bench.peers.setup import Peers
from tests.ports import free_port

CONFIG = Path(__file__).resolve().parent / "jupyterhub_config.py"


class Hub:
    """`spawner` is `noop` (nothing starts, `backend` answers) or `simple` (a JupyterLab, which listens there)."""

    def __init__(self, peers: Peers, processes: Processes, spawner: str, backend: int) -> None:
        self.processes, self.backend = processes, backend
        self.folder = processes.folder / f"hub-{spawner}"
        self.folder.mkdir(exist_ok=True)
        self.port, token = free_port(3), secrets.token_hex(16)
        self.headers = {"Authorization": f"token {token}"}
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/hub/api"
        self.argv = [str(peers.bin / "jupyterhub"), "-f", str(CONFIG)]
        self.environment = peers.environment(
            HUB_FOLDER=str(self.folder),
            HUB_PORT=str(self.port),
            HUB_BACKEND=str(backend),
            HUB_SPAWNER=spawner,
            HUB_TOKEN=token,
            HUB_PROXY=" ".join(peers.proxy_command),
        )

    @property
    def pid(self) -> int:
        return self.processes.pid("jupyterhub")

    def start(self) -> float:
        """Return the seconds until its API answers."""
        return self.processes.start("jupyterhub", self.argv, self.environment, self._answers)

    def stop(self) -> None:
        self.processes.stop("jupyterhub")

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self.api}/users?limit=1", headers=self.headers)
        try:
            return bool(urllib.request.urlopen(request, timeout=PATIENCE).read())
        except OSError:
            return False

    async def add(self, http: aiohttp.ClientSession, name: str) -> None:
        """Make the user; the bench counts starts, not accounts."""
        async with http.post(f"{self.api}/users/{name}", headers=self.headers) as answer:
            assert answer.status in (201, 409), await answer.text()
        if self.environment["HUB_SPAWNER"] != "noop":
            (self.folder / "home" / name).mkdir(parents=True, exist_ok=True)

    async def spawn(self, http: aiohttp.ClientSession, name: str) -> float:
        """Start a server; return the seconds until it answers through the hub's proxy."""
        began = time.perf_counter()
        async with http.post(f"{self.api}/users/{name}/server", headers=self.headers) as answer:
            assert answer.status in (201, 202), await answer.text()
        while not await self.serves(http, name):
            await asyncio.sleep(0.005)
            assert time.perf_counter() - began < PATIENCE, f"{name} never became ready"
        return time.perf_counter() - began

    async def serves(self, http: aiohttp.ClientSession, name: str) -> bool:
        async with http.get(f"{self.url}/user/{name}/api", allow_redirects=False) as answer:
            await answer.read()
            return answer.status == 200

    async def remove(self, http: aiohttp.ClientSession, name: str) -> None:
        """Stop the server and wait until the hub says so."""
        async with http.delete(f"{self.api}/users/{name}/server", headers=self.headers) as answer:
            assert answer.status in (202, 204), await answer.text()
        while True:
            async with http.get(f"{self.api}/users/{name}", headers=self.headers) as answer:
                if not (await answer.json())["servers"]:
                    return
            await asyncio.sleep(0.02)
