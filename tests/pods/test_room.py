"""What runs in a room leaves nothing behind on the machine, however it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.labs.kubernetes import room
from tests.portals import ROOT, until

pytestmark = pytest.mark.root

#: what a cluster leaves when it is cut off: a process in a group of its own, a mount, a file
LITTER = """
import os, subprocess, sys, time
from pathlib import Path
folder, group = Path(os.environ["BEAMPORT_ROOM"]), os.environ["BEAMPORT_ROOM_GROUP"]
for tree in TREES:
    inner = Path(tree) / group / "kubepods" / "pod"
    inner.mkdir(parents=True)
sleeper = subprocess.Popen(["sleep", SLEEP], start_new_session=True)
(inner / "cgroup.procs").write_text(str(sleeper.pid))
(folder / "mounted").mkdir()
subprocess.run(["mount", "--bind", "/usr", str(folder / "mounted")], check=True)
Path("/tmp/left").write_text("x")
print(folder, flush=True)
"""


def litter(sleep: str, last: str) -> list[str]:
    trees = [str(path) for path in room._hierarchies()]
    text = LITTER.replace("TREES", repr(trees)).replace("SLEEP", repr(sleep))
    return [sys.executable, "-c", text + last]


def left(sleep: str) -> list[str]:
    """What is left of a room on this machine."""
    groups = [str(path) for tree in room._hierarchies() for path in tree.glob(f"{room.PREFIX}*")]
    running = [
        path.name for path in Path("/proc").glob("[0-9]*") if f"sleep\0{sleep}\0".encode() == _read(path / "cmdline")
    ]
    return [name for name in groups if _is_ours(name)] + running


def _is_ours(group: str) -> bool:
    """Whether its room's folder is gone: others may be in rooms of their own just now."""
    return not Path("/var/tmp", Path(group).name).exists()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_command_runs_apart_from_the_machine(capfd: pytest.CaptureFixture[str]) -> None:
    look = f"""
import os, socket
from pathlib import Path
socket.create_server(("127.0.0.1", 0)).close()
Path("/tmp/left-{os.getpid()}").write_text("x")
print([name for _, name in socket.if_nameindex()], os.listdir("/run"))
raise SystemExit(7)
"""
    assert room.run([sys.executable, "-c", look], os.environ, ROOT) == 7
    told = capfd.readouterr().out
    assert "'lo'" in told
    assert "'eth" not in told
    assert told.strip().endswith("['mount']")  # what mount itself writes down
    assert not Path(f"/tmp/left-{os.getpid()}").exists()


def test_nothing_is_left_of_a_command_that_was_killed() -> None:
    sleep = f"7777.{os.getpid()}"
    assert room.run(litter(sleep, "os.kill(os.getpid(), 9)"), os.environ, ROOT) == signal.SIGKILL
    assert left(sleep) == []
    assert Path("/usr/bin/env").exists()


def test_what_a_killed_run_has_left_goes_with_the_next() -> None:
    sleep = f"8888.{os.getpid()}"
    ask = f"room.run({litter(sleep, 'time.sleep(600)')!r}, os.environ, Path('.'))"
    ask = f"import os; from pathlib import Path; from tests.labs.kubernetes import room; {ask}"
    guard = subprocess.Popen([sys.executable, "-c", ask], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert guard.stdout is not None
    folder = Path(guard.stdout.readline().strip())
    guard.kill()
    guard.wait(10)
    groups = [tree / folder.name for tree in room._hierarchies()]
    assert folder.is_dir()
    until(lambda: not left(sleep), 20)
    assert any(group.is_dir() for group in groups)
    assert room.run(["true"], os.environ, ROOT) == 0
    assert not folder.exists()
    assert not any(group.is_dir() for group in groups)
