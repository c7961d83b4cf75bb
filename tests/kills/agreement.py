"""Whether rows and truth agree: processes, cgroups, folders, sockets and uids, each asked of the machine itself.

The supervisor's own word counts for nothing here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections import Counter, defaultdict
from pathlib import Path

from instances.providers.local.processes import program
from tests.kills.site import GATEWAYS, Site, children

#: how the command of each part's processes can be told, whoever is their parent, and how many are below its first
PARTS = {
    "gateway": ("instances.gateway", GATEWAYS),
    "web": ("portal.serve", 1),
    "worker": ("portal.celery", 0),
    "supervisor": ("instances.providers.local.supervisor", 0),
    "identity": ("server.mjs", 0),
    "redis": ("redis-server", 0),
}


def agree(site: Site, seconds: float = 180) -> None:
    """Wait until all that was asked for is done and rows and truth agree; say what does not when they never do."""
    end = time.monotonic() + seconds
    while trouble := disagreements(site):
        assert time.monotonic() < end, "\n".join(trouble)
        time.sleep(0.2)


def disagreements(site: Site) -> list[str]:
    """Return what is lost, doubled, left over or not finished; empty when all is as the rows say."""
    try:
        # a reboot that was asked for is not seen by state and target until a worker begins it
        wanted = "CASE WHEN reboot_asked_at IS NULL THEN target ELSE 'rebooted' END"
        rows = site.rows(f"SELECT uid, attempt, state, {wanted}, reason, ref FROM instances_instance")
        leftovers = site.rows("SELECT ref FROM instances_leftover")
    except Exception as error:  # whoever it is that does not answer
        return [f"the rows cannot be read: {error}"]
    state = {f"bp-{uid.hex}-{attempt}": (now, target, reason, ref) for uid, attempt, now, target, reason, ref in rows}
    running = sandboxes(site)
    return [
        *(f"leftover {ref}" for (ref,) in leftovers),
        *(f"{name}: {what}" for name, row in state.items() for what in _row(site, name, *row, name in running)),
        *_folders(site, {name for name, row in state.items() if row[0] != "deleted"}),
        *(what for name, pids in running.items() for what in _sandbox(site, name, pids)),
        *_groups(site, set(running)),
        *_uids(site),
        *_processes(site, len(running)),
    ]


def _row(site: Site, name: str, state: str, target: str, reason: str, ref: str, runs: bool) -> list[str]:
    folder = (site.state / "local" / name).is_dir()
    if state == "deleted":
        return ["deleted, and its folder is there"] * folder
    if state == "error":
        return ["an error without a reason"] * (not reason) + ["an error, and it runs"] * runs
    if state != target:
        return [f"{state}, is to be {target} ({reason})"]
    if state == "active":
        return ["active, and does not run"] * (not runs)
    return ["stopped, and runs"] * runs + ["stopped, and its folder is gone"] * (bool(ref) and not folder)


def _folders(site: Site, alive: set[str]) -> list[str]:
    found = {path.name for path in (site.state / "local").iterdir() if path.is_dir()}
    homes = {path.name for path in (site.state / "homes").iterdir()}
    return [
        *(f"half made or half removed: {name}" for name in found | homes if name.startswith(".")),
        *(f"a machine without a row: {name}" for name in found - alive if not name.startswith(".")),
    ]


# ---- what runs ----
def sandboxes(site: Site) -> dict[str, set[int]]:
    """Return the processes inside each machine's sandbox: those that have its disk mounted at /work."""
    above = "" if os.path.ismount(site.state) else rf"\S*/{re.escape(site.state.name)}"
    mounted = re.compile(rf" {above}/local/(\S+)/scratch /work ")
    found: dict[str, set[int]] = defaultdict(set)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if match := mounted.search((process / "mountinfo").read_text()):
                found[match[1]].add(int(process.name))
    return found


