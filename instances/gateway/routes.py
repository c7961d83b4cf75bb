"""The route table: slug → what may be reached there. A row names the only addresses the gateway ever connects to."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from instances.gateway.upstream import Endpoint, Target
from instances.lifecycle import PROBED, SERVED, State
from portal.lib.hashing import instance_secret

#: the service that speaks of the instance, not to people
AGENT = "agent"
SLUG = re.compile(r"[a-z][a-z0-9]{7,39}")
#: how long the table remembers that an instance is not served (older messages must not revive it)
FORGET_AFTER = 3600.0
REMEMBERED = 10_000


class Service:
    """One service of an instance: where it is, what a probe asks for, which roles may open it."""

    __slots__ = ("name", "probe", "required", "roles", "secret", "target")

    def __init__(self, row: dict[str, Any], key: tuple[str, int, str], secret: str, scheme: str) -> None:
        self.name: str = row["name"]
        self.probe: str = row.get("probe") or "/"
        self.required: bool = bool(row.get("required", True))
        self.roles = frozenset(row.get("roles", ()))
        self.secret = secret
        ours = f"Authorization: token {secret}\r\nX-Forwarded-Proto: {scheme}\r\n".encode()
        self.target = Target(key, Endpoint.of(row), ours, guarded=True)


class Route:
    """What the gateway knows of one instance. Without services it is not served and only its state is known."""

    __slots__ = (
        "agent",
        "epoch",
        "instance",
        "probed",
        "seen",
        "served",
        "services",
        "slug",
        "state",
        "version",
        "web",
    )

    def __init__(self, row: dict[str, Any], instance_key: bytes, scheme: str) -> None:
        self.slug: str = row["slug"]
        self.instance: str = row["instance"]
        self.state = State(row["state"])
        self.version: int = row["version"]
        self.epoch: int = row["secret_epoch"]
        self.seen = time.monotonic()
        self.services = {
            service["name"]: Service(
                service,
                (self.instance, self.epoch, service["name"]),
                instance_secret(instance_key, self.instance, self.epoch, service["name"]),
                scheme,
            )
            for service in row.get("services", ())
        }
        #: nobody's to open, and not probed
        self.agent = self.services.pop(AGENT, None)
        self.served = self.state in SERVED and bool(self.services)
        self.probed = self.state in PROBED and bool(self.services)
        #: what answers on the instance's origin: the first service
        self.web = next(iter(self.services.values()), None)


class Routes:
    """The table. Rows carry a version and the higher one wins; nothing else orders them."""

    def __init__(self, instance_key: bytes, scheme: str) -> None:
        self._key = instance_key
        self._scheme = scheme
        self._by_slug: dict[str, Route] = {}

    def get(self, slug: str) -> Route | None:
        return self._by_slug.get(slug)

    def __iter__(self) -> Iterator[Route]:
        return iter(tuple(self._by_slug.values()))

    def apply(self, row: dict[str, Any]) -> tuple[Route | None, Route] | None:
        """Take a row over unless a newer one is known; returns (old, new) when it changed the table."""
        old = self._by_slug.get(row["slug"])
        if old is not None and old.version >= row["version"]:
            old.seen = time.monotonic()
            return None
        new = self._by_slug[row["slug"]] = Route(row, self._key, self._scheme)
        return old, new

    def replace(self, rows: Iterable[dict[str, Any]]) -> list[tuple[Route | None, Route | None]]:
        """Take over a snapshot; returns what changed. Served rows that it does not name are gone."""
        rows = list(rows)
        changes: list[tuple[Route | None, Route | None]] = []
        named = {row["slug"] for row in rows}
        for route in self:
            if route.slug not in named and (route.served or route.probed):
                del self._by_slug[route.slug]
                changes.append((route, None))
        changes.extend(change for row in rows if (change := self.apply(row)))
        return changes

    def forget_old(self) -> None:
        """Drop rows of instances that have not been served for long, and beyond a number the oldest of them."""
        limit = time.monotonic() - FORGET_AFTER
        idle = [route for route in self._by_slug.values() if not route.services]
        if len(idle) > REMEMBERED:
            idle.sort(key=lambda route: route.seen)
            limit = max(limit, idle[-REMEMBERED].seen)
        for route in idle:
            if route.seen < limit:
                del self._by_slug[route.slug]
