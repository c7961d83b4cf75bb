"""How many there may be: connections, half-open requests, descriptors, and what the gateway remembers."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from instances.gateway import access, log, routes, session
from instances.gateway.access import Sites
from instances.gateway.clock import Clock
from instances.gateway.config import Limits
from instances.gateway.log import Log
from instances.gateway.routes import Routes
from instances.gateway.session import Sessions
from tests.gateway.harness import Harness, Wire, request
from tests.gateway.processes import Front, Service, descriptors
from tests.gateway.test_metrics import figures, scrape
from tests.ports import free_port


# ---- connections ----
def test_connections_in_all_are_limited() -> None:
    with Harness(Limits(connections=5, drain=0.1)) as gateway:
        wires = [gateway.connect() for _ in range(5)]
        gateway.until(lambda: len(gateway.gateway._clients) == 5)
        with gateway.connect() as sixth:
            assert sixth.reply().status == 503
        assert figures(gateway)['refused_total{reason="connections"}'] == 1
        wires.pop().sock.close()
        gateway.until(lambda: len(gateway.gateway._clients) == 4)
        assert gateway.get(host=f"localhost:{gateway.port}").status == 200
        for wire in wires:
            wire.sock.close()


def test_connections_to_one_instance_are_limited() -> None:
    with Harness(Limits(per_instance=2, drain=0.1)) as gateway:
        gateway.instance()
        wires = [gateway.connect() for _ in range(3)]
        statuses = []
        for wire in wires:  # each with a session of its own
            _sid, cookie = gateway.session()
            wire.send(request("GET", "/", gateway.host(), Cookie=cookie, Sec_Fetch_Site="same-origin"))
            statuses.append(wire.reply().status)
        assert statuses == [200, 200, 429]
        for wire in wires:
            wire.sock.close()


def test_of_half_open_requests_the_oldest_give_way() -> None:
    with Harness(Limits(half_open=10, drain=0.1)) as gateway:
        idle = [gateway.connect() for _ in range(5)]
        old = [_half(gateway) for _ in range(10)]
        gateway.until(lambda: sum(1 for client in gateway.gateway._clients if client.began) == 10)
        new = [_half(gateway) for _ in range(10)]
        assert all(wire.closed for wire in old)
        for wire in new:
            wire.send(b"\r\n")
            assert wire.reply().status == 200, "who came later may end what it began"
        for wire in idle:
            wire.send(request("GET", "/", f"localhost:{gateway.port}"))
            assert wire.reply().status == 200, "a connection without a request counts as idle"
        assert figures(gateway)['refused_total{reason="half-open"}'] == 10
        for wire in (*idle, *old, *new):
            wire.sock.close()


def _half(gateway: Harness) -> Wire:
    wire = gateway.connect()
    wire.send(request("GET", "/", f"localhost:{gateway.port}").removesuffix(b"\r\n"))
    return wire


def test_who_is_gone_before_being_taken_is_not_counted(gateway: Harness) -> None:
    errors: list[dict[str, object]] = []
    gateway.call(gateway.loop.set_exception_handler, lambda loop, context: errors.append(context))
    busy = threading.Event()
    gateway.loop.call_soon_threadsafe(busy.wait, 10)  # so that they all have gone when they are taken
    for _ in range(50):
        with gateway.connect() as wire:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    busy.set()
    inner = gateway.gateway.reception
    gateway.until(lambda: inner.empty and not inner.opening)
    assert gateway.get(host=f"localhost:{gateway.port}").status == 200
    gateway.until(lambda: inner.empty)
    assert not inner._per_address
    assert not errors


def test_every_task_ends_with_the_gateway() -> None:
    harness = Harness()
    with harness as gateway:
        gateway.portal.ready_status = 409
        backend = gateway.instance(state="starting")
        silent = asyncio.Event()

        async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await silent.wait()

        backend.handler = hangs
        gateway.until(lambda: gateway.gateway.probes._probing)
        gateway.run(gateway.gateway.stop())
        gateway.until(lambda: not gateway.gateway._tasks)
        left = gateway.call(asyncio.all_tasks)
        assert not [task for task in left if "instances/gateway" in str(task.get_coro().cr_code.co_filename)]
        gateway.call(silent.set)


# ---- descriptors ----
def test_without_descriptors_it_waits_and_recovers(gateway: Harness) -> None:
    """The limit falls to what is open already; nobody is accepted, nothing spins, and nobody is lost."""
    service, port = Service(gateway), free_port()
    with Front(gateway, GATEWAY_METRICS_LISTEN=f"127.0.0.1:{port}") as front:
        pid = front.process.pid
        kept = front.connect()
        kept.send(front.request("/", service.cookie))
        assert kept.reply().status == 200
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_highest(pid) + 1, before[1]))
        began = time.monotonic()
        waiting = [front.connect() for _ in range(5)]
        for wire in waiting:
            wire.send(front.request("/", service.cookie))
        front.until(lambda: "cannot accept" in front.log)
        front.until(lambda: front.log.count("cannot accept") >= 3)
        pauses, lasted = front.log.count("cannot accept"), time.monotonic() - began
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert [wire.reply().status for wire in waiting] == [200] * 5
        assert pauses <= lasted / 0.5 + 1, "one try each half second"
        assert scrape(port)["accept_pauses_total"] >= pauses
        for wire in (kept, *waiting):
            wire.sock.close()
    service.close()


def _highest(pid: int) -> int:
    """Fill up the gaps below, as the kernel gives the lowest free number."""
    numbers = sorted(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    gap = next((free for free in range(numbers[-1]) if free not in numbers), numbers[-1] + 1)
    return gap - 1


def test_a_low_limit_of_descriptors_is_said_and_kept(gateway: Harness) -> None:
    with Front(gateway) as front:
        limits = Path(f"/proc/{front.process.pid}/limits").read_text()
        soft, hard = next(line for line in limits.splitlines() if "open files" in line).split()[3:5]
    assert soft == hard, "all that it may have"
    command = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (260, 260)); {_RUN}"
    environment = Front(gateway).environment
    process = subprocess.Popen([sys.executable, "-c", command], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "few file descriptors" in process.stderr.readline()
        assert "gateway listens" in process.stderr.readline()
        address = environment["GATEWAY_LISTEN"].split(":")
        wires = [_connected(address) for _ in range(30)]
        gateway.until(lambda: sum("socket" in what for what in descriptors(process.pid)) >= 30)
        with _connected(address) as one_more:
            assert one_more.reply().status == 503
        for wire in wires:
            wire.sock.close()
    finally:
        process.terminate()
        process.wait(10)


_RUN = "import sys; sys.argv = ['gateway']; runpy.run_module('instances.gateway', run_name='__main__')"


def _connected(address: list[str]) -> Wire:
    return Wire(socket.create_connection((address[0], int(address[1])), timeout=10))


# ---- what is remembered ----
def table() -> Sessions:
    async def ask(rows: list[dict[str, object]]) -> dict[str, object]:
        return {"sessions": [], "gone": []}

    made = Sessions(Clock(), ask, lambda sid: None, asyncio.create_task)
    made.keys.set({"current": "k1", "keys": {"k1": base64.urlsafe_b64encode(b"1" * 32).decode()}})
    return made


def test_revoked_sessions_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_REVOKED", 1000)
    sessions = table()
    row = {"slug": "alpha1234", "instance": "i", "role": "owner", "epoch": 1, "expires": time.time() + 100}
    first = row | {"sid": str(uuid.uuid4()), "version": 1}
    known = sessions.add(first)
    assert known is not None
    cookie = sessions.keys.sign(known, int(first["expires"]))
    sessions.withdraw(first["sid"])
    assert sessions.check(cookie, "alpha1234") is None
    for _ in range(5000):
        sessions.withdraw(str(uuid.uuid4()))
    assert len(sessions._revoked) == 1000
    claim = sessions.check(cookie, "alpha1234")
    assert claim is not None
    assert claim.session is None, "what is forgotten is asked about, not believed"


def test_hosts_and_grants_are_remembered_up_to_a_number(gateway: Harness) -> None:
    sites = Sites("localhost", "apps.localhost", frozenset())
    for number in range(3 * access._REMEMBERED):
        sites.find(b"x%07d.apps.localhost" % number)
    assert len(sites._found) <= access._REMEMBERED
    gateway.instance()
    _sid, cookie = gateway.session()
    inner = gateway.gateway._access
    full = {("alpha1234", b"%d" % number): None for number in range(access._REMEMBERED)}
    gateway.call(inner._granted.update, full)
    assert gateway.same_origin(cookie=cookie).status == 200
    assert len(inner._granted) == 1
    assert gateway.same_origin(cookie=cookie).status == 200


def test_instances_that_are_no_more_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "REMEMBERED", 500)
    known = Routes(b"k" * 32, "https")
    service = {"name": "jupyter", "host": "127.0.0.1", "port": 1}
    for number in range(3000):
        row = {"slug": f"x{number:07d}", "instance": str(number), "state": "stopped", "version": 1, "secret_epoch": 1}
        known.apply(row)
    known.apply(row | {"slug": "served123", "state": "active", "services": [service]})
    known.forget_old()
    assert len(list(known)) == 501
    assert known.get("served123") is not None
    assert known.get("x0002999") is not None, "the latest are kept"


def test_the_log_remembers_texts_up_to_a_number() -> None:
    for number in range(20_000):
        log._what(b"host", b"GET", b"/path/%d" % number)
    assert log._what.cache_info().currsize <= 4096


def test_lines_of_several_processes_are_not_torn(tmp_path: Path) -> None:
    """Writes up to PIPE_BUF bytes are whole (pipe(7)); here each is at most that, and ends with a line."""
    reading, writing = os.pipe()
    shared = Log(writing, shared=True)
    for number in range(150):
        shared._lines.append(f'{{"n":{number},"x":"{"y" * 200}"}}\n')
    seen: list[int] = []
    plain = os.write

    def watched(descriptor: int, data: bytes) -> int:
        seen.append(len(data))
        assert data.endswith(b"\n")
        return plain(descriptor, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", watched)
        shared.flush()
    assert max(seen) <= 4096
    assert os.read(reading, 1_000_000).count(b"\n") == 150
    os.close(reading)
    os.close(writing)
