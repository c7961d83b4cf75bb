"""One provider as a process of its own: the same invented people in it, and the portal as its client."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from tests.gateway.authority import Authority
from tests.labs.setup import Programs
from tests.labs.visitor import Page, Visitor
from tests.portals import free_port

#: login → given name, family name; the password is the login
PEOPLE = {"scientist": ("Ada", "Lamprecht"), "collaborator": ("Ben", "Okafor")}
#: who belongs to the group that a rule makes of what the provider says
MEMBER = "scientist"
NAMESPACE = "urn:geant:eduteams.example:service:umbrella.example"
PATH, ROLE, AUTHORITY = "umbrella:xfel-users", "pi", "umbrella.example"
ENTITLEMENT = f"{NAMESPACE}:group:{PATH}:role={ROLE}#{AUTHORITY}"
ORDINARY = f"{NAMESPACE}:group:{PATH}#{AUTHORITY}"


def email(login: str) -> str:
    return f"{login}@facility.example"


class Lab(ABC):
    slug: ClassVar[str]
    title: ClassVar[str]
    #: what the rule asks for that makes a member
    rule: ClassVar[dict[str, str]] = {"namespace": NAMESPACE, "path": PATH, "role": ROLE, "authority": AUTHORITY}
    #: whether it says that the e-mail is verified
    verifies_email: ClassVar[bool] = True
    #: whether it has an address for signing out
    ends_sessions: ClassVar[bool] = True

    def __init__(self, place: Path, portal: str, programs: Programs, authority: Authority) -> None:
        self.place, self.portal, self.programs, self.authority = place, portal, programs, authority
        self.client_id, self.client_secret = f"beamport-{self.slug}", secrets.token_urlsafe()
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        place.mkdir(mode=0o700)

    # ---- what each has of its own ----
    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def callback(self) -> str:
        return f"{self.portal}/auth/{self.slug}/callback/"

    def table(self) -> dict[str, object]:
        """What the portal's file of providers says of it."""
        secret = self.place / "client_secret"
        secret.write_text(self.client_secret + "\n")
        secret.chmod(0o600)
        return {
            "title": self.title,
            "issuer": self.issuer,
            "client_id": self.client_id,
            "client_secret_file": str(secret),
            "asserts_scopes": [NAMESPACE],
        }

    def toml(self) -> str:
        """The same as the file has it: texts, lists and flags are written as in JSON."""
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in self.table().items()]
        return f"[{self.slug}]\n{''.join(lines)}\n"

    @abstractmethod
    def command(self) -> list[str]:
        """Write what it needs into its folder and return how to start it."""

    def environment(self) -> dict[str, str]:
        return {}

    @abstractmethod
    def show_who(self, visitor: Visitor, page: Page, login: str) -> Page:
        """Go through its pages from the first on, as this person, back to the portal."""

    def asks_who(self, page: Page) -> bool:
        """Whether this is its page for somebody whom it does not know yet."""
        return page.asks_for("password")

    def confirm_sign_out(self, visitor: Visitor, page: Page) -> Page:
        """Answer what it asks before it signs somebody out."""
        return page

    # ---- life ----
    def start(self) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "JAVA_HOME") if name in os.environ}
        # it must not outlive a test run that is killed
        command = ["setpriv", "--pdeathsig", "KILL", *self.command()]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.place, env=kept | self.environment(), stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float = 110) -> None:
        """Return once its discovery document is there."""
        assert self.process is not None
        context = self.authority.client()
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                url = f"{self.issuer}/.well-known/openid-configuration"
                with urllib.request.urlopen(url, timeout=5, context=context) as answer:
                    assert json.load(answer)["issuer"] == self.issuer
                    return
            except OSError:
                time.sleep(0.1)
        log = self._log.read_text(errors="replace")[-4000:]
        raise RuntimeError(f"{self.title} did not start (exit {self.process.poll()}):\n{log}")

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def _log(self) -> Path:
        return self.place / "log"

    def write(self, name: str, content: Any) -> Path:
        """Lay JSON into its folder (which is YAML too)."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
        return path
