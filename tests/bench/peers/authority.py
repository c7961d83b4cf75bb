"""P15: what a decision about one request costs the gateway, remembered and afresh; in this process, without sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from instances.gateway.access import Access
from instances.gateway.clock import Clock
from instances.gateway.http1 import Request, parse_request
from instances.gateway.routes import Routes
from instances.gateway.session import Sessions
from tests.bench.peers.lib import Goal, Sample
from tests.bench.peers.setup import Peers
from tests.bench.serve_for_bench import Portal

SLUG, COUNT = "bench4auth", 20_000


def prepare() -> tuple[Callable[[], Access], Request]:
    """Return what makes a gateway's authority without a memory, and a request that it grants."""
    portal = Portal({SLUG: "127.0.0.1:1"})
    routes = Routes(b"k" * 32, "http")
    routes.replace(portal.routes)
    sessions = Sessions(Clock(), _not_asked, lambda _sid: None, _not_asked)
    sessions.keys.set(portal.keys)
    sessions.replace(portal.sessions.values(), 0.0)
    host = f"{SLUG}.apps.localhost"
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {portal.cookie(SLUG)}\r\nOrigin: http://{host}\r\n\r\n"
    return lambda: Access(sessions, routes, "http"), parse_request(head.encode())


def _not_asked(*_given: Any) -> Any:
    raise AssertionError("the portal was asked about a request that the gateway can decide")


def microseconds(decide: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(COUNT):
        decide()
    return 1e6 * (time.process_time() - began) / COUNT


async def run(_peers: Peers, rounds: int) -> list[Goal]:
    make, request = prepare()
    known, remembered, afresh = make(), Sample(), Sample()
    for _ in range(rounds):
        remembered.add(microseconds(lambda: known.authorise(request, SLUG)))
        afresh.add(microseconds(lambda: make().authorise(request, SLUG)))
    print(f"  a decision, µs: remembered {remembered}; afresh {afresh}")
    return [
        Goal("P15", "a decision that is remembered, up to 5 s", remembered.median, "µs", 50),
        Goal("P15", "a decision afresh: signature, session, route, role", afresh.median, "µs", 50),
    ]
