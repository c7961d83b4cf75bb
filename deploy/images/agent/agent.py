"""The agent: a session's first process. It runs the image's own command, and says how the session is doing.

    python3 -I agent.py -- COMMAND ARGUMENT...

`GET /report` on AGENT_PORT, with the token of AGENT_TOKEN, is answered by the last report, made each quarter of a
minute. It calls nobody outside its machine. Python 3.9 or newer, standard library only, no file but this one. Whatever
goes wrong with reporting, the session goes on.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

EVERY = 15.0
#: folders whose file system is shared by many are counted file by file, now and then and not for ever
COUNT_EVERY, COUNT_SECONDS = 600.0, 60.0
#: a file system may be so much larger than what was asked for, and still be this folder's own
OWN = 1.5
_ANSWER = 1024 * 1024
#: what a cgroup without a limit says is one (version 1)
_NO_LIMIT = 2**60


# ---- the session's cgroup: this container's own, whichever version ----
def _read(*paths: str) -> str:
    """Return the text of the first file that is there."""
    for path in paths:
        with contextlib.suppress(OSError), open(path) as file:
            return file.read()
    return ""


def _entry(text: str, name: str) -> int | None:
    """Return the number behind a name in lines of `name number`."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name + " ")), None)


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None


def memory(root: str = "/sys/fs/cgroup") -> dict[str, int | None]:
    """Return the bytes in use, without what the kernel would give back at once, the limit, and how often it was hit."""
    one = root + "/memory"
    used = _number(_read(root + "/memory.current", one + "/memory.usage_in_bytes"))
    limit = _number(_read(root + "/memory.max", one + "/memory.limit_in_bytes"))
    stat = _read(root + "/memory.stat", one + "/memory.stat")
    spare = _entry(stat, "total_inactive_file") or _entry(stat, "inactive_file") or 0
    kills = _entry(_read(root + "/memory.events", one + "/memory.oom_control"), "oom_kill")
    return {
        "used": None if used is None else max(0, used - spare),
        "limit": limit if limit and limit < _NO_LIMIT else None,
        "kills": kills,
    }


def cpu_seconds(root: str = "/sys/fs/cgroup") -> float | None:
    """Return the processor time that the session has taken so far; None where the kernel does not say."""
    micro = _entry(_read(root + "/cpu.stat"), "usage_usec")
    if micro is not None:
        return micro / 1e6
    nano = _number(_read(root + "/cpuacct/cpuacct.usage", root + "/cpu,cpuacct/cpuacct.usage"))
    return None if nano is None else nano / 1e9


# ---- its folders ----
def file_system(path: str) -> dict[str, int]:
    state = os.statvfs(path)
    size = (state.f_blocks - state.f_bfree + state.f_bavail) * state.f_frsize
    return {"used": (state.f_blocks - state.f_bfree) * state.f_frsize, "size": size}


def counted(path: str, until: float, mounts: set[str]) -> int | None:
    """Return the bytes that a folder's files take, other mounts left out; None when that takes too long."""
    total, folders, seen = 0, [path], set()
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                if state.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if (state.st_dev, state.st_ino) in seen:
                        continue
                    seen.add((state.st_dev, state.st_ino))
                total += state.st_blocks * 512
                if entry.is_dir(follow_symlinks=False) and entry.path not in mounts:
                    folders.append(entry.path)
        if time.monotonic() > until:
            return None
    return total


def mount_points(text: str) -> set[str]:
    """Return where something is mounted, from the text of /proc/self/mountinfo."""
    return {line.split()[4].replace("\\040", " ") for line in text.splitlines() if len(line.split()) > 4}


class Disk:
    """How full one folder is: what its file system says where that is its own, else what its files take."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.found: dict[str, int] | None = None
        self._counted_at: float | None = None

    def look(self) -> None:
        whole = file_system(self.path)
        if not self.limit or whole["size"] <= OWN * self.limit:
            self.found = whole
        elif self._counted_at is None or time.monotonic() - self._counted_at > COUNT_EVERY:
            mounts = mount_points(_read("/proc/self/mountinfo"))
            used = counted(self.path, time.monotonic() + COUNT_SECONDS, mounts)
            self._counted_at = time.monotonic()
            self.found = None if used is None else {"used": used, "size": self.limit}


# ---- its kernels ----
def _ask(port: int, token: str, target: str) -> list[dict[str, Any]] | None:
    """Return the rows that Jupyter answers with; None when it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", target, headers={"Authorization": "token " + token, "Host": "localhost"})
        answer = connection.getresponse()
        if answer.status != 200:
            return None
        rows = json.loads(answer.read(_ANSWER))
    except (OSError, ValueError, http.client.HTTPException, RecursionError):
        return None
    finally:
        connection.close()
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


