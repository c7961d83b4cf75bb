"""The gateway: accepts connections, says where each request goes, closes what is withdrawn, drains at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Coroutine, Sequence
from itertools import count
from typing import Any

from instances.gateway import headers, pages
from instances.gateway.access import Access, Ask, Grant, NotServed, NotSignedIn, Site, Sites, check_source
from instances.gateway.agents import Agents
from instances.gateway.bodies import Refused
from instances.gateway.clock import Clock
from instances.gateway.config import Config
from instances.gateway.connection import Client
from instances.gateway.entry import PREFIX, Entry
from instances.gateway.exchange import Exchange
from instances.gateway.http1 import Request, build
from instances.gateway.link import Link
from instances.gateway.listen import Door
from instances.gateway.log import Log
from instances.gateway.metrics import Metrics
from instances.gateway.probes import Probes
from instances.gateway.reception import Reception
from instances.gateway.registry import Registry
from instances.gateway.routes import Route, Routes
from instances.gateway.session import Claim, Session, Sessions
from instances.gateway.upstream import Pool, Target
from instances.gateway.usage import Usage

_TICK = 1.0
#: how long a gateway that ends tries to say what has passed
_LAST_WORD = 1.0


class Gateway:
    """All of it; one per process."""

    def __init__(
        self, config: Config, log: Log | None = None, doors: Sequence[Door] | None = None, *, leads: bool = True
    ) -> None:
        """`leads`: whether it looks after instances, which one of several processes does for all."""
        self.config = config
        self.log = log or Log()
        self.clock = Clock()
        self.draining = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.metrics = Metrics()
        self.registry = Registry()
        self.usage = Usage()
        self.link = Link(config.internal, config.token, self, self.log)
        self.routes = Routes(config.instance_key, config.scheme)
        self.sessions = Sessions(self.clock, self._renew, self._close_session, self.spawn)
        self.pool = Pool(self._may_serve)
        self.agents = Agents(self.routes, self._may_serve, self.spawn)
        self.probes = Probes(self.routes, self.link, self.usage, self.agents, self._may_serve, self.spawn, leads=leads)
        aliases = frozenset(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in config.listen)
        self._sites = Sites(config.portal_site, config.apps_domain, aliases)
        self._access = Access(self.sessions, self.routes, config.scheme)
        self._entry = Entry(config.portal_url, self._access, self.sessions, self.link)
        self.hsts = config.hsts
        self._portal_origin = config.portal_url.encode()
        self._web = Target(("web",), config.web, b"", guarded=False)
        self.reception = Reception(self, doors)
        self._clients = self.reception.clients
        self._id_start = secrets.token_hex(10)
        self._ids = count(1)
        self.ports: list[int] = []

    # ---- life ----
    async def start(self) -> None:
        """Listen on all addresses and begin to follow the portal; raises CannotStart."""
        self.open()
        self.follow()

    def open(self) -> None:
        """Accept connections; raises CannotStart."""
        self.ports = self.reception.open()
        self.log.event("info", "gateway listens", addresses=self.config.listen)

    def follow(self) -> None:
        """Follow the portal, and look after what is open."""
        self.spawn(self._tick())
        self.spawn(self.link.run())
        self.spawn(self.probes.run())
        self.spawn(self.agents.run(lambda: self.probes.leads))

    async def drain(self) -> None:
        """Accept no more and return when nothing is open any more, or after the longest time a tunnel may stay.

        Idle connections are not closed but end with their next answer, so that no request crosses with an end.
        Withdrawals count as ever.
        """
        self.draining = True
        self.probes.leads = False
        self.reception.close()
        self.log.event("info", "draining", connections=len(self._clients))
        until = time.monotonic() + self.config.limits.drain_tunnels
        while not self.reception.empty and time.monotonic() < until:
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Take no more, let what is under way end, then close the rest."""
        self.draining = True
        self.reception.close()
        for client in tuple(self._clients):
            client.drain()
        until = time.monotonic() + self.config.limits.drain
        while self.reception.waited_for and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for client in tuple(self._clients):
            client.cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await self.probes.send_usage()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.log.flush()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that we own; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.event("error", "task failed", error=repr(error))

    async def _tick(self) -> None:
        renewing: asyncio.Task[None] | None = None
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            self.metrics.lag = max(now - due, 0.0)
            for client in tuple(self._clients):
                client.check(now)
                self.count_tunnel(client, now)
            self.sessions.expire()
            self.routes.forget_old()
            self.pool.expire()
            self.reception.check(now)
            if renewing is None or renewing.done():
                renewing = self.spawn(self.sessions.renew_due(self.registry.holds))
            self.log.flush()

    # ---- connections ----
    def admit(self, client: Client) -> None:
        self._clients.add(client)

    def gone(self, client: Client) -> None:
        self.registry.release(client)
        self.reception.gone(client)

    def count_tunnel(self, client: Client, now: float) -> None:
        """Called each second, and when the tunnel ends."""
        if client.tunnel is not None and client.session is not None:
            received, sent = client.tunnel.moved(now)
            self.usage.add(client.session.sid, received, sent, 0)
            self.metrics.received += received
            self.metrics.sent += sent
            if received:
                client.session.used = True
            if client.tunnel.front.has_acted():
                client.session.worked = True

    def _may_serve(self, uid: int) -> bool:
        """Whether a process of this uid may stand behind an instance's socket: not us and not the portal.

        Where all runs as one plain user there is nothing to tell apart.
        """
        ours, portal = os.geteuid(), self.link.portal_uid
        return (portal == ours and ours != 0) or uid not in (ours, portal)

    # ---- requests ----
    def handle(self, client: Client, request: Request) -> None:
        """Decide what becomes of a request; raises Refused."""
        site, slug = self._sites.find(request.host)
        if site is Site.INSTANCE:
            self._to_instance(client, request, slug)
        elif site is Site.PORTAL:
            self._to_portal(client, request)
        elif request.method in (b"GET", b"HEAD") and not request.websocket and request.target != b"*":
            client.answer(pages.redirect(self.config.portal_url + request.target.decode(), status=302))
        else:
            raise Refused(421, f"this is not the portal's address, which is {self.config.portal_url}")

    def _to_portal(self, client: Client, request: Request) -> None:
        self.registry.release(client)  # a proxy's connection serves several hosts: this request is no session's
        if request.websocket:
            check_source(request, self._portal_origin)
        if b"cookie" in request.fields:
            headers.cookies(request.fields[b"cookie"])  # refuses one of ours sent twice
        address = headers.client_address(client.address, request, self.config.trusted_proxies)
        request_id = self._id_start + f"{next(self._ids):012x}"
        ours = (
            f"X-Forwarded-For: {address}\r\nX-Forwarded-Proto: {self.config.scheme}\r\nX-Request-Id: {request_id}\r\n"
        ).encode()
        rest = build(b"", headers.request_to_portal(request), headers.framing(request) + ours)
        self._forward(client, request, rest, self._web, None, request_id)

    def _to_instance(self, client: Client, request: Request, slug: str) -> None:
        if request.target.startswith(PREFIX):
            self._own_path(client, request, slug)
            return
        try:
            grant = self._access.authorise(request, slug)
        except NotSignedIn:
            client.answer(self._sign_in(request, slug))
        except Ask as ask:
            self.registry.release(client)  # nor may the end of the session before take this request with it
            client.later(self.spawn(self._ask(client, request, slug, ask.claim)))
        except NotServed as missing:
            client.answer(self._not_served(missing.route, request))
        except Refused:
            if request.method == b"GET" and not {b"origin", b"sec-fetch-site"} & request.fields.keys():
                client.answer(pages.unsupported(self.config.portal_url))
                return
            raise
        else:
            self._serve(client, request, grant)

    def _serve(self, client: Client, request: Request, grant: Grant) -> None:
        if client.session is not grant.session:
            self._bind(client, grant.session)
        section, target = request.section, grant.service.target
        if section.grant is not grant:
            fields = headers.request_to_instance(request, grant.cookie, grant.origin)
            section.grant, section.prepared = grant, build(b"", fields, headers.framing(request) + target.ours)
        self._forward(client, request, section.prepared, target, grant)

    def _bind(self, client: Client, session: Session) -> None:
        of_session, of_instance = self.registry.bind(client, session)
        if of_session > self.config.limits.per_session:
            raise Refused(429, "too many connections of this session")
        if of_instance > self.config.limits.per_instance:
            raise Refused(429, "too many connections to this instance")

    def _forward(
        self, client: Client, request: Request, rest: bytes, target: Target, grant: Grant | None, request_id: str = ""
    ) -> None:
        """`rest` is the head for the back end behind its first line."""
        head = b"%b %b HTTP/1.1%b" % (request.method, request.target, rest)
        client.begin(Exchange(self, client, request, target, head, grant, request_id))

    def _sign_in(self, request: Request, slug: str) -> pages.Answer:
        """A navigation goes through the portal; nothing else is ever redirected."""
        if request.navigation:
            return self._entry.begin(request, slug)
        return pages.text(401, "sign in by opening this address in a browser")

    def _not_served(self, route: Route | None, request: Request) -> pages.Answer:
        state, instance = (route.state.value, route.instance) if route else ("", "")
        return pages.not_running(state, self.config.portal_url, instance, request)

    async def _ask(self, client: Client, request: Request, slug: str, claim: Claim) -> None:
        """Have the portal say whether a session that we do not know lives, then decide again."""
        try:
            await self.sessions.renew(claim.sid)
            client.decided()
            try:
                grant = self._access.authorise(request, slug)
            except (NotSignedIn, Ask):
                client.answer(self._sign_in(request, slug))
            except NotServed as missing:
                client.answer(self._not_served(missing.route, request))
            else:
                self._serve(client, request, grant)
        except Refused as refused:
            client.refuse(refused)
        except Exception as error:
            client.broken(error)

    def _own_path(self, client: Client, request: Request, slug: str) -> None:
        if request.target.partition(b"?")[0] != PREFIX + b"enter" or not request.navigation:
            raise Refused(404, "there is nothing here")
        self.registry.release(client)  # it comes with a ticket: the end of a session before is no end of this
        client.later(self.spawn(self._enter(client, request, slug)))

    async def _enter(self, client: Client, request: Request, slug: str) -> None:
        try:
            answer = await self._entry.finish(request, slug)
        except Refused as refused:
            client.decided()
            client.refuse(refused)
        else:
            client.decided()
            client.answer(answer)

    def failure(self, exchange: Exchange, status: int) -> pages.Answer:
        """What a client is told when its request could not be answered."""
        request, grant = exchange.request, exchange.grant
        if status == 408:
            return pages.text(408, "the request did not come in time")
        if status == 400:
            return pages.text(400, "malformed request body")
        if status == 503:
            return pages.interrupted(request)
        if grant is None:
            return pages.portal_away()
        return pages.not_answering(self.config.portal_url, grant.route.instance, request)

    # ---- what the portal says ----
    def apply(self, message: dict[str, Any]) -> None:
        """One line of the stream."""
        kind = message.get("type")
        if kind == "heartbeat":
            self.clock.set(message["now"])
        elif kind == "route":
            change = self.routes.apply(message)
            if change is not None:
                self._route_changed(*change)
                if change[1].probed:
                    self.probes.hurry()
        elif kind == "session":
            self.sessions.add(message)
        elif kind == "withdraw":
            self.sessions.withdraw(message["sid"])
        elif kind == "keys":
            self.sessions.keys.set(message)

    def replace(self, snapshot: dict[str, Any], since: float) -> None:
        """A snapshot, asked for at `since` (monotonic)."""
        self.clock.set(snapshot["now"])
        self.sessions.keys.set(snapshot["keys"])
        for old, new in self.routes.replace(snapshot["routes"]):
            self._route_changed(old, new)
        self.sessions.replace(snapshot["sessions"], since)

    def _route_changed(self, old: Route | None, new: Route | None) -> None:
        """Close what hangs on a route that is no more, or that leads elsewhere now."""
        if old is None or not old.served:
            return
        same = new is not None and new.served and new.epoch == old.epoch
        if same and new is not None and _addresses(new) == _addresses(old):
            return
        self.pool.drop(old.instance)
        for client in self.registry.of_instance(old.instance):
            client.cut()

    async def _renew(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            answer = await self.link.renew(rows)
        except (OSError, TimeoutError, ValueError):
            self.metrics.renewals["failed"] += len(rows)
            raise
        self.metrics.renewals["renewed"] += len(answer["sessions"])
        self.metrics.renewals["gone"] += len(answer["gone"])
        return answer

    def _close_session(self, sid: str) -> None:
        clients = tuple(self.registry.of_session(sid))
        if not clients:
            return
        began = time.monotonic()
        for client in clients:
            client.cut()

        def closed() -> None:
            counts = self.metrics.withdrawals
            counts[:] = counts[0] + 1, counts[1] + len(clients), counts[2] + time.monotonic() - began

        asyncio.get_running_loop().call_soon(closed)  # behind the ends of those connections

    # ---- log ----
    def log_exchange(self, client: Client, exchange: Exchange, status: int) -> None:
        request = exchange.request
        session = ""
        # what passed through an instance's tunnel has been counted on the way
        received, sent = (0, 0) if status == 101 and exchange.grant else (exchange.received, exchange.sent)
        self.metrics.requests[status // 100] += 1
        self.metrics.received += received
        self.metrics.sent += sent
        if exchange.grant is not None:
            grant = exchange.grant
            session = grant.session.tag
            self.usage.add(grant.session.sid, received, sent, 1)
        self.log.request(
            client.address,
            request.host,
            request.method,
            request.target,
            status,
            exchange.received,
            exchange.sent,
            (time.monotonic() - exchange.began) * 1000,
            exchange.request_id,
            session,
        )

    def log_own(self, client: Client, status: int, sent: int) -> None:
        request = client.request
        host, method, target = (request.host, request.method, request.target) if request else (b"", b"-", b"")
        self.metrics.answers[status] += 1
        self.log.request(client.address, host, method, target, status, 0, sent, 0.0, "", "")


def _addresses(route: Route) -> dict[str, Any]:
    return {name: service.target.endpoint for name, service in route.services.items()}
