"""The agent as a process: it runs what it is given, and says how the session is doing to who has the token."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.ports import free_port

AGENT = Path(__file__).resolve().parents[2] / "deploy" / "images" / "agent" / "agent.py"
_spec = importlib.util.spec_from_file_location("agent_of_the_tests", AGENT)
assert _spec is not None
assert _spec.loader is not None
agent: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(agent)

TOKEN = "the-agents-own-token"
UID = "01234567-89ab-cdef-0123-456789abcdef"


class Session:
    """An agent with a child."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.port = free_port()
        given = {"AGENT_PORT": str(self.port), "AGENT_TOKEN": TOKEN, "BEAMPORT_INSTANCE": UID, **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(AGENT), "--", *command],
            env={"PATH": os.environ["PATH"], **given},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=40)
        return self.process.returncode, out, error

    def get(self, path: str = "/report", token: str = f"token {TOKEN}") -> Any:
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": token})
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def report(self) -> Any:
        end = time.monotonic() + 30
        while True:
            try:
                return self.get()
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Iterator[Any]:
    begun: list[Session] = []

    def begin(*command: str, **environment: str) -> Session:
        begun.append(Session(*command, **environment))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.communicate()


class Jupyter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        rows = {
            "/api/kernels": [
                {"execution_state": "busy", "last_activity": "2026-01-01T12:00:00.5Z"},
                {"execution_state": "idle", "last_activity": "never"},
            ],
            "/api/terminals": [{"name": "1", "last_activity": "2026-01-01T13:00:00Z"}],
        }
        body = json.dumps(rows[self.path]).encode()
        self.send_response(200 if self.headers["Authorization"] == "token jupyters" else 403)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_given: object) -> None: ...


@pytest.fixture
def jupyter() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Jupyter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


# ---- the first process ----
@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_it_ends_with_the_status_of_what_it_runs(session, command, status):
    assert session("sh", "-c", command).end()[0] == status


def test_a_command_that_is_not_there_is_said(session):
    status, _out, error = session("/no/such/program").end()
    assert status == 127
    assert "cannot be run" in error


def test_signals_reach_what_it_runs(session):
    waiting = session("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done")
    assert waiting.process.stdout.readline() == "up\n"
    waiting.process.send_signal(signal.SIGTERM)
    status, out, _ = waiting.end()
    assert (status, out) == (3, "bye\n")


def test_a_signal_that_comes_before_its_child_is_not_lost(tmp_path):
    """As PID 1 it is sent SIGTERM once, and killed half a minute later."""
    code = (
        "import importlib.util, os, signal, sys\n"
        f"spec = importlib.util.spec_from_file_location('agent', {str(AGENT)!r})\n"
        "agent = importlib.util.module_from_spec(spec); spec.loader.exec_module(agent)\n"
        "Popen = agent.subprocess.Popen\n"
        "def late(*a, **k):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return Popen(*a, **k)\n"
        "agent.subprocess.Popen = late\n"
        "sys.exit(agent.run(['sleep', '100'], os.environ))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=40)
    assert done.returncode == 128 + signal.SIGTERM


def test_what_is_meant_for_the_agent_does_not_reach_the_session(session):
    _status, out, _ = session("env", JUPYTER_TOKEN="jupyters").end()
    assert "JUPYTER_TOKEN=jupyters" in out
    assert "AGENT_" not in out
    assert TOKEN not in out


def test_a_port_that_is_taken_costs_the_report_and_not_the_session(session):
    with socket.create_server(("", 0)) as other:
        status, out, error = session("echo", "here", AGENT_PORT=str(other.getsockname()[1])).end()
    assert (status, out) == (0, "here\n")
    assert "no reports" in error


# ---- the report ----
def test_the_report(session, jupyter, tmp_path):
    one = session(
        *("sleep", "100"),
        AGENT_JUPYTER=str(jupyter),
        JUPYTER_TOKEN="jupyters",
        AGENT_FOLDERS=json.dumps({"home": [str(tmp_path), 0], "gone": ["/no/such/folder", 1]}),
    )
    report = one.report()
    assert report["instance"] == UID
    assert report["activity"] == {"busy": 1, "kernels": 2, "last_active": 1767272400.0}
    assert set(report["memory"]) == {"used", "limit", "kills"}
    assert report["cpu"] is None, "nothing to compare with yet"
    assert set(report["disks"]) <= {"home"}


@pytest.mark.parametrize("token", ["", "token ", "token wrong", f"Bearer {TOKEN}", "token \xff"])
def test_nobody_else_is_told(session, token):
    one = session("sleep", "100")
    one.report()
    with pytest.raises(HTTPError) as refused:
        one.get(token=token)
    assert refused.value.code == 401


def test_there_is_nothing_else(session):
    one = session("sleep", "100")
    one.report()
    with pytest.raises(HTTPError) as refused:
        one.get("/")
    assert refused.value.code == 404


def test_without_a_token_nobody_is_told():
    watcher = agent.Watcher({})
    watcher.report = b"{}"
    server = agent.Server(("127.0.0.1", 0), agent.handler(watcher, ""))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"http://127.0.0.1:{server.server_address[1]}/report", headers={"Authorization": "token "}))
    assert refused.value.code == 401
    server.shutdown()
    server.server_close()


