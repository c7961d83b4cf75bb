"""The link to the portal: one address and one token. Snapshot, stream, redeem, renew, ready, report.

Subscribe first, load the snapshot, then apply what has queued in the stream meanwhile. No heartbeat for three seconds
→ a new stream and a new snapshot. While the portal is away nothing is granted and nothing renewed; what runs, runs on.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any, Protocol

from instances.gateway.bodies import Refused
from instances.gateway.fetch import Reply, fetch, lines
from instances.gateway.log import Log
from instances.gateway.upstream import Endpoint

SILENCE = 3.0
TIMEOUT = 5.0
_LIMIT = 64 * 1024 * 1024
_LINE = 1024 * 1024


class Table(Protocol):
    """Who is told."""

    def apply(self, message: dict[str, Any]) -> None: ...
    def replace(self, snapshot: dict[str, Any], since: float) -> None: ...


class Away(OSError):
    """The portal gives no usable answer."""


class Link:
    def __init__(self, endpoint: Endpoint, token: str, table: Table, log: Log) -> None:
        self._endpoint = endpoint
        self._table = table
        self._log = log
        self._fields = [
            (b"Host", b"internal"),
            (b"Authorization", b"Bearer " + token.encode()),
            (b"Content-Type", b"application/json"),
        ]
        self.up = asyncio.Event()
        #: when the portal was heard last (monotonic)
        self.heard = time.monotonic()
        #: the uid behind the portal's socket; no instance may have it
        self.portal_uid = os.geteuid()

    async def run(self) -> None:
        """Follow the portal for ever."""
        wait = 0.1
        while True:
            began = time.monotonic()
            try:
                await self._follow()
                reason = "the stream ended"
            except (OSError, Refused, ValueError, KeyError, TypeError, AttributeError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            if self.up.is_set():
                self._log.event("warning", "link lost", reason=reason)
                self.up.clear()
            wait = 0.1 if time.monotonic() - began > 10 else min(wait * 2, 2.0)
            await asyncio.sleep(wait)

    async def _follow(self) -> None:
        stream = lines(self._endpoint, "/stream", self._fields, silence=SILENCE, limit=_LINE, on_peer=self._note_peer)
        first = True
        async for line in stream:
            self.heard = time.monotonic()
            if not line:
                continue
            self._table.apply(json.loads(line))
            if first:  # subscribed: whatever changes from here on is in the stream
                first = False
                since = time.monotonic()
                snapshot = await self._get("/snapshot")
                if self._endpoint.path:  # systemd may hold the socket: the portal itself says who it is
                    self.portal_uid = int(snapshot.get("uid", self.portal_uid))
                self._table.replace(snapshot, since)
                self.up.set()
                self._log.event("info", "link up")

    def _note_peer(self, uid: int) -> None:
        self.portal_uid = uid

    async def _call(self, method: str, target: str, body: Any = None) -> Reply:
        content = b"" if body is None else json.dumps(body).encode()
        try:
            return await fetch(self._endpoint, method, target, self._fields, content, timeout=TIMEOUT, limit=_LIMIT)
        except (OSError, Refused, TimeoutError) as error:
            raise Away(str(error) or "no answer in time") from error

    async def _get(self, target: str) -> dict[str, Any]:
        reply = await self._call("GET", target)
        if reply.status != 200:
            raise Away(f"the portal answered {reply.status}")
        answer: dict[str, Any] = json.loads(reply.content)
        return answer

    async def redeem(self, ticket: str, nonce: str, slug: str) -> tuple[int, dict[str, Any]]:
        """Exchange a ticket: 200 with the session, 403 refused, 409 another nonce's, 503 portal away."""
        if not self.up.is_set():  # without the portal's keys there is no cookie to give for the ticket
            return 503, {}
        try:
            reply = await self._call("POST", "/redeem", {"ticket": ticket, "nonce": nonce, "slug": slug})
            return reply.status, json.loads(reply.content)
        except (Away, ValueError):
            return 503, {}

    async def renew(self, sessions: list[dict[str, Any]]) -> dict[str, Any]:
        """Return {"sessions": rows, "gone": sids}; raises Away."""
        reply = await self._call("POST", "/renew", {"sessions": sessions})
        if reply.status != 200:
            raise Away(f"the portal answered {reply.status}")
        answer: dict[str, Any] = json.loads(reply.content)
        if not isinstance(answer, dict) or not all(isinstance(answer.get(key), list) for key in ("sessions", "gone")):
            raise Away("the portal's answer cannot be read")
        return answer

    async def ready(self, instance: str, version: int) -> bool:
        """Say that all required services answer, and take the route that comes of it before the stream brings it.

        False: say it again in a moment.
        """
        try:
            reply = await self._call("POST", "/ready", {"instance": instance, "version": version})
            route = json.loads(reply.content).get("route")
        except (Away, ValueError):
            return False
        if route is not None:
            self._table.apply({"type": "route", **route})
        return reply.status == 200

    async def report(self, report: dict[str, Any]) -> bool:
        """Send what was seen and counted; False: the portal does not have it."""
        try:
            reply = await self._call("POST", "/report", report)
        except Away as error:
            self._log.event("warning", "report not sent", reason=error)
            return False
        return reply.status < 500
