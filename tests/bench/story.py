"""Times of the main job on a running demo portal, against JupyterLab's own start in the same sandbox.

    python -m tests.bench.story --state DIR --url http://localhost:8000 [--rounds 10]

Run as root beside a portal that `make run` started (it asks the instance's socket itself to learn when JupyterLab first
answers). For each round: create over the API → active; printed are the time above JupyterLab's own start (from its
process to its first answer), how long after that answer the event arrived at an open page, and at the end the memory
(PSS) of the idle portal's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import socket
import statistics
import time
import urllib.request
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any


@dataclass
class Round:
    """Seconds on one clock: when things happened."""

    asked: float
    process: float
    answered: float
    told: float

    @property
    def above(self) -> float:
        return (self.told - self.asked) - (self.answered - self.process)

    @property
    def noticed(self) -> float:
        return self.told - self.answered


class Api:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def answers(path: Path, token: str) -> bool:
    """Ask JupyterLab itself, past the gateway."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(str(path))
            connection.sendall(
                b"GET /api/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                + f"Authorization: token {token}\r\n\r\n".encode()
            )
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status == 200
    except (OSError, http.client.HTTPException):
        return False


def lab_began(since: float) -> float | None:
    """When the first JupyterLab process after `since` began; both count from boot, as time.monotonic() does."""
    tick = os.sysconf("SC_CLK_TCK")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"jupyter" in (process / "cmdline").read_bytes():
                found.append(int((process / "stat").read_text().rsplit(")", 1)[1].split()[19]) / tick)
        except OSError:
            continue
    return min((began for began in found if began >= since - 1 / tick), default=None)


async def listen(url: str, cookie: str, told: dict[str, float], ready: asyncio.Event, api: Api) -> None:
    """Be an open page: note when the event after which the instance is active arrives."""
    import websockets
    from websockets.typing import Origin

    headers = {"Cookie": f"__Host-sid={cookie}"}
    async with websockets.connect(
        url.replace("http", "ws") + "/ws/events", origin=Origin(url), additional_headers=headers
    ) as ws:
        ready.set()
        async for message in ws:
            arrived = time.monotonic()
            event = json.loads(message)
            if event.get("type") != "instance-changed" or event["id"] in told:
                continue
            found = await asyncio.to_thread(api, "GET", f"instances/{event['id']}")
            if found["state"] == "active":
                told[event["id"]] = arrived


async def one(api: Api, state: Path, plan: str, experiments: list[str], told: dict[str, float]) -> Round:
    from django.conf import settings

    from portal.lib.hashing import instance_secret

    asked = time.monotonic()
    body = {"plan": plan, "experiments": experiments, "name": "bench"}
    made = await asyncio.to_thread(api, "POST", "instances", body)
    name = f"bp-{uuid.UUID(made['id']).hex}-1"
    path = state / "local" / name / "run" / "jupyter.sock"
    token = instance_secret(settings.INSTANCE_KEY, made["id"], 1, "jupyter")
    while not await asyncio.to_thread(answers, path, token):
        await asyncio.sleep(0.005)
    answered = time.monotonic()
    while made["id"] not in told:
        await asyncio.sleep(0.002)
    began = await asyncio.to_thread(lab_began, asked)
    assert began is not None
    await asyncio.to_thread(api, "DELETE", f"instances/{made['id']}")
    for _ in range(600):
        if not (state / "local" / name).exists():
            break
        await asyncio.sleep(0.05)
    return Round(asked, began, answered, told[made["id"]])


def prepare(state: Path) -> tuple[str, str, str, list[str]]:
    """Make a user with a token and a session; return (API token, session key, plan, experiments)."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    os.environ["BEAMPORT_STATE"] = str(state)
    os.environ.setdefault("BEAMPORT_DEMO", "1")
    django.setup()
    from django.contrib.auth import SESSION_KEY

    from auth import tokens
    from auth.models import User
    from auth.sessions import SessionStore
    from experiments.models import Experiment
    from instances.models import Plan

    user, _ = User.objects.get_or_create(handle="bench", defaults={"display_name": "Bench"})
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store.create()
    experiments = [str(uid) for uid in Experiment.objects.visible_to(user).values_list("uid", flat=True)[:39]]
    _, secret = tokens.issue(user, name="bench", scopes=["instances:read", "instances:write"], lasts=timedelta(days=1))
    return secret, store.session_key or "", Plan.objects.filter(enabled=True)[0].slug, experiments


def memory(state: Path) -> dict[str, float]:
    """PSS in MB of every process that belongs to this state folder, by its command's telling words."""
    found: dict[str, float] = {}
    marker = f"BEAMPORT_STATE={state}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ours = marker in (process / "environ").read_bytes() or str(state) in words
            if not ours or int(process.name) == os.getpid():
                continue
            pss = next(
                int(line.split()[1])
                for line in (process / "smaps_rollup").read_text().splitlines()
                if line[:4] == "Pss:"
            )
        except (OSError, StopIteration):
            continue
        names = ("gateway", "portal.serve", "celery", "supervisor", "server.mjs", "redis", "postgres", "manage.py")
        name = next((name for name in names if name in words), "other")
        found[name] = found.get(name, 0) + pss / 1024
    return found


async def run(url: str, state: Path, rounds: int) -> None:
    secret, key, plan, experiments = await asyncio.to_thread(prepare, state)
    api, told, ready = Api(url, secret), dict[str, float](), asyncio.Event()
    page = asyncio.create_task(listen(url, key, told, ready, api))
    await asyncio.wait_for(ready.wait(), 10)
    print("memory of the idle portal, PSS in MB:")
    for name, size in sorted((await asyncio.to_thread(memory, state)).items(), key=lambda pair: -pair[1]):
        print(f"  {name:14} {size:7.1f}")
    done = [await one(api, state, plan, experiments, told) for _ in range(rounds)]
    page.cancel()
    for title, values in (
        ("create → told active", [each.told - each.asked for each in done]),
        ("JupyterLab's own start", [each.answered - each.process for each in done]),
        ("above it", [each.above for each in done]),
        ("answers → page told", [each.noticed for each in done]),
    ):
        worst = sorted(values)[max(0, round(0.95 * len(values)) - 1)]
        print(f"{title:24} median {statistics.median(values):6.3f} s   p95 {worst:6.3f} s   n {len(values)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("/var/lib/beamport"))
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.url, arguments.state, arguments.rounds))