def activity(port: int, token: str) -> dict[str, Any] | None:
    """Return how many kernels there are and work, and when somebody last did; None when nothing is known."""
    kernels = _ask(port, token, "/api/kernels")
    if kernels is None:
        return None
    rows = kernels + (_ask(port, token, "/api/terminals") or [])
    times = [seen for seen in (_moment(row.get("last_activity")) for row in rows) if seen is not None]
    busy = sum(1 for kernel in kernels if kernel.get("execution_state") == "busy")
    return {"busy": busy, "kernels": len(kernels), "last_active": max(times, default=None)}


# ---- the report ----
class Watcher(threading.Thread):
    """Looks at everything each EVERY seconds; `report` is the last one, as it is sent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self._instance = environment.get("BEAMPORT_INSTANCE", "")
        self._port, self._token = int(environment.get("AGENT_JUPYTER") or 0), environment.get("JUPYTER_TOKEN", "")
        folders = json.loads(environment.get("AGENT_FOLDERS") or "{}")
        self._disks = {name: Disk(path, limit) for name, (path, limit) in folders.items()}
        self._before: tuple[float, float | None] | None = None
        self.report = b""

    def run(self) -> None:
        threading.Thread(target=self._look_at_disks, daemon=True).start()
        while True:
            try:
                self.report = json.dumps(self.look()).encode()
            except Exception as error:
                complain("no report", error)
            time.sleep(EVERY)

    def look(self) -> dict[str, Any]:
        return {
            "instance": self._instance,
            "activity": activity(self._port, self._token) if self._port else None,
            "cpu": self._cores(),
            "memory": memory(),
            "disks": {name: disk.found for name, disk in self._disks.items() if disk.found},
        }

    def _cores(self) -> float | None:
        """Return how many cores were busy since the last look."""
        now, used = time.monotonic(), cpu_seconds()
        before, self._before = self._before, (now, used)
        if before is None or used is None or before[1] is None or now <= before[0]:
            return None
        return round(max(0.0, used - before[1]) / (now - before[0]), 3)

    def _look_at_disks(self) -> None:
        """Have a thread of its own: a file system that hangs must not silence the rest."""
        while True:
            for name, disk in self._disks.items():
                try:
                    disk.look()
                except Exception as error:
                    disk.found = None
                    complain("no figures of " + name, error)
            time.sleep(EVERY)


def handler(watcher: Watcher, token: str) -> type[http.server.BaseHTTPRequestHandler]:
    """Return what answers: the report, to who has the token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 2

        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if not token or not hmac.compare_digest(given.encode("latin-1", "replace"), b"token " + token.encode()):
                status, body = 401, b""
            elif self.path != "/report" or not watcher.report:
                status, body = (404 if self.path != "/report" else 503), b""
            else:
                status, body = 200, watcher.report
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_given: object) -> None:
            """Say nothing: a session's log is its own."""

    return Handler


class Server(http.server.HTTPServer):
    """One answer at a time: who keeps it busy keeps only word of himself back."""

    def server_bind(self) -> None:
        """Bind without looking for our host's name, which HTTPServer asks the network for."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, _request: object, _address: object) -> None:
        """Ignore who hangs up in the middle."""


def serve(environment: Mapping[str, str]) -> Server:
    """Answer for ever, on a thread; raises OSError when the port is taken."""
    watcher = Watcher(environment)
    address = ("", int(environment.get("AGENT_PORT") or 9810))
    server = Server(address, handler(watcher, environment.get("AGENT_TOKEN", "")))
    watcher.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def complain(what: str, error: Exception) -> None:
    print(f"agent: {what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


# ---- the first process ----
def run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run the command until it ends and return its status; signals go to it, and the dead are buried."""
    living: list[int] = []
    early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        for pid in living:
            os.kill(pid, number)
        if not living:
            early.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)
    ours = {name: value for name, value in environment.items() if not name.startswith("AGENT_")}
    try:
        child = subprocess.Popen(command, env=ours)
    except OSError as error:
        complain("the image's command cannot be run", error)
        return 126 if isinstance(error, PermissionError) else 127
    living.append(child.pid)
    for number in early:
        os.kill(child.pid, number)
    while True:  # its own wait would leave orphans unburied
        pid, status = os.wait()
        if pid == child.pid:
            living.clear()
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def main(argv: list[str]) -> int:
    if argv[:1] == ["--"]:
        argv = argv[1:]
    if not argv:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        serve(os.environ)
    except Exception as error:
        complain("no reports", error)
    return run(argv, os.environ)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
