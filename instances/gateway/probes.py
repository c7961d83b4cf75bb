"""Who answers: starting instances every 150 ms until they are ready, served ones every 15 s; work every minute."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from instances.gateway.agents import Agents
from instances.gateway.bodies import Refused
from instances.gateway.fetch import Reply, fetch
from instances.gateway.link import Link
from instances.gateway.routes import Route, Routes, Service
from instances.gateway.session import Spawn
from instances.gateway.usage import Usage

STARTING_EVERY = 0.15
ACTIVE_EVERY = 15.0
ACTIVITY_EVERY = 60.0
_TIMEOUT = 3.0
_LIMIT = 1024 * 1024
_AT_ONCE = 32


class Probes:
    def __init__(
        self,
        routes: Routes,
        link: Link,
        usage: Usage,
        agents: Agents,
        may_serve: Callable[[int], bool],
        spawn: Spawn,
        *,
        leads: bool,
    ) -> None:
        """`leads`: of several processes one looks after the instances, the others report what they count."""
        self._routes = routes
        self._link = link
        self._usage = usage
        self._agents = agents
        self._may_serve = may_serve
        self._spawn = spawn
        self.leads = leads
        self._probing: dict[str, asyncio.Task[None]] = {}
        self._activity_due: dict[str, float] = {}
        self._news = asyncio.Event()

    def hurry(self) -> None:
        """Probe at once: an instance has an address since just now."""
        self._news.set()

    async def run(self) -> None:
        reporting: asyncio.Task[None] | None = None
        report_due = time.monotonic() + ACTIVE_EVERY
        while True:
            self._news.clear()
            for route in self._routes if self.leads else ():
                if route.probed and route.slug not in self._probing:
                    task = self._spawn(self._start(route))
                    self._probing[route.slug] = task
                    task.add_done_callback(partial(self._done, route.slug))
            if time.monotonic() >= report_due and (reporting is None or reporting.done()):
                report_due += ACTIVE_EVERY
                reporting = self._spawn(self._report())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STARTING_EVERY):
                    await self._news.wait()

    def _done(self, slug: str, _task: asyncio.Task[None]) -> None:
        self._probing.pop(slug, None)

    async def _start(self, route: Route) -> None:
        """Probe a starting instance once, and say so when it is ready."""
        required = [service for service in route.services.values() if service.required]
        for service in required:
            if not await self.answers(route, service):
                return
        if self._routes.get(route.slug) is route:
            await self._link.ready(route.instance, route.version)

    async def answers(self, route: Route, service: Service) -> bool:
        """Whether a service answers its probe with success."""
        reply = await self._get(route, service, service.probe)
        return reply is not None and 200 <= reply.status < 400

    async def _get(self, route: Route, service: Service, target: str) -> Reply | None:
        fields = [(b"Host", b"localhost"), (b"Authorization", b"token " + service.secret.encode())]
        try:
            return await fetch(
                service.target.endpoint,
                "GET",
                target,
                fields,
                timeout=_TIMEOUT,
                limit=_LIMIT,
                may_serve=self._may_serve,
            )
        except (OSError, Refused, TimeoutError):
            return None

    async def _report(self) -> None:
        """Look at every served instance and send what was seen; a look that fails costs its own row alone."""
        gate = asyncio.Semaphore(_AT_ONCE)
        rows: list[dict[str, Any]] = []

        async def look(route: Route) -> None:
            async with gate:
                rows.append(await self._look(route))

        served = [route for route in self._routes if route.served and self.leads]
        named = {route.instance for route in served}
        self._activity_due = {instance: due for instance, due in self._activity_due.items() if instance in named}
        # each is a task of its own, whose error its owner logs
        await asyncio.gather(*(self._spawn(look(route)) for route in served), return_exceptions=True)
        await self._send(rows)

    async def send_usage(self) -> None:
        await self._send([])

    async def _send(self, rows: list[dict[str, Any]]) -> None:
        usage = self._usage.report()
        if (rows or usage) and await self._link.report({"instances": rows, "usage": usage}):
            self._usage.confirm()

    async def _look(self, route: Route) -> dict[str, Any]:
        answers = {name: await self.answers(route, service) for name, service in route.services.items()}
        row: dict[str, Any] = {"instance": route.instance, "answers": answers, **self._agents.take(route.instance)}
        due = self._activity_due.get(route.instance, 0.0)
        jupyter = None if self._agents.speaks(route.instance) else route.services.get("jupyter")
        if jupyter is not None and answers.get("jupyter") and time.monotonic() >= due:
            self._activity_due[route.instance] = time.monotonic() + ACTIVITY_EVERY - 1
            row["activity"] = await self._activity(route, jupyter)
        return row

    async def _activity(self, route: Route, service: Service) -> dict[str, Any] | None:
        """Ask Jupyter's kernels and terminals; None when it does not say (unknown is never idle)."""
        kernels = await self._json(route, service, "/api/kernels")
        if kernels is None:
            return None
        terminals = await self._json(route, service, "/api/terminals") or []
        busy = sum(1 for kernel in kernels if kernel.get("execution_state") == "busy")
        times = [seen for row in kernels + terminals if (seen := _moment(row.get("last_activity"))) is not None]
        return {"busy": busy, "kernels": len(kernels), "last_active": max(times, default=None)}

    async def _json(self, route: Route, service: Service, target: str) -> list[dict[str, Any]] | None:
        reply = await self._get(route, service, target)
        if reply is None or reply.status != 200:
            return None
        try:
            answer = json.loads(reply.content)
        except (ValueError, RecursionError):
            return None
        return [row for row in answer if isinstance(row, dict)] if isinstance(answer, list) else None


def _moment(text: object) -> float | None:
    """Return an ISO time in seconds since the epoch."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None
