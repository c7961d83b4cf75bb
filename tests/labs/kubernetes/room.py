"""A room for real pods: mounts, processes, network and control groups of its own on this machine, for one command.

`run` starts a command in it and cleans up after it, however it ended: its processes go with process 1 of the room, its
mounts and its network with the last of them, control groups and files are removed from outside. What a `run` that was
killed itself has left, the next one removes.

Inside, nothing of the machine's network is there, and what is written to /run, /tmp, /var/lib and /var/log stays there.
It needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: in the environment of what runs inside: a folder for its files, and the name of its control groups
FOLDER, GROUP = "BEAMPORT_ROOM", "BEAMPORT_ROOM_GROUP"
PREFIX = "bproom-"
_CGROUPS = Path("/sys/fs/cgroup")
#: $1 the folder, then the command
_FURNISH = """
folder=$1; shift
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 log /var/log
mkdir "$folder/tmp" "$folder/upper" "$folder/work"
chmod 1777 "$folder/tmp"
mount --bind "$folder/tmp" /tmp
mount -t overlay -o "lowerdir=/var/lib,upperdir=$folder/upper,workdir=$folder/work" overlay /var/lib
mount --make-rshared /
ip link set lo up
exec "$@"
"""


def run(argv: Sequence[str], environment: Mapping[str, str], cwd: Path) -> int:
    """Run a command in a room of its own and return its exit code."""
    _sweep()
    with _folder() as folder:
        group = folder.name
        apart = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        furnish = ["sh", "-euc", _FURNISH, "furnish", str(folder)]
        inside = [sys.executable, str(Path(__file__).resolve()), *argv]
        try:
            _make_groups(group)
            return subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", "--", *apart, "--propagation", "private", *furnish, *inside],
                env={**environment, FOLDER: str(folder), GROUP: group},
                cwd=cwd,
            ).returncode
        finally:
            _remove_groups(group)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder that every uid may cross; its lock says that somebody is in the room."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
    folder.chmod(0o711)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a room's folder, its lock last: who is interrupted here leaves what the next one can tell is left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


# ---- control groups ----
def _hierarchies() -> list[Path]:
    """Each controller's own tree (cgroup v1, and v2 beside it), or the one of all (v2)."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return sorted(path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists())


def _make_groups(name: str) -> None:
    for tree in _hierarchies():
        (tree / name).mkdir()


def _remove_groups(name: str) -> None:
    """Remove a room's groups, from the innermost out; the kernel needs a moment to let its processes go."""
    end = time.monotonic() + 20
    for tree in _hierarchies():
        for parent, _, _ in os.walk(tree / name, topdown=False):
            while Path(parent).is_dir():
                with contextlib.suppress(FileNotFoundError, OSError):
                    os.rmdir(parent)
                if time.monotonic() > end:
                    return
                time.sleep(0.02)


def _sweep() -> None:
    """Remove what a killed `run` has left: its room ended with it."""
    for folder in Path("/var/tmp").glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_groups(folder.name)
            _remove(folder)


# ---- process 1 of a room ----
def first(argv: Sequence[str]) -> int:
    """Run the command, collect whatever ends besides, and end with the command."""
    command = subprocess.Popen(argv, env=os.environ)
    while True:
        try:
            pid, status = os.wait()
        except KeyboardInterrupt:
            continue  # the command got it too, and says when it has ended
        if pid == command.pid:
            return abs(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.exit(first(sys.argv[1:]))
