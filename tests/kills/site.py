"""A whole portal with real JupyterLabs that a test may do violence to, and the people who work on it meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from websockets.exceptions import WebSocketException

from portal.embedded.people import Ids
from tests.portals import ROOT, Portal, environment, free_port, state_folder
from tests.providers.local.notebook import Jupyter, Kernel
from tests.providers.local.test_limits import small_disk

#: how long a page or an answer of the API may take on a machine that is busy with a fault
PATIENCE = 30.0


#: processes below the gateway's parent
GATEWAYS = 2
#: processes without a pid file, and whose child each is
BELOW = {"link": "web", "gateway-process": "gateway"}


def children(pid: int) -> list[int]:
    """Return a process's children, the oldest first."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Away(Exception):
    """The portal gave no answer, or said that it cannot answer just now."""


class Site(Portal):
    """One portal under one state folder, with what a test may ask of it and do to it."""

    def account(self, handle: str, limit: int = 20) -> Account:
        done = subprocess.run(
            [sys.executable, "-m", "tests.kills.account", handle, str(limit)],
            cwd=ROOT,
            env=environment(self.state, self.port, DJANGO_SETTINGS_MODULE="portal.settings"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return Account(self, **json.loads(done.stdout.splitlines()[-1]))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the portal's own PostgreSQL, past the portal."""
        with psycopg.connect(host=str(self.state / "run" / "back"), user="beamport", dbname="beamport") as connection:
            done = connection.execute(query)  # type: ignore[call-overload]
            return done.fetchall() if done.description else []

    def pid(self, name: str) -> int:
        if name == "up":
            assert self.parent is not None
            return self.parent.pid
        if name == "postgres":
            return int((self.state / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        if name in BELOW:
            return children(super().pid(BELOW[name]))[0]
        return super().pid(name)

    def exchange(self, method: str, host: str, path: str, body: bytes | None, **fields: str) -> Answer:
        """One request to the gateway, whatever the host is called."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Host": host, **fields})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Away(str(error)) from error
        finally:
            connection.close()

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def cookie(self, name: str) -> str:
        words = [line.partition(";")[0].partition("=") for line in self.headers.get_all("Set-Cookie") or []]
        return next(value for key, _, value in words if key == name)


@dataclass(frozen=True)
class Account:
    """Somebody who is signed in and has a token for scripts."""

    site: Site
    token: str
    session: str
    plan: str
    experiments: list[str]

    # ---- by script ----
    def ask(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, Any]:
        """One request of the API; Away when there is nobody to answer it."""
        data = None if body is None else json.dumps(body).encode()
        fields |= {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        answer = self.site.exchange(method, self.site.host, f"/api/v1/{path}", data, **fields)
        if answer.status >= 500:
            raise Away(f"{answer.status} {answer.body[:200]!r}")
        return answer.status, json.loads(answer.body) if answer.body else None

    def insist(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, Any]:
        """Ask as a careful script does: again after an answer that never came."""
        end = time.monotonic() + 90
        while True:
            try:
                return self.ask(method, path, body, **fields)
            except Away:
                assert time.monotonic() < end, f"{method} {path} was never answered"
                time.sleep(0.2)

    def create(self, name: str = "kills") -> uuid.UUID:
        """Ask for an instance; the key has the second of two requests find the first one's instance."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        body = {"plan": self.plan, "experiments": self.experiments, "name": name}
        status, made = self.insist("POST", "instances", body, **key)
        assert status == 201, made
        return uuid.UUID(made["id"])

    def verb(self, verb: str, instance: uuid.UUID) -> int:
        method, path = (
            ("DELETE", f"instances/{instance}") if verb == "delete" else ("POST", f"instances/{instance}/{verb}")
        )
        return self.insist(method, path)[0]

    def seen(self, instance: uuid.UUID) -> dict[str, Any]:
        """Return the instance as the API shows it; a deleted one is not there."""
        status, found = self.insist("GET", f"instances/{instance}")
        return found if status == 200 else {"state": "deleted", "target": "deleted", "reason": ""}

    def wait(self, instance: uuid.UUID, *states: str, seconds: float = 180) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while (found := self.seen(instance))["state"] not in states:
            assert time.monotonic() < end, f"{instance} is not {' or '.join(states)}: {found}"
            time.sleep(0.1)
        return found

    def delete_all(self) -> None:
        for found in self.insist("GET", "instances")[1]["results"]:
            self.verb("delete", uuid.UUID(found["id"]))

    # ---- by browser ----
    def page(self, path: str) -> Answer:
        return self.site.exchange("GET", self.site.host, path, None, Cookie=f"__Host-sid={self.session}")

    def notebook(self, instance: uuid.UUID) -> Notebook:
        """Go to an instance's origin, by the portal and back, as a browser does."""
        origin = self.seen(instance)["open_url"].split("/")[2]
        go = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
        first = self.site.exchange("GET", origin, "/", None, **go)
        portal = _path(first.headers["Location"])
        enter = self.site.exchange("GET", self.site.host, portal, None, Cookie=f"__Host-sid={self.session}", **go)
        back = _path(enter.headers["Location"])
        done = self.site.exchange(
            "GET", origin, back, None, Cookie=f"__Host-entry={first.cookie('__Host-entry')}", **go
        )
        return Notebook(self.site.port, origin, done.cookie("__Host-inst"))


def _path(address: str) -> str:
    return "/" + address.split("/", 3)[3]


class Notebook(Jupyter):
    """A JupyterLab as its user reaches it: through the gateway, with a cookie and no token."""

    def __init__(self, port: int, host: str, cookie: str) -> None:
        self.port, self.host = port, host
        self.headers = {"Cookie": f"__Host-inst={cookie}", "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


class Witness:
    """An instance that nobody touches, with a kernel that remembers a word and an open socket to it."""

    def __init__(self, account: Account) -> None:
        self.account, self.word = account, uuid.uuid4().hex
        self.instance = account.create("witness")
        self.open()

    def open(self) -> None:
        """Start a kernel and tell it the word."""
        self.account.wait(self.instance, "active")
        self.kernel = self.account.notebook(self.instance).kernel()
        assert self.kernel.run(f"word = {self.word!r}")[2] == ""

    def answers(self) -> bool:
        """Whether the socket that was opened long ago still leads to the kernel that knows the word."""
        return self.kernel.run("print(word)", 30)[0].strip() == self.word

    def dropped(self) -> bool:
        try:
            self.answers()
        except Exception:  # closed in whichever way
            return True
        return False

    def comes_back(self) -> None:
        """Reconnect, as the page of a notebook does, again and again, to the same kernel."""
        self.kernel.close()
        end = time.monotonic() + 60
        while True:
            try:
                self.kernel = Kernel(self.account.notebook(self.instance), self.kernel.number)
                break
            except (Away, OSError, StopIteration, WebSocketException):
                assert time.monotonic() < end, "the way back is closed"
                time.sleep(0.5)
        assert self.answers(), "another kernel"


@contextmanager
def site(*, disk: str = "", uid: int | None = None) -> Iterator[Site]:
    """Start a portal on a state folder of its own, as somebody else or on a small disk; nothing is left at the end."""
    ids = Ids() if uid is None else Ids(user=uid, group=uid, extra_groups=[])
    variables = {"UP_SILENCE_SECONDS": "30", "GATEWAY_PROCESSES": str(GATEWAYS)}
    with state_folder("bpk-") as state:
        made = Site(state, free_port(), variables=variables, ids=ids)
        with small_disk(state, disk) if disk else contextlib.nullcontext():
            if uid is not None:
                made.borrow()
                for path in (state, *state.rglob("*")):
                    os.chown(path, uid, uid, follow_symlinks=False)
            try:
                made.up()
                yield made
            finally:
                made.end()
