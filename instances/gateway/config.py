"""What the environment says; a wrong value stops the start with a sentence."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from instances.gateway.upstream import Endpoint


class CannotStart(Exception):
    """The gateway cannot start; the text says what to do."""


@dataclass(frozen=True)
class Limits:
    """Times in seconds, sizes in bytes."""

    head: float = 10.0
    idle: float = 60.0
    response: float = 300.0
    stalled: float = 300.0
    tunnel_idle: float = 12 * 3600.0
    body_rate: float = 100.0
    body_window: float = 60.0
    connections: int = 20_000
    per_address: int = 1_000
    per_session: int = 512
    drain: float = 2.0


@dataclass(frozen=True)
class Config:
    """All that the gateway needs to know."""

    listen: tuple[tuple[str, int], ...]
    portal_url: str
    apps_domain: str
    web: Endpoint
    internal: Endpoint
    token: str
    instance_key: bytes
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    limits: Limits = Limits()

    @cached_property
    def scheme(self) -> str:
        return urlsplit(self.portal_url).scheme

    @cached_property
    def portal_site(self) -> str:
        return urlsplit(self.portal_url).netloc.lower()

    @cached_property
    def portal_host(self) -> str:
        return urlsplit(self.portal_url).hostname or ""


def _text(env: Mapping[str, str], name: str, default: str = "") -> str:
    """Return the variable, else what the file named by `<name>_FILE` or lying under the state's secrets/ holds."""
    path = env.get(f"{name}_FILE", "")
    state = env.get("BEAMPORT_STATE", "")
    if not path and name not in env and state and (Path(state) / "secrets" / name.lower()).is_file():
        path = str(Path(state) / "secrets" / name.lower())
    if path:
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise CannotStart(f"{name}_FILE names {path}, which cannot be read: {error.strerror}.") from error
    value = env.get(name, default).strip()
    if not value:
        raise CannotStart(f"{name} is not set. Set it, or {name}_FILE with the path of a file that holds it.")
    return value


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(env.get(name) or default)
    except ValueError:
        raise CannotStart(f"{name} must be a number, not {env[name]!r}.") from None


def _listen(text: str, demo: bool) -> tuple[tuple[str, int], ...]:
    addresses = []
    for part in text.split(","):
        host, _, port = part.strip().rpartition(":")
        host = host.strip("[]")
        try:
            address = ipaddress.ip_address(host)
            addresses.append((host, int(port)))
        except ValueError:
            raise CannotStart(f"GATEWAY_LISTEN must be a list of address:port, not {part!r}.") from None
        if demo and not address.is_loopback:
            raise CannotStart(f"With BEAMPORT_DEMO=1 the gateway binds loopback addresses only, not {host}.")
    return tuple(addresses)


def _endpoint(env: Mapping[str, str], name: str) -> Endpoint:
    try:
        return Endpoint.parse(_text(env, name))
    except ValueError as error:
        raise CannotStart(f"{name}: {error}.") from None


def read(env: Mapping[str, str] | None = None) -> Config:
    """Read the environment; raises CannotStart."""
    env = os.environ if env is None else env
    portal_url = _text(env, "PORTAL_URL").rstrip("/")
    parts = urlsplit(portal_url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path:
        raise CannotStart(f"PORTAL_URL must look like https://portal.example, not {portal_url!r}.")
    try:
        proxies = tuple(
            ipaddress.ip_network(part.strip())
            for part in env.get("GATEWAY_TRUSTED_PROXIES", "").split(",")
            if part.strip()
        )
    except ValueError as error:
        raise CannotStart(f"GATEWAY_TRUSTED_PROXIES: {error}.") from None
    default = Limits()
    return Config(
        listen=_listen(_text(env, "GATEWAY_LISTEN"), env.get("BEAMPORT_DEMO", "") == "1"),
        portal_url=portal_url,
        apps_domain=_text(env, "APPS_DOMAIN", f"apps.{parts.netloc}").lower(),
        web=_endpoint(env, "WEB_UPSTREAM"),
        internal=_endpoint(env, "INTERNAL_URL"),
        token=_text(env, "GATEWAY_TOKEN"),
        instance_key=_text(env, "INSTANCE_KEY").encode(),
        trusted_proxies=proxies,
        limits=Limits(
            connections=int(_number(env, "GATEWAY_CONNECTIONS", default.connections)),
            per_address=int(_number(env, "GATEWAY_CONNECTIONS_PER_ADDRESS", default.per_address)),
            per_session=int(_number(env, "GATEWAY_CONNECTIONS_PER_SESSION", default.per_session)),
            response=_number(env, "GATEWAY_RESPONSE_SECONDS", default.response),
            drain=_number(env, "GATEWAY_DRAIN_SECONDS", default.drain),
        ),
    )
