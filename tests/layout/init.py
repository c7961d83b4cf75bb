"""A stand-in for systemd on a machine that has none: reads the very unit files, and runs what they say.

It is process 1 of the machine (standard library only, the system's Python). `systemctl` is this file, too: it
asks process 1 over a socket. What it does of systemd: services (simple; templates), sockets that are
handed over, targets, User, Group, WorkingDirectory, Environment, EnvironmentFile, LoadCredential, RuntimeDirectory,
UMask, LimitNOFILE, capabilities, NoNewPrivileges, KillMode, Restart. What it does not: the rest of the hardening.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

UNITS = Path("/etc/systemd/system")
CONTROL = "/run/stand-in.sock"
LOGS = Path("/var/log/units")
CREDENTIALS = Path("/run/credentials")
#: Debian's own servers, whose units need all of systemd
DEBIAN = {
    "postgresql": ("pg_ctlcluster 15 main start", "pg_ctlcluster 15 main stop"),
    "redis-server": ("runuser -u redis -- redis-server /etc/redis/redis.conf --daemonize yes", "pkill -x redis-server"),
}


class Unit:
    """One unit file, `%i` and its like filled in."""

    def __init__(self, name: str) -> None:
        self.name = name
        template, at, instance = name.rpartition("@")
        path = UNITS / name
        if at and not path.exists():
            instance, _, kind = instance.rpartition(".")
            path = UNITS / f"{template}@.{kind}"
        credentials = CREDENTIALS / name
        specifiers = {"%i": instance, "%t": "/run", "%d": str(credentials), "%%": "%"}
        self.credentials = credentials
        self.values: dict[str, list[str]] = {}
        text = re.sub(r"\\\n", " ", path.read_text())
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith(("#", ";")):
                filled = re.sub(r"%[%idt]", lambda found: specifiers[found.group()], value.strip())
                self.values.setdefault(key.strip(), []).append(filled)

    def all(self, key: str) -> list[str]:
        """Words of a setting that may be given several times."""
        return [word for value in self.values.get(key, []) for word in value.split()]

    def one(self, key: str, default: str = "") -> str:
        return self.values.get(key, [default])[-1]


def environment(unit: Unit) -> dict[str, str]:
    found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    for value in unit.values.get("Environment", []):
        found |= dict(word.split("=", 1) for word in shlex.split(value))
    for path in unit.all("EnvironmentFile"):
        for line in Path(path).read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                name, _, value = line.partition("=")
                found[name] = "".join(shlex.split(value))
    if unit.all("LoadCredential"):
        found["CREDENTIALS_DIRECTORY"] = str(unit.credentials)
    return found


def lay_credentials(unit: Unit, uid: int) -> None:
    shutil.rmtree(unit.credentials, ignore_errors=True)
    if unit.all("LoadCredential"):
        CREDENTIALS.mkdir(mode=0o711, exist_ok=True)
        unit.credentials.mkdir(mode=0o700)
        for word in unit.all("LoadCredential"):
            name, _, source = word.partition(":")
            folder = Path(source)
            files = {f"{name}_{file.name}": file for file in folder.iterdir()} if folder.is_dir() else {name: folder}
            for name, file in files.items():
                shutil.copy(file, unit.credentials / name)
                (unit.credentials / name).chmod(0o400)
                os.chown(unit.credentials / name, uid, -1)
        os.chown(unit.credentials, uid, -1)


def command(unit: Unit) -> list[str]:
    """ExecStart behind what gives it its user, limits and capabilities."""
    user = unit.one("User", "root")
    files = min(int(unit.one("LimitNOFILE", "1024")), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    words = ["prlimit", f"--nofile={files}", "setpriv"]
    words += ["--reuid", user, "--regid", unit.one("Group", user), "--init-groups"]
    if "CapabilityBoundingSet" in unit.values:
        kept = [f"+{name.removeprefix('CAP_').lower()}" for name in unit.all("CapabilityBoundingSet")]
        words.append("--bounding-set=" + ",".join(["-all", *kept]))
    if ambient := [f"+{name.removeprefix('CAP_').lower()}" for name in unit.all("AmbientCapabilities")]:
        words += [f"--inh-caps={','.join(ambient)}", f"--ambient-caps={','.join(ambient)}"]
    if unit.one("NoNewPrivileges") == "yes":
        words.append("--no-new-privs")
    return [*words, "--", *shlex.split(unit.one("ExecStart"))]


class Service:
    """A running unit, started again when it ends by itself."""

    def __init__(self, name: str, sockets: dict[str, socket.socket]) -> None:
        self.name, self.wanted = name, True
        self.unit = Unit(name)
        self.sockets = {key: sockets[key] for key in self.unit.all("Sockets")}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        uid = pwd.getpwnam(self.unit.one("User", "root")).pw_uid
        lay_credentials(self.unit, uid)
        for folder in self.unit.all("RuntimeDirectory"):
            Path("/run", folder).mkdir(exist_ok=True)
            os.chown(Path("/run", folder), uid, -1)
        given = environment(self.unit)
        descriptors = [one.fileno() for one in self.sockets.values()]
        argv = command(self.unit)
        if descriptors:  # as sd_listen_fds(3) wants them: from 3 on, and the process's own pid
            names = ":".join(Unit(name).one("FileDescriptorName") for name in self.sockets)
            given |= {"LISTEN_FDS": str(len(descriptors)), "LISTEN_FDNAMES": names}
            moved = " ".join(f"{3 + n}<&{high} {high}<&-" for n, high in enumerate(descriptors))
            argv = ["/bin/bash", "-c", f'export LISTEN_PID=$$; exec "$@" {moved}', "bash", *argv]
        with open(LOGS / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                argv,
                env=given,
                cwd=self.unit.one("WorkingDirectory", "/"),
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=int(self.unit.one("UMask", "0022"), 8),
                start_new_session=True,
            )

    def keep(self) -> None:
        if self.wanted and self.process and self.process.poll() is not None and self.unit.one("Restart") == "always":
            time.sleep(float(self.unit.one("RestartSec", "0.1")))
            if self.wanted:
                self.start()

    def stop(self) -> None:
        self.wanted = False
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            if self.unit.one("KillMode") == "mixed":
                self.process.terminate()
            else:
                os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(float(self.unit.one("TimeoutStopSec", "90")))
        except subprocess.TimeoutExpired:
            with open(LOGS / f"{self.name}.log", "a") as log:
                log.write("stand-in: it did not stop in time\n")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def reload(self) -> None:
        assert self.process is not None
        line = self.unit.one("ExecReload").replace("$MAINPID", str(self.process.pid))
        subprocess.run(shlex.split(line), check=True)


class Manager:
    """What systemctl asks for."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.lock = threading.Lock()

    def start(self, name: str) -> None:
        if name in DEBIAN:
            with open(LOGS / f"{name}.log", "ab") as log:
                subprocess.run(shlex.split(DEBIAN[name][0]), check=True, stdout=log, stderr=log)
            return
        unit = Unit(name)
        for other in [*unit.all("Wants"), *unit.all("Requires")]:
            if (UNITS / other).exists() or "@" in other:
                self.start(other)
        if name.endswith(".socket") and name not in self.sockets:
            self.sockets[name] = self.bind(unit)
        elif name.endswith(".service") and name not in self.services:
            self.services[name] = Service(name, self.sockets)

    @staticmethod
    def bind(unit: Unit) -> socket.socket:
        path = unit.one("ListenStream")
        Path(path).unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(path)
        os.chown(path, pwd.getpwnam(unit.one("SocketUser")).pw_uid, grp.getgrnam(unit.one("SocketGroup")).gr_gid)
        os.chmod(path, int(unit.one("SocketMode"), 8))
        bound.listen(int(unit.one("Backlog")))
        return socket.socket(fileno=fcntl.fcntl(bound, fcntl.F_DUPFD_CLOEXEC, 100))  # far from 3, where it goes

    def stop(self, name: str) -> None:
        if name in DEBIAN:
            subprocess.run(shlex.split(DEBIAN[name][1]), check=False)
        elif name.endswith(".target"):
            for service in [one for one in self.services if name in Unit(one).all("PartOf")]:
                self.stop(service)
        elif service := self.services.pop(name, None):
            service.stop()

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def enable(self, name: str) -> None:
        """Nothing: this machine does not boot."""

    def reload(self, name: str) -> None:
        self.services[name].reload()

    def pid(self, name: str) -> int:
        process = self.services[name].process
        return process.pid if process and process.poll() is None else 0

    def ask(self, words: list[str]) -> str:
        options = [word for word in words if word.startswith("-")]
        verb, *names = [word for word in words if not word.startswith("-")]
        with self.lock:
            answers = []
            for name in names:
                full = name if name in DEBIAN or "." in name else f"{name}.service"
                answers.append(getattr(self, verb)(full))
                if "--now" in options:
                    self.start(full)
        return "\n".join(str(answer) for answer in answers if answer is not None)

    def keep(self) -> None:
        while True:
            time.sleep(0.1)
            with self.lock:
                for service in list(self.services.values()):
                    service.keep()

    def serve(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(CONTROL)
        os.chmod(CONTROL, 0o600)
        listener.listen(8)
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as lines:
                try:
                    answer = {"ok": True, "said": self.ask(json.loads(lines.readline()))}
                except Exception as error:  # whoever asked is told
                    answer = {"ok": False, "said": f"{type(error).__name__}: {error}"}
                lines.write(json.dumps(answer) + "\n")


def systemctl(words: list[str]) -> int:
    if words[:1] == ["daemon-reload"]:
        return 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(CONTROL)
        with connection.makefile("rw") as lines:
            lines.write(json.dumps(words) + "\n")
            lines.flush()
            answer = json.loads(lines.readline())
    print(answer["said"], file=sys.stdout if answer["ok"] else sys.stderr)
    return 0 if answer["ok"] else 1


def main() -> int:
    if sys.argv[1:2] == ["systemctl"]:
        return systemctl(sys.argv[2:])
    if os.fork():  # process 1 buries everybody's orphans
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        return 1
    LOGS.mkdir(exist_ok=True)
    manager = Manager()
    threading.Thread(target=manager.keep, daemon=True).start()
    manager.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
