"""What passed through: counted per session, reported by number, stored once, added up over gateways."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from auth.roles import InstanceRole
from instances import entry, usage
from instances.lifecycle import State
from instances.models import GatewayProcess, GatewaySession, Instance
from portal import internal
from portal.lib.hashing import digest
from tests.factories.auth import sign_in
from tests.factories.instances import InstanceFactory
from tests.gateway.harness import Harness, request
from tests.gateway.test_sockets import Sockets


def reports(gateway: Harness) -> list[dict[str, Any]]:
    return [body["usage"] for path, body in gateway.portal.calls if path == "/report" and body["usage"]]


def send(gateway: Harness) -> None:
    gateway.run(gateway.gateway.probes.send_usage())


# ---- the gateway's half ----
def test_requests_and_bytes_are_counted_per_session(gateway: Harness) -> None:
    gateway.instance()
    (first, cookie), (second, other) = gateway.session(), gateway.session()
    gateway.same_origin(cookie=cookie)
    gateway.same_origin(cookie=cookie)
    with gateway.connect() as wire:
        wire.send(request("POST", "/", gateway.host(), b"x" * 100, Cookie=other, Sec_Fetch_Site="same-origin"))
        wire.reply()
    gateway.until(lambda: len(gateway.gateway.usage._counts) == 2)
    send(gateway)
    rows = {row["sid"]: row for row in reports(gateway)[0]["sessions"]}
    assert rows[first] == {"sid": first, "received": 0, "sent": 10, "requests": 2}
    assert rows[second] == {"sid": second, "received": 100, "sent": 5, "requests": 1}


def test_a_short_socket_is_counted_to_its_last_byte(gateway: Harness) -> None:
    sockets = Sockets(gateway)
    with sockets.open(compression=None) as opened:
        opened.send(b"x" * 10_000)
        assert len(opened.recv(timeout=10)) == 10_000
    gateway.until(lambda: not gateway.gateway._clients)
    send(gateway)
    rows = [row for report in reports(gateway) for row in report["sessions"]]
    assert sum(row["requests"] for row in rows) == 1
    assert sum(row["received"] for row in rows) > 10_000
    assert sum(row["sent"] for row in rows) > 10_000
    gateway.loop.call_soon_threadsafe(sockets.server.close)


def test_a_report_that_was_not_confirmed_is_sent_again_unchanged(gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session()
    gateway.same_origin(cookie=cookie)
    gateway.portal.away = True
    send(gateway)
    unsent = gateway.gateway.usage.report()
    gateway.same_origin(cookie=cookie)
    gateway.portal.away = False
    send(gateway)
    send(gateway)
    send(gateway)
    first, second = reports(gateway)
    assert first == unsent
    assert (second["gateway"], second["number"]) == (first["gateway"], first["number"] + 1)
    assert [report["sessions"][0]["requests"] for report in (first, second)] == [1, 1]


# ---- the portal's half ----
stored = pytest.mark.django_db(transaction=True)


def entered() -> GatewaySession:
    instance: Instance = InstanceFactory(state=State.ACTIVE)
    session = sign_in(Client(), instance.owner)
    secret = entry.issue_ticket(session, instance.owner, instance, InstanceRole.OWNER, digest("nonce"))
    return entry.redeem(secret, digest("nonce"), instance.slug)


def counted(session: GatewaySession) -> tuple[int, int, int]:
    session.refresh_from_db()
    return session.received, session.sent, session.requests


def row(session: GatewaySession, received: int = 1, sent: int = 10, requests: int = 100) -> dict[str, Any]:
    return {"sid": str(session.sid), "received": received, "sent": sent, "requests": requests}


@stored
def test_a_report_counts_once_however_often_it_comes() -> None:
    session = entered()
    gateway = str(uuid.uuid4())
    for _ in range(3):
        usage.take({"gateway": gateway, "number": 1, "sessions": [row(session)]})
    assert counted(session) == (1, 10, 100)
    usage.take({"gateway": gateway, "number": 2, "sessions": [row(session)]})
    usage.take({"gateway": gateway, "number": 1, "sessions": [row(session)]})
    assert counted(session) == (2, 20, 200)


@stored
def test_gateways_and_their_processes_add_up() -> None:
    """Four gateways report the same two sessions, each report three times over, all at once."""
    sessions = [entered(), entered()]
    gateways = [str(uuid.uuid4()) for _ in range(4)]
    taken: list[bool] = []
    together = threading.Barrier(12)

    def work(gateway: str, turned: bool) -> None:
        together.wait(20)
        try:
            for number in range(1, 6):
                rows = [row(session) for session in (reversed(sessions) if turned else sessions)]
                taken.append(usage.take({"gateway": gateway, "number": number, "sessions": rows}))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(gateways[n % 4], n % 2 == 0)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 60
    assert taken.count(True) == 20
    assert [counted(session) for session in sessions] == [(20, 200, 2000)] * 2
    assert GatewayProcess.objects.count() == 4


@stored
@pytest.mark.parametrize(
    "sessions",
    [[], [{"sid": str(uuid.uuid4()), "received": 1, "sent": 1, "requests": 1}]],
    ids=["nothing", "unknown session"],
)
def test_what_belongs_to_nobody_changes_nothing(sessions: list[dict[str, Any]]) -> None:
    session = entered()
    assert usage.take({"gateway": str(uuid.uuid4()), "number": 1, "sessions": sessions})
    assert counted(session) == (0, 0, 0)


@stored
def test_counts_only_grow() -> None:
    session = entered()
    usage.take({"gateway": str(uuid.uuid4()), "number": 1, "sessions": [row(session, -5, -5, -5)]})
    assert counted(session) == (0, 0, 0)


@stored
def test_the_internal_address_takes_usage_with_a_report() -> None:
    session = entered()
    body = {"instances": [], "usage": {"gateway": str(uuid.uuid4()), "number": 1, "sessions": [row(session)]}}
    assert internal.report(body)[0] == 200
    assert internal.report({"instances": [], "usage": None})[0] == 200
    assert counted(session) == (1, 10, 100)


def test_nothing_is_sent_when_nothing_has_passed(gateway: Harness) -> None:
    send(gateway)
    assert not reports(gateway)
