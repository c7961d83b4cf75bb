"""Several processes on one port: every one serves, hears of every withdrawal, and is replaced when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instances.gateway.config import CannotStart, read
from tests.gateway.harness import Harness
from tests.gateway.processes import Front, Service, children_of, talks
from tests.gateway.test_link import GOOD


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_each_process_serves_and_hears_of_a_withdrawal(front: Front, service: Service) -> None:
    assert len(front.children()) == 2
    opened = front.sockets_on_each(service.cookie)
    assert all(talks(one) for one in opened.values())
    service.gateway.portal.send(type="withdraw", sid=service.sid)
    assert all(one.closed for one in opened.values())
    assert front.get(cookie=service.cookie).status == 401


def test_a_process_that_dies_is_replaced_and_the_others_go_on(front: Front, service: Service) -> None:
    opened = front.sockets_on_each(service.cookie)
    victim, other = opened
    os.kill(victim, signal.SIGKILL)
    assert opened[victim].closed
    statuses = {front.get().status for _ in range(40)}
    assert statuses == {200}, "who came meanwhile has waited in the queue"
    assert talks(opened[other])
    front.until(lambda: len(front.children()) == 2)
    assert victim not in front.children()


def test_a_process_that_keeps_dying_is_tried_later_and_later(front: Front) -> None:
    for _ in range(4):
        front.until(lambda: len(front.children()) == 2, 20)
        deaths = front.log.count("gateway process ended")
        os.kill(max(front.children()), signal.SIGKILL)
        front.until(lambda seen=deaths: front.log.count("gateway process ended") > seen)
    front.until(lambda: len(front.children()) == 2, 20)
    assert {front.get().status for _ in range(10)} == {200}


def test_a_signal_to_the_parent_ends_all(gateway: Harness, service: Service) -> None:
    with Front(gateway, GATEWAY_PROCESSES="3") as front:
        members = front.children()
        assert len(members) == 3
        front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(10) == 0
        assert all(is_gone(pid) for pid in members)


def test_without_their_parent_processes_drain_and_end(front: Front, service: Service) -> None:
    opened = front.sockets_on_each(service.cookie)
    front.process.send_signal(signal.SIGKILL)
    front.process.wait(10)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            front.connect().sock.close()
        except ConnectionRefusedError:
            break
        except ConnectionResetError:
            continue  # met a process in the moment in which it stopped; another may still accept
    else:
        raise AssertionError("somebody still accepts")
    for pid, one in opened.items():
        assert talks(one), "open sockets stay"
        one.sock.close()
        while not is_gone(pid):
            assert time.monotonic() < end + 10
            time.sleep(0.02)


def test_one_of_them_looks_after_the_instances(front: Front) -> None:
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in front.children()]
    assert sorted("--lead" in command for command in commands) == [False, True]


def test_who_does_not_lead_asks_no_instance_and_reports_what_it_counts(gateway: Harness) -> None:
    gateway.call(setattr, gateway.gateway.probes, "leads", False)
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    gateway.same_origin(cookie=cookie)
    gateway.portal.ready_status = 409
    starting = gateway.instance("beta12345", state="starting")
    gateway.run(gateway.gateway.probes._report())
    path, report = gateway.portal.calls[-1]
    assert (path, report["instances"], len(report["usage"]["sessions"])) == ("/report", [], 1)
    assert (backend.connections, starting.connections) == (1, 0)


def test_the_port_of_somebody_else_is_not_shared(front: Front) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instances.gateway"], env=front.environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "is taken" in done.stderr


def test_what_cannot_start_is_said_once(gateway: Harness, tmp_path: Path) -> None:
    wrong = {"GATEWAY_TLS_CERT_FILE": str(tmp_path / "none"), "GATEWAY_TLS_KEY_FILE": str(tmp_path / "none")}
    environment = Front(gateway, GATEWAY_PROCESSES="2", **wrong).environment | {"PORTAL_URL": "https://localhost"}
    done = subprocess.run(
        [sys.executable, "-m", "instances.gateway"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "GATEWAY_TLS_CERT_FILE" in done.stderr


def test_one_process_needs_no_parent(gateway: Harness, service: Service) -> None:
    with Front(gateway) as front:
        assert front.get(cookie=service.cookie).body == b"hello"
        assert not children_of(front.process.pid)


@pytest.mark.parametrize(("text", "count"), [("", 0), ("1", 1), ("4", 4), ("auto", len(os.sched_getaffinity(0)))])
def test_the_number_of_processes_is_read(text: str, count: int) -> None:
    assert read(GOOD | {"GATEWAY_PROCESSES": text}).processes == count


@pytest.mark.parametrize("text", ["0", "-1", "many", "65", "1.5"])
def test_a_wrong_number_of_processes_stops_the_start(text: str) -> None:
    with pytest.raises(CannotStart, match="GATEWAY_PROCESSES"):
        read(GOOD | {"GATEWAY_PROCESSES": text})
