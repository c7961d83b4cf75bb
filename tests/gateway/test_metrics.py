"""Figures: what happened is counted, over all processes, and nobody can be recognised in them."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request

import pytest

from instances.gateway import metrics
from instances.gateway.config import CannotStart, Limits, read
from tests.gateway.harness import Harness, request
from tests.gateway.processes import Front, Service
from tests.gateway.test_link import GOOD
from tests.gateway.test_sockets import Sockets
from tests.ports import free_port


def parsed(text: str) -> dict[str, float]:
    """Read an exposition strictly: every sample has a type, no sample comes twice."""
    found: dict[str, float] = {}
    types = dict(re.findall(r"^# TYPE (\S+) (counter|gauge)$", text, re.MULTILINE))
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'beamport_gateway_(([a-z_]+)(?:\{[a-z]+="[a-z0-9-]+"\})?) (\S+)', line)
        assert match, line
        assert f"beamport_gateway_{match[2]}" in types, line
        assert match[1] not in found, line
        found[match[1]] = float(match[3])
    return found


def figures(gateway: Harness) -> dict[str, float]:
    return parsed(gateway.run(metrics.of_one(gateway.gateway)()))


def test_what_happened_is_counted(gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session()
    for _ in range(3):
        gateway.same_origin(cookie=cookie)
    with gateway.connect() as wire:
        wire.send(request("POST", "/", gateway.host(), b"x" * 100, Cookie=cookie, Sec_Fetch_Site="same-origin"))
        wire.reply()
    assert gateway.same_origin("/", cookie="").status == 401
    assert gateway.get(host="elsewhere.example").status == 421
    gateway.until(lambda: not gateway.gateway._clients)
    found = figures(gateway)
    assert found['requests_total{status="2xx"}'] == 4
    assert (found['answers_total{status="401"}'], found['answers_total{status="421"}']) == (1, 1)
    assert (found["received_bytes_total"], found["sent_bytes_total"]) == (100, 20)
    assert (found["connections"], found["tunnels"], found["sessions"], found["routes"]) == (0, 0, 1, 1)
    assert found["link_up"] == 1
    assert found["link_silence_seconds"] < 60
    assert found["resident_bytes"] > 1_000_000
    assert found["open_files"] > 3


def test_tunnels_and_their_withdrawal_are_counted(gateway: Harness) -> None:
    sockets = Sockets(gateway)
    opened = [sockets.open(compression=None) for _ in range(3)]
    for one in opened:
        with one:
            one.send(b"x" * 1000)
            one.recv(timeout=10)
            assert figures(gateway)["tunnels"] == 3
            break
    gateway.portal.send(type="withdraw", sid=sockets.sid)
    gateway.until(lambda: figures(gateway)["withdrawals_total"] == 1)
    found = figures(gateway)
    assert 2 <= found["withdrawn_connections_total"] <= 3
    assert found["withdrawal_seconds_total"] > 0
    gateway.until(lambda: figures(gateway)["connections"] == 0)
    assert figures(gateway)["received_bytes_total"] > 1000
    gateway.loop.call_soon_threadsafe(sockets.server.close)


def test_who_is_not_let_in_is_counted_by_reason() -> None:
    with Harness(Limits(per_address=2, drain=0.1)) as gateway:
        wires = [gateway.connect() for _ in range(2)]
        gateway.until(lambda: len(gateway.gateway._clients) == 2)
        for _ in range(3):
            with gateway.connect() as wire:
                assert wire.to_end().startswith(b"HTTP/1.1 503 ")
        assert figures(gateway)['refused_total{reason="address"}'] == 3
        for wire in wires:
            wire.sock.close()


def test_renewals_are_counted_by_outcome(gateway: Harness) -> None:
    gateway.instance()
    (_, alive), (gone, dead) = gateway.session(life=-1), gateway.session(life=-1)
    del gateway.portal.sessions[gone]
    assert [gateway.same_origin(cookie=cookie).status for cookie in (alive, dead)] == [200, 401]
    gateway.portal.away = True
    _, third = gateway.session(life=-1)
    assert gateway.same_origin(cookie=third).status == 401
    found = figures(gateway)
    outcomes = [found[f'renewals_total{{outcome="{outcome}"}}'] for outcome in ("renewed", "gone", "failed")]
    assert outcomes == [1, 1, 1]


def test_nobody_can_be_recognised(gateway: Harness) -> None:
    gateway.instance()
    sid, cookie = gateway.session()
    gateway.same_origin("/secret-path?token=x", cookie=cookie)
    text = gateway.run(metrics.of_one(gateway.gateway)())
    for word in (
        sid,
        cookie,
        "alpha1234",
        "secret",
        "localhost",
        "127.0.0.1",
        gateway.portal.routes["alpha1234"]["instance"],
    ):
        assert word not in text


# ---- several processes ----
def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read().decode())


def test_processes_are_added_up_and_what_has_ended_stays_counted(gateway: Harness) -> None:
    service, port = Service(gateway), free_port()
    with Front(gateway, GATEWAY_PROCESSES="2", GATEWAY_METRICS_LISTEN=f"127.0.0.1:{port}") as front:
        for _ in range(30):
            assert front.get(cookie=service.cookie).status == 200
        front.until(lambda: scrape(port)['requests_total{status="2xx"}'] == 30)
        found = scrape(port)
        each = {pid: found[f'process_resident_bytes{{process="{pid}"}}'] for pid in front.children()}
        assert found["processes"] == len(each) == 2
        assert sum(each.values()) == pytest.approx(found["resident_bytes"], rel=0.2)
        opened = front.sockets_on_each(service.cookie)
        assert scrape(port)["tunnels"] == 2
        victim, other = opened
        os.kill(victim, signal.SIGKILL)
        front.until(lambda: scrape(port)["processes"] == 2 and victim not in front.children())
        assert scrape(port)['requests_total{status="2xx"}'] == 30
        front.reload()
        front.until(lambda: (scrape(port)["processes"], scrape(port)["draining"]) == (3, 1))
        assert scrape(port)['requests_total{status="2xx"}'] == 30
        opened[other].sock.close()
        front.until(lambda: scrape(port)["processes"] == 2)
        assert scrape(port)['requests_total{status="2xx"}'] == 30
    service.close()


def test_nothing_else_is_answered(gateway: Harness) -> None:
    port = free_port()
    with Front(gateway, GATEWAY_METRICS_LISTEN=f"127.0.0.1:{port}"):
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
                wire.sendall(text)
                assert wire.recv(100).startswith(b"HTTP/1.1 404")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            wire.sendall(b"x" * 20_000)
            wire.shutdown(socket.SHUT_WR)
            with pytest.raises((ConnectionResetError, AssertionError)):
                assert wire.recv(100) != b""
        assert scrape(port)["processes"] == 1


# ---- settings ----
def test_figures_are_off_unless_wanted() -> None:
    assert read(GOOD).metrics_listen == ()
    listen = {"GATEWAY_METRICS_LISTEN": "127.0.0.1:9100,[::1]:9100"}
    assert read(GOOD | listen).metrics_listen == (("127.0.0.1", 9100), ("::1", 9100))


@pytest.mark.parametrize("address", ["0.0.0.0:9100", "[::]:9100", "8.8.8.8:9100", "9100", "localhost:9100"])
def test_figures_are_for_private_addresses(address: str) -> None:
    outside = {"BEAMPORT_DEMO": "", "GATEWAY_METRICS_LISTEN": address, "PORTAL_URL": "https://localhost"}
    with pytest.raises(CannotStart, match="GATEWAY_METRICS_LISTEN"):
        read(GOOD | outside)
