"""Several web processes on one socket that somebody else holds, as systemd does: a stop of one is not noticed."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded.probes import UnixConnection
from portal.serve import handed_over

pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("serve")]
ROOT = Path(__file__).resolve().parents[2]
#: how one ends that is asked to; by the signal itself before it has begun to serve
ENDED = (0, -signal.SIGTERM)


class Held:
    """Two listening sockets, and web processes that they are handed over to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "web.sock"
        self.sockets = []
        for name in ("web", "internal"):
            held = socket.socket(socket.AF_UNIX)
            held.bind(str(folder / f"{name}.sock"))
            held.listen(64)
            self.sockets.append(held)
        self.processes = [self.start(), self.start()]

    def start(self) -> subprocess.Popen[bytes]:
        handles = [held.fileno() for held in self.sockets]
        script = f'export LISTEN_PID=$$; exec "$@" 3<&{handles[0]} 4<&{handles[1]}'
        argv = [sys.executable, "-m", "portal.serve", "--web", "fd:web", "--internal", "fd:internal"]
        return subprocess.Popen(
            ["bash", "-c", script, "bash", *argv],
            cwd=ROOT,
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:internal"},
            pass_fds=handles,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self) -> int:
        connection = UnixConnection(self.path, 40)
        try:
            connection.request("GET", "/healthz", headers={"Host": "localhost:8000", "Connection": "close"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for held in self.sockets:
            held.close()


@pytest.fixture(scope="module")
def held() -> Iterator[Held]:
    with tempfile.TemporaryDirectory(prefix="bps-", dir="/var/tmp") as folder:
        made = Held(Path(folder))
        yield made
        made.close()


def test_processes_that_stop_and_start_in_turn_lose_no_request(held: Held) -> None:
    assert held.get() == 200  # it waited in the queue for the first of them
    over, seen = threading.Event(), []

    def click() -> None:
        while not over.is_set():
            seen.append(held.get())

    clients = [threading.Thread(target=click) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for number in (0, 1):
            held.processes[number].send_signal(signal.SIGTERM)
            assert held.processes[number].wait(20) in ENDED
            held.processes[number] = held.start()
            before = len(seen)
            while len(seen) < before + 40:
                time.sleep(0.02)
    finally:
        over.set()
        for client in clients:
            client.join()
    assert len(seen) >= 80
    assert set(seen) == {200}


def test_all_of_them_gone_requests_wait_for_the_next(held: Held) -> None:
    for process in held.processes:
        process.terminate()
        assert process.wait(20) in ENDED
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(held.get()))
    client.start()
    held.processes.append(held.start())
    client.join()
    assert answers == [200]


def test_a_socket_that_nobody_hands_over_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDNAMES", "internal")
    with pytest.raises(OSError, match="no socket that is called web"):
        handed_over("web")
    monkeypatch.setenv("LISTEN_PID", "1")
    with pytest.raises(OSError, match="no socket that is called internal"):
        handed_over("internal")
