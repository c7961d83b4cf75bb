"""A real supervisor on a state folder of its own, and what tests ask of its sessions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import (
    FlavourSpec,
    Home,
    ImageSpec,
    Mount,
    MountKind,
    ProviderUnavailable,
    Service,
    Spec,
)
from instances.providers.local import LocalProvider
from instances.providers.local.processes import descendants
from instances.providers.local.store import FIRST_UID
from portal.lib.interpreters import choose

ROOT = Path(__file__).resolve().parents[3]
MIB = 2**20
KEY = "k" * 48
DEPLOYMENT = "deployment-of-the-tests"


def until(true: Any, seconds: float = 15) -> Any:
    """Wait for something to become true and return it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value


@dataclass
class Host:
    """A supervisor, started as root or as `uid`, from `source` (a checkout that it can read)."""

    state: Path
    source: Path = ROOT
    uid: int | None = None
    process: subprocess.Popen[str] | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.state / "run" / "supervisor" / "supervisor.sock"

    @property
    def provider(self) -> LocalProvider:
        return LocalProvider({"deployment": DEPLOYMENT, "supervisor_socket": str(self.socket)})

    def start(self) -> None:
        self.process = self.begin()
        until(self.answers)

    def begin(self) -> subprocess.Popen[str]:
        """Start the process without waiting for it."""
        plain = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        interpreter = sys.executable if self.uid is None else str(choose(FIRST_UID)[0])
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [interpreter, "-m", "instances.providers.local.supervisor"],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(self.source),
                "PYTHONDONTWRITEBYTECODE": "1",
                "BEAMPORT_STATE": str(self.state),
                "INSTANCE_KEY": KEY,
                "BEAMPORT_DEMO": "1",  # it may run as a plain user
            }
            | self.variables,
            cwd=self.state,
            stderr=open(self.state / "supervisor.log", "a"),
            text=True,
            start_new_session=True,
            **plain,
        )

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            self.provider.capacity()
        except ProviderUnavailable:
            return False
        return True

    def log(self) -> str:
        return (self.state / "supervisor.log").read_text()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    # ---- machines ----
    def spec(self, name: str = "", *, memory: int = 256 * MIB, home: str | None = "home-of-alice", **more: Any) -> Spec:
        mounts = tuple(
            Mount(MountKind.DATA, str(source), f"/work/data/{target}")
            for target, source in more.pop("data", {}).items()
        )
        if home:
            mounts += (Mount(MountKind.HOME, home, "/work/home", read_only=False),)
        values: dict[str, Any] = {
            "name": name or f"bp-{uuid.uuid4().hex[:12]}",
            "deployment": DEPLOYMENT,
            "instance": str(uuid.uuid4()),
            "attempt": 1,
            "image": ImageSpec("agent", "agent"),
            "flavour": FlavourSpec("small", 1, memory, 0),
            "services": (Service("jupyter", 8888, "/api/status"),),
            "mounts": mounts,
            "home": Home(home, 2**30) if home else None,
            "identity": None,
            "network": "none",
            "secret_epoch": 1,
            "host": "abc.apps.localhost:8000",
        }
        return Spec(**values | more)

    def create(self, name: str = "", **more: Any) -> Sandbox:
        """Make a machine of the tests' own image and wait until it listens."""
        sandbox = Sandbox(self, self.provider.create(self.spec(name, **more)))
        sandbox.wait()
        return sandbox

    def processes(self) -> list[int]:
        """Return all that runs below the supervisor: its sandboxes and what runs in them."""
        assert self.process is not None
        return descendants(self.process.pid)

    def phase(self, name: str) -> Phase:
        return self.provider.look(name).phase

    def folder(self, name: str) -> Path:
        return self.state / "local" / name


@dataclass
class Sandbox:
    """A machine that runs the agent."""

    host: Host
    name: str

    @property
    def socket(self) -> str:
        return self.host.provider.look(self.name).endpoints[0].path

    def wait(self) -> None:
        until(lambda: self.alive(), 20)

    def alive(self) -> bool:
        try:
            return self.run("print(1)") == "1"
        except (OSError, IndexError, ValueError):
            return False

    def ask(self, **asked: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(self.socket)
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
                return answer

    def run(self, code: str) -> str:
        """Run Python inside and return what it printed; what it raised fails the test."""
        answer = self.ask(code=code)
        assert not answer["error"], answer["error"]
        return str(answer["out"]).strip()

    def error(self, code: str) -> str:
        """Run Python inside that must fail; return the last line of the traceback."""
        answer = self.ask(code=code)
        assert answer["error"], f"it went through: {answer['out']}"
        return str(answer["error"]).strip().splitlines()[-1]

    def spawn(self, code: str) -> None:
        self.ask(spawn=code)


def make_state(interpreter: Path, owner: int | None = None) -> Path:
    """Make a state folder with the tests' small image in it."""
    state = Path(tempfile.mkdtemp(prefix="bpl-", dir="/var/tmp"))
    image = state / "images" / "agent.1"
    (image / "bin").mkdir(parents=True)
    (image / "bin" / "python").symlink_to(interpreter)
    shutil.copy(Path(__file__).with_name("agent.py"), image / "agent.py")
    start = image / "bin" / "start-session"
    start.write_text('#!/bin/sh\nexec "$IMAGE/bin/python" -I -S "$IMAGE/agent.py"\n')
    for path in (start, image / "agent.py"):
        path.chmod(0o755)
    (state / "images" / "agent").symlink_to("agent.1")
    (state / "run" / "supervisor").mkdir(parents=True)
    state.chmod(0o711)
    if owner is not None:
        for parent, folders, files in os.walk(state):
            for path in (parent, *(os.path.join(parent, one) for one in folders + files)):
                os.lchown(path, owner, owner)
    return state


def copied_source(target: Path) -> Path:
    """Copy what the supervisor imports to where every uid can read it."""
    for name in ("portal", "instances"):
        (target / name).mkdir(parents=True)
        (target / name / "__init__.py").touch()
    shutil.copytree(ROOT / "portal" / "lib", target / "portal" / "lib")
    shutil.copytree(ROOT / "instances" / "providers", target / "instances" / "providers")
    shutil.copy(ROOT / "instances" / "lifecycle.py", target / "instances" / "lifecycle.py")
    for parent, _, files in os.walk(target):
        os.chmod(parent, 0o755)
        for name in files:
            os.chmod(os.path.join(parent, name), 0o644)
    return target
