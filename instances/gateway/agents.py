"""What the agents of instances report: fetched each half a minute, believed about their own instance alone.

An agent stands in its user's hand. Its answer is bounded in time and bytes, every figure is looked at by itself, and
who gives no usable one is asked ever more seldom, so that a thousand of them keep nobody else's report back.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Any

from instances.gateway.bodies import Refused
from instances.gateway.fetch import fetch
from instances.gateway.routes import Route, Routes
from instances.gateway.session import Spawn

EVERY = 30.0
#: an agent that gives no usable answer is asked again after so long at last
LONGEST = 300.0
TIMEOUT = 3.0
_TICK = 1.0
_LIMIT = 16 * 1024
_AT_ONCE = 32
#: no machine has more of anything: bytes, cores, kernels, seconds since the epoch
_BYTES, _CORES, _COUNT, _MOMENT = 2**60, 4096, 1_000_000, 2**37
_DISKS = ("home", "scratch")


class Agents:
    """Asks the agents of served routes; what they said waits for the next report."""

    def __init__(self, routes: Routes, may_serve: Callable[[int], bool], spawn: Spawn) -> None:
        self._routes = routes
        self._may_serve = may_serve
        self._spawn = spawn
        self._gate = asyncio.Semaphore(_AT_ONCE)
        #: by slug: when it is due, and how long after that again
        self._due: dict[str, tuple[float, float]] = {}
        self._asking: set[str] = set()
        self._said: dict[str, dict[str, Any]] = {}
        #: by instance: until when its agent speaks of its kernels, so that nobody else need ask them
        self._speaks: dict[str, float] = {}

    async def run(self, leads: Callable[[], bool]) -> None:
        while True:
            if leads():
                self.ask_due()
            await asyncio.sleep(_TICK)

    def ask_due(self) -> None:
        """Ask those whose turn it is, none twice at a time."""
        now = time.monotonic()
        asked = {route.slug: route for route in self._routes if route.served and route.agent is not None}
        self._due = {slug: due for slug, due in self._due.items() if slug in asked}
        present = {route.instance for route in asked.values()}
        self._said = {instance: said for instance, said in self._said.items() if instance in present}
        self._speaks = {instance: until for instance, until in self._speaks.items() if instance in present}
        for slug, route in asked.items():
            due, wait = self._due.get(slug, (now, EVERY))
            if due <= now and slug not in self._asking:
                self._due[slug] = (now + wait, wait)
                self._asking.add(slug)
                self._spawn(self._ask(route))

    def take(self, instance: str) -> dict[str, Any]:
        """Return what an instance's agent has said since it was last taken."""
        return self._said.pop(instance, {})

    def speaks(self, instance: str) -> bool:
        """Whether its kernels need not be asked by anybody else."""
        return self._speaks.get(instance, 0.0) > time.monotonic()

    async def _ask(self, route: Route) -> None:
        try:
            async with self._gate:
                said = await self._fetch(route)
            if self._routes.get(route.slug) is not route:
                return  # it was withdrawn meanwhile: whoever answered may have been another
            now = time.monotonic()
            if said is None:
                wait = min(2 * self._due.get(route.slug, (now, EVERY))[1], LONGEST)
            else:
                wait = EVERY
                self._said[route.instance] = said
                if "activity" in said:
                    self._speaks[route.instance] = now + 2 * EVERY
            self._due[route.slug] = (now + wait, wait)
        finally:
            self._asking.discard(route.slug)

    async def _fetch(self, route: Route) -> dict[str, Any] | None:
        agent = route.agent
        if agent is None:
            return None
        fields = [(b"Host", b"localhost"), (b"Authorization", b"token " + agent.secret.encode())]
        where, serves = agent.target.endpoint, self._may_serve
        try:
            reply = await fetch(where, "GET", "/report", fields, timeout=TIMEOUT, limit=_LIMIT, may_serve=serves)
        except (OSError, Refused, TimeoutError):
            return None
        return read(reply.content, route.instance) if reply.status == 200 else None


def read(content: bytes, instance: str) -> dict[str, Any] | None:
    """Return what of a report can be believed: `activity` and `use`; None for one that is none, or another's."""
    try:
        report = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(report, dict) or report.get("instance") != instance:
        return None
    said: dict[str, Any] = {"use": _use(report)}
    activity = _activity(_part(report, "activity"))
    if activity is not None:
        said["activity"] = activity
    return said


def _use(report: dict[str, Any]) -> dict[str, Any]:
    memory, disks = _part(report, "memory"), _part(report, "disks")
    figures: dict[str, Any] = {
        "cpu": _figure(report.get("cpu"), _CORES),
        "memory": _whole(memory.get("used"), _BYTES),
        "memory_kills": _whole(memory.get("kills"), _COUNT),
    }
    for name in _DISKS:
        disk = _part(disks, name)
        used, size = _whole(disk.get("used"), _BYTES), _whole(disk.get("size"), _BYTES)
        figures[name] = None if used is None or size is None else {"used": used, "size": size}
    return {name: value for name, value in figures.items() if value is not None}


def _activity(said: dict[str, Any]) -> dict[str, Any] | None:
    busy, kernels = _whole(said.get("busy"), _COUNT), _whole(said.get("kernels"), _COUNT)
    if busy is None or kernels is None:
        return None
    return {"busy": busy, "kernels": kernels, "last_active": _figure(said.get("last_active"), _MOMENT)}


def _part(of: dict[str, Any], name: str) -> dict[str, Any]:
    part = of.get(name)
    return part if isinstance(part, dict) else {}


def _figure(value: object, most: float) -> float | None:
    """Return a number from 0 to `most`; None for everything else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= most and math.isfinite(value) else None


def _whole(value: object, most: int) -> int | None:
    found = _figure(value, most)
    return None if found is None else int(found)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")
