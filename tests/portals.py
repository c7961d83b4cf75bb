"""Whole portals as `manage.py up` starts them, for tests: started, asked, watched from outside, ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from portal.embedded.people import Ids
from portal.embedded.processes import started_at
from tests import ports

ROOT = Path(__file__).resolve().parent.parent
#: what the suite's own plugin set for the tests in this process, and the portal under test must not inherit
OURS = ("BEAMPORT_STATE", "SECRET_KEY", "INSTANCE_KEY", "GATEWAY_TOKEN", "DEPLOYMENT_ID", "PORTAL_URL")


def until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that is free together with the next one (the demo provider's)."""
    return ports.free_port(2)


def environment(state: Path, port: int, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in OURS}
    return kept | {"BEAMPORT_STATE": str(state), "BEAMPORT_DEMO": "1", "PORT": str(port)} | more


@contextmanager
def state_folder(prefix: str) -> Iterator[Path]:
    """Make a folder that every uid of the portal may cross, with a path short enough for sockets."""
    state = Path(tempfile.mkdtemp(prefix=prefix, dir="/var/tmp"))
    state.chmod(0o711)
    try:
        yield state
    finally:
        shutil.rmtree(state, ignore_errors=True)


@dataclass
class Portal:
    """A state folder with the parents that were started on it."""

    state: Path
    port: int
    parent: subprocess.Popen[str] | None = None
    lines: list[str] = field(default_factory=list)
    #: what the operator set
    variables: dict[str, str] = field(default_factory=dict)
    #: somebody else who starts it
    ids: Ids = field(default_factory=Ids)

    def up(self, seconds: float = 240) -> None:
        """Start it as `make run` does, with what `make test` built, and wait until it is ready."""
        self.lines = []
        command = ["manage.py", "up"] if self.borrow() else ["-m", "portal.embedded.bootstrap", "run"]
        self.parent = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(self.state, self.port, **self.variables),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **self.ids,
        )
        threading.Thread(target=self._collect, args=(self.parent, self.lines), daemon=True).start()
        until(lambda: self.said("Ready:") or (self.parent and self.parent.poll() is not None), seconds)
        assert self.said("Ready:"), "the portal did not start:\n" + "\n".join(self.lines[-60:])

    def borrow(self) -> bool:
        """Take the image that `make test` built, if it did."""
        built = os.environ.get("BEAMPORT_TEST_IMAGES")
        folder = self.state / "images"
        if built and not folder.exists():
            folder.mkdir(mode=0o755)
            (folder / "jupyter").symlink_to(Path(built, "jupyter").resolve())
        return bool(built)

    @staticmethod
    def _collect(parent: subprocess.Popen[str], lines: list[str]) -> None:
        assert parent.stdout is not None
        lines.extend(line.rstrip() for line in parent.stdout)

    def end(self) -> None:
        """Stop it as Ctrl-C does; whatever of it is left then is killed."""
        if self.parent and self.parent.poll() is None:
            self.parent.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.parent.wait(90)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def said(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def pid(self, name: str) -> int:
        return int((self.state / "run" / f"{name}.pid").read_text().split()[0])

    def get(self, path: str, port: int | None = None, host: str = "localhost") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": f"{host}:{port or self.port}"})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def processes(self) -> list[int]:
        """Everything that was started on this state folder, whoever is its parent now."""
        found = []
        marker = f"BEAMPORT_STATE={self.state}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            words = b""
            for name in ("environ", "cmdline"):
                with contextlib.suppress(OSError):
                    words += (process / name).read_bytes() + b"\0"
            if marker in words or f"{self.state}/".encode() in words:
                found.append(int(process.name))
        return [pid for pid in found if pid != os.getpid() and started_at(pid) is not None]


@contextmanager
def running(prefix: str, **variables: str) -> Iterator[Portal]:
    """A portal on a state folder of its own; nothing is left of it at the end."""
    with state_folder(prefix) as state:
        made = Portal(state, free_port(), variables=variables)
        try:
            made.up()
            yield made
        finally:
            made.end()
