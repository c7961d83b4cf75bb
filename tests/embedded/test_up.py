"""One command starts everything; a kill costs nothing; Ctrl-C leaves nothing. In order, on one state folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded.people import gateway_person, portal_person
from portal.embedded.processes import started_at
from portal.embedded.up import ssh_line
from tests.portals import ROOT, Portal, environment, running, until

SSH = "192.0.2.7 50000 192.0.2.1 22"
CHILDREN = ("gateway", "identity", "redis", "supervisor", "web", "worker")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def portal() -> Iterator[Portal]:
    with running("bpu-", SSH_CONNECTION=SSH, UP_SILENCE_SECONDS="20") as made:
        yield made


def test_it_is_ready_through_the_gateway_and_says_how_to_come_in(portal: Portal) -> None:
    assert portal.get("/readyz") == 200
    assert portal.get("/.well-known/openid-configuration", portal.port + 1, "127.0.0.1") == 200
    assert f"Ready: http://localhost:{portal.port}" in portal.lines
    assert portal.said("scientist, collaborator or operator; the password is the name")
    assert portal.said(
        f"ssh -L {portal.port}:127.0.0.1:{portal.port} -L {portal.port + 1}:127.0.0.1:{portal.port + 1} "
    )


def test_each_child_has_a_pid_file_and_a_log(portal: Portal) -> None:
    assert {name: started_at(portal.pid(name)) is not None for name in CHILDREN} == dict.fromkeys(CHILDREN, True)
    assert all((portal.state / "log" / f"{name}.log").exists() for name in CHILDREN)


@pytest.mark.root
def test_only_the_parent_and_the_supervisor_are_root(portal: Portal) -> None:
    uids = {name: Path(f"/proc/{portal.pid(name)}").stat().st_uid for name in CHILDREN}
    plain, gateway = portal_person().uid, gateway_person().uid
    assert uids == {
        "gateway": gateway,
        "identity": plain,
        "redis": plain,
        "supervisor": 0,
        "web": plain,
        "worker": plain,
    }


def test_no_secret_stands_in_a_command_line(portal: Portal) -> None:
    secrets = [path.read_text().strip().encode() for path in (portal.state / "secrets").iterdir() if path.is_file()]
    assert len(secrets) == 5
    for pid in portal.processes():
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert not any(secret in words for secret in secrets)


@pytest.mark.root
def test_a_stranger_reaches_neither_the_stores_nor_the_portals_inside(portal: Portal) -> None:
    run = portal.state / "run"
    for path in (run / "back" / "redis.sock", run / "back" / ".s.PGSQL.5432", run / "front" / "internal.sock"):
        done = subprocess.run(
            [sys.executable, "-c", f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"],
            user=200_001,
            group=200_001,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert "PermissionError" in done.stderr


def test_a_second_parent_on_the_same_folder_is_refused(portal: Portal) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "up"],
        env=environment(portal.state, portal.port),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "running already" in done.stderr
    assert portal.get("/readyz") == 200


@pytest.mark.parametrize("name", ["worker", "gateway", "web"])
def test_a_child_that_is_killed_is_started_again(portal: Portal, name: str) -> None:
    before = portal.pid(name)
    os.kill(before, signal.SIGKILL)
    until(lambda: portal.pid(name) != before)
    until(lambda: portal.get("/readyz") == 200)
    assert portal.said(f"{name} was killed (SIGKILL); it starts again")


def test_a_child_that_hangs_is_started_again_and_sessions_are_left_alone(portal: Portal) -> None:
    before, supervisor = portal.pid("web"), portal.pid("supervisor")
    os.kill(before, signal.SIGSTOP)
    until(lambda: portal.pid("web") != before, 120)
    until(lambda: portal.get("/readyz") == 200)
    assert portal.said("web has not answered for")
    assert portal.pid("supervisor") == supervisor


def test_a_database_that_is_killed_is_started_again(portal: Portal) -> None:
    before = int((portal.state / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(before, signal.SIGKILL)
    until(lambda: portal.said("postgres ended; it starts again"))
    until(lambda: portal.get("/readyz") == 200)


def test_after_kill_9_of_the_parent_the_next_one_takes_over(portal: Portal) -> None:
    before = {name: portal.pid(name) for name in CHILDREN}
    assert portal.parent is not None
    portal.parent.kill()
    portal.parent.wait()
    assert portal.get("/readyz") == 200  # people notice nothing
    portal.up()
    after = {name: portal.pid(name) for name in CHILDREN}
    stayed = {name for name in CHILDREN if after[name] == before[name]}
    assert stayed == {"supervisor", "redis"}
    assert portal.said("supervisor was still running and goes on")
    assert not [pid for name, pid in before.items() if name not in stayed and started_at(pid) is not None]
    assert portal.get("/readyz") == 200


def test_ctrl_c_leaves_no_process_and_no_socket(portal: Portal) -> None:
    assert portal.parent is not None
    portal.parent.send_signal(signal.SIGINT)
    assert portal.parent.wait(90) == 0
    assert portal.said("Stopped.")
    assert portal.processes() == []
    sockets = [path for path in (portal.state / "run").rglob("*") if path.is_socket()]
    assert sockets == []
    assert list((portal.state / "run").glob("*.pid")) == []
    assert portal.get("/readyz") == 0


def test_a_port_that_is_taken_is_named_with_another_to_try(portal: Portal) -> None:
    with socket.create_server(("127.0.0.1", portal.port)):
        done = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "up"],
            env=environment(portal.state, portal.port),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"Port {portal.port} is taken" in done.stderr
    assert f"PORT={portal.port + 100} make run" in done.stderr
    assert "Traceback" not in done.stderr
    assert portal.processes() == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param(
            {"BEAMPORT_DEMO": "0"},
            "Outside the demo the portal needs PORTAL_URL (https) and BEAMPORT_PROVIDERS",
            marks=pytest.mark.root,
        ),
        ({"PORT": "eighty"}, "PORT must be a number from 1 to 65534"),
    ],
)
def test_a_wrong_setting_is_a_sentence(portal: Portal, more: dict[str, str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "up"],
        env=environment(portal.state, portal.port, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_ssh_line_names_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 2222")
    monkeypatch.setenv("LOGNAME", "jana")
    assert ssh_line([8000, 8001]) == "ssh -p 2222 -L 8000:127.0.0.1:8000 -L 8001:127.0.0.1:8001 jana@192.0.2.1"
    monkeypatch.delenv("SSH_CONNECTION")
    assert ssh_line([8000, 8001]) == ""
