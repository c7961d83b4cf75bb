"""Which addresses a start uses, and whether they are free (standard library only)."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from portal.embedded.people import CannotStart


@dataclass(frozen=True)
class Site:
    """The addresses and switches of this start, out of the environment."""

    demo: bool
    port: int
    portal_url: str
    apps_domain: str
    listen: str
    #: seconds after which a child that does not answer is ended
    silence: float = 60.0

    @classmethod
    def read(cls) -> Site:
        given = os.environ.get
        demo = given("BEAMPORT_DEMO", "").strip().lower() in ("1", "true", "yes", "on")
        text = given("PORT") or "8000"
        if not text.isdigit() or not 0 < int(text) < 65535:
            raise CannotStart(f"PORT must be a number from 1 to 65534, not {text!r}; the demo takes the next one too.")
        port = int(text)
        url = (given("PORTAL_URL") or f"http://localhost:{port}").rstrip("/")
        apps = given("APPS_DOMAIN") or f"apps.{url.partition('://')[2]}"
        listen = ",".join(f"{host}:{port}" for host in loopback())
        silence = float(_number("UP_SILENCE_SECONDS", "60"))
        site = cls(demo, port, url, apps, listen if demo else given("GATEWAY_LISTEN") or listen, silence)
        site._check()
        return site

    def _check(self) -> None:
        if not self.demo and os.geteuid() != 0:
            raise CannotStart(
                "Outside the demo start as root: sessions then get uids of their own, and PostgreSQL, web, worker and "
                "gateway run as plain users. For a trial on this machine: make run."
            )
        if not self.demo and not (os.environ.get("BEAMPORT_PROVIDERS") and os.environ.get("PORTAL_URL")):
            raise CannotStart(
                "Outside the demo the portal needs PORTAL_URL (https) and BEAMPORT_PROVIDERS (the file of sign-in "
                "providers): see docs/operate/embedded.md. For a trial on this machine: make run, or "
                "BEAMPORT_DEMO=1 manage.py up."
            )

    @property
    def issuer(self) -> str:
        """The demo's identity provider."""
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def host(self) -> str:
        """The portal's host and port, as browsers name it."""
        return self.portal_url.partition("://")[2]

    @property
    def first_listener(self) -> tuple[str, int]:
        """Where to ask whether the gateway answers."""
        address, _, port = self.listen.split(",")[0].rpartition(":")
        return {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(address, address.strip("[]")), int(port)  # noqa: S104

    def ports(self) -> list[int]:
        """The ports on loopback that this start takes."""
        return [self.port, self.port + 1] if self.demo else [self.port]


def _number(name: str, default: str) -> int:
    text = os.environ.get(name) or default
    if not text.isdigit():
        raise CannotStart(f"{name} must be a whole number, not {text!r}.")
    return int(text)


def loopback() -> list[str]:
    """The loopback addresses that this machine has."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "[::1]"]


def check_ports(ports: list[int]) -> None:
    """Refuse ports that somebody else has, and say how to take others."""
    for port in ports:
        for host in loopback():
            family = socket.AF_INET6 if "[" in host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host.strip("[]"), port))
                except PermissionError as error:
                    raise CannotStart(f"Port {port} is for root alone. Take another: PORT=8100 make run") from error
                except OSError as error:
                    raise CannotStart(
                        f"Port {port} is taken by another program. Take two others: PORT={ports[0] + 100} make run "
                        f"uses {ports[0] + 100} and {ports[0] + 101}."
                    ) from error