def _sandbox(site: Site, name: str, pids: set[int]) -> list[str]:
    """Look at one machine that runs: one namespace, one server, its own uid, its socket."""
    folder = site.state / "local" / name
    spaces, servers, uids = set(), 0, set()
    for pid in pids:
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{pid}")
            spaces.add(os.readlink(process / "ns" / "pid"))
            servers += b"/start_jupyterlab.py\0" in (process / "cmdline").read_bytes()
            uids.add(process.stat().st_uid)
    wanted = json.loads((folder / "spec.json").read_text())["ids"]["uid"] if folder.is_dir() else None
    return [
        *([f"{name}: runs in {len(spaces)} namespaces"] * (len(spaces) != 1)),
        *([f"{name}: {servers} servers"] * (servers != 1)),
        *([f"{name}: runs as {uids}, not as {wanted}"] * (uids != {wanted})),
        *([f"{name}: runs without its socket"] * (not (folder / "run" / "jupyter.sock").is_socket())),
    ]


def groups(site: Site) -> list[Path]:
    """Return the folders of the machines' cgroups; none for a plain user, to whom nobody has given any."""
    place = f"beamport-{hashlib.sha256(os.fsencode(site.state)).hexdigest()[:8]}"
    return [*Path("/sys/fs/cgroup").glob(place), *Path("/sys/fs/cgroup").glob(f"*/{place}")]


def _groups(site: Site, running: set[str]) -> list[str]:
    """Compare cgroups and folders of sockets with what runs."""
    trouble = []
    for parent in groups(site):
        found = {path.name for path in parent.iterdir() if path.is_dir() and path.name != "supervisor"}
        trouble += [f"cgroup and processes disagree in {parent}: {found ^ running}"] * (found != running)
    sockets = {path.parent.name for path in (site.state / "local").glob("*/run")}
    return trouble + [f"sockets of what does not run: {sockets - running}"] * bool(sockets - running)


def _uids(site: Site) -> list[str]:
    """Each home has one uid, the one that owns it, and no two have the same."""
    path = site.state / "local" / "uids.json"
    if not path.exists():
        return []
    kept = json.loads(path.read_text())
    owners = Counter(kept["homes"].values())
    trouble = [f"uid {uid} was given {times} times" for uid, times in owners.items() if times > 1]
    for key, uid in kept["homes"].items():
        machine = key.startswith("machine:")
        folder = site.state / "local" / key.removeprefix("machine:") if machine else site.state / "homes" / key
        if not folder.is_dir():
            trouble.append(f"a uid is kept for {key}, which is gone")
        elif not machine and folder.stat().st_uid != uid:
            trouble.append(f"home {key} belongs to {folder.stat().st_uid}, not to {uid}")
    return trouble + ["a uid may be given twice"] * (max(owners, default=0) >= kept["next"])


def _processes(site: Site, machines: int) -> list[str]:
    """Each part's processes are there once, below the one that its pid file names; nobody else is there."""
    try:
        first = {name: site.pid(name) for name in (*PARTS, "postgres", "up")}
        expected = {name: {first[name], *children(first[name])[:below]} for name, (_, below) in PARTS.items()}
        sandboxes = sum(program(pid) == "bwrap" for pid in children(first["supervisor"]))
    except (OSError, ValueError, IndexError) as error:
        return [f"a part of the portal is not there: {error}"]
    lines = {pid: _command(pid) for pid in site.processes()}
    trouble = [f"{sandboxes} sandboxes for {machines} machines that run"] * (sandboxes != machines)
    for name, (telling, below) in PARTS.items():
        found = {pid for pid, line in lines.items() if telling in line}
        if found != expected[name] or len(found) != 1 + below:
            trouble.append(f"{name} runs as {found}, expected {expected[name]}")
    return trouble + [f"left over: {pid} {line}" for pid, line in lines.items() if not _belongs(pid, {*first.values()})]


def _belongs(pid: int, first: set[int]) -> bool:
    """Whether a process is one of these, in the session of one, or its child; one that is gone is nobody's trouble."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return pid in first or parent in first or os.getsid(pid) in first
    except OSError:
        return True


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