def test_who_says_nothing_does_not_keep_others_out(session):
    one = session("sleep", "100")
    one.report()
    with socket.create_connection(("127.0.0.1", one.port)):
        assert one.report()["instance"] == UID


def test_a_jupyter_that_is_away_or_answers_nonsense_is_unknown(jupyter):
    nobody = free_port()
    assert agent.activity(nobody, "jupyters") is None
    assert agent.activity(jupyter, "another") is None


# ---- figures ----
def lay(root: Path, **files: str) -> str:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_at_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_cgroup_version_2(tmp_path):
    root = lay(
        tmp_path,
        memory_at_current="1000\n",
        memory_at_max="4000\n",
        memory_at_stat="anon 700\ninactive_file 300\n",
        memory_at_events="oom 3\noom_kill 2\n",
        cpu_at_stat="usage_usec 2500000\nuser_usec 1\n",
    )
    assert agent.memory(root) == {"used": 700, "limit": 4000, "kills": 2}
    assert agent.cpu_seconds(root) == 2.5


def test_cgroup_version_1_without_a_limit(tmp_path):
    root = lay(
        tmp_path,
        memory__memory_at_usage_in_bytes="1000\n",
        memory__memory_at_limit_in_bytes="9223372036854771712\n",
        memory__memory_at_stat="inactive_file 1\ntotal_inactive_file 300\n",
        memory__memory_at_oom_control="oom_kill_disable 0\noom_kill 1\n",
        cpuacct__cpuacct_at_usage="2500000000\n",
    )
    assert agent.memory(root) == {"used": 700, "limit": None, "kills": 1}
    assert agent.cpu_seconds(root) == 2.5


def test_no_cgroup_is_unknown(tmp_path):
    assert agent.memory(str(tmp_path)) == {"used": None, "limit": None, "kills": None}
    assert agent.cpu_seconds(str(tmp_path)) is None


def test_a_folder_of_a_shared_file_system_is_counted_without_other_mounts_links_and_twins(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a" / "file", tmp_path / "a" / "twin")
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(b"x" * 500_000)
    disk = agent.Disk(str(tmp_path), 1000)
    disk.look()
    assert 600_000 <= disk.found["used"] < 700_000
    assert disk.found["size"] == 1000
    mounts = agent.mount_points(f"36 35 98:0 / {tmp_path}/other rw - ext4 /dev/x rw\n")
    assert 100_000 <= agent.counted(str(tmp_path), time.monotonic() + 20, mounts) < 150_000


def test_a_count_that_takes_too_long_is_given_up(tmp_path):
    assert agent.counted(str(tmp_path), time.monotonic() - 1, set()) is None


def test_a_file_system_of_ones_own_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "file_system", lambda path: {"used": 5, "size": 1400})
    disk = agent.Disk(str(tmp_path), 1000)
    disk.look()
    assert disk.found == {"used": 5, "size": 1400}


def test_cpu_is_what_was_used_between_two_looks(monkeypatch):
    watcher = agent.Watcher({})
    looks = iter([(100.0, 1.0), (110.0, 6.0), (120.0, None)])

    def look() -> Any:
        now, used = next(looks)
        monkeypatch.setattr(agent.time, "monotonic", lambda: now)
        monkeypatch.setattr(agent, "cpu_seconds", lambda: used)
        return watcher._cores()

    assert [look(), look(), look()] == [None, 0.5, None]


# ---- as process 1 ----
_ORPHAN = """
import os, pathlib, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
        os._exit(0)
    os._exit(0)
os.wait()
time.sleep(1.5)
states = [path.read_text().rpartition(")")[2].split()[0] for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(os.getppid(), "Z" in states, flush=True)
"""


@pytest.mark.root
def test_as_the_first_process_it_buries_orphans():
    """Nobody else would: a container's kernels and terminals leave them."""
    argv = [sys.executable, "-I", "-B", str(AGENT), "--", sys.executable, "-c", _ORPHAN]
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run([*unshare, *argv], env={"AGENT_PORT": str(free_port())}, capture_output=True, timeout=55)
    assert done.stdout.decode().split() == ["1", "False"], done.stderr
