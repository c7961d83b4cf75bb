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
from portal.lib import sites, variables

SHORTEST_KEY = 32


MOST_PROCESSES = 64


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
    handshake: float = 10.0
    connections: int = 20_000
    handshakes: int = 1_000
    half_open: int = 1_000
    per_address: int = 1_000
    per_session: int = 512
    per_instance: int = 4_096
    drain: float = 2.0
    drain_tunnels: float = 12 * 3600.0


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key; PEM files."""

    certificate: Path
    key: Path


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
    #: our own TLS; without it plain HTTP is spoken, as behind a proxy or on one machine
    tls: tuple[Pair, ...] = ()
    redirect_listen: tuple[tuple[str, int], ...] = ()
    metrics_listen: tuple[tuple[str, int], ...] = ()
    #: whether our own pages tell browsers to come by https only (not in the demo)
    hsts: bool = False
    #: how many processes share the work, below a parent; 0 is this one alone
    processes: int = 0

    @cached_property
    def scheme(self) -> str:
        return urlsplit(self.portal_url).scheme

    @cached_property
    def portal_site(self) -> str:
        return urlsplit(self.portal_url).netloc.lower()

    @cached_property
    def portal_host(self) -> str:
        return urlsplit(self.portal_url).hostname or ""

    @cached_property
    def apps_host(self) -> str:
        return self.apps_domain.partition(":")[0]


def _text(env: Mapping[str, str], name: str, default: str = "") -> str:
    """Return the variable, else what the file named by `<name>_FILE` or lying under the state's secrets/ holds."""
    state = env.get("BEAMPORT_STATE", "")
    try:
        found = variables.read(name, env, Path(state) / "secrets" if state else None)
    except variables.BadVariable as error:
        raise CannotStart(str(error)) from error
    value = (default if found is None else found).strip()
    if not value:
        raise CannotStart(f"{name} is not set. Set it, or {name}_FILE with the path of a file that holds it.")
    return value


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(env.get(name) or default)
    except ValueError:
        raise CannotStart(f"{name} must be a number, not {env[name]!r}.") from None


def _processes(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not text:
        return 0
    if not text.isdigit() or not 1 <= int(text) <= MOST_PROCESSES:
        raise CannotStart(f"GATEWAY_PROCESSES must be auto or 1 to {MOST_PROCESSES}, not {text!r}.")
    return int(text)


def _listen(name: str, text: str, demo: bool) -> tuple[tuple[str, int], ...]:
    addresses = []
    for part in text.split(","):
        host, _, port = part.strip().rpartition(":")
        host = host.strip("[]")
        try:
            address = ipaddress.ip_address(host)
            addresses.append((host, int(port)))
        except ValueError:
            raise CannotStart(f"{name} must be a list of address:port, not {part!r}.") from None
        if demo and not address.is_loopback:
            raise CannotStart(f"With BEAMPORT_DEMO=1 the gateway binds loopback addresses only, not {host}.")
    return tuple(addresses)


def _private(name: str, text: str, demo: bool) -> tuple[tuple[str, int], ...]:
    addresses = _listen(name, text, demo)
    for host, _port in addresses:
        address = ipaddress.ip_address(host)
        if address.is_unspecified or not address.is_private:
            raise CannotStart(f"{name} must be a private address, not {host}: whoever reaches it can read it.")
    return addresses


def _refuse_unsafe(config: Config) -> None:
    """What the portal's own checks say of their settings, said of ours: outside the demo nothing unsafe starts."""
    portal, apps = config.portal_host, config.apps_host
    keys = {"GATEWAY_TOKEN": config.token, "INSTANCE_KEY": config.instance_key.decode(errors="replace")}
    if config.scheme != "https":
        raise CannotStart("PORTAL_URL is not https. BEAMPORT_DEMO=1 permits that for a trial on loopback.")
    if sites.within(portal, apps):
        raise CannotStart(f"APPS_DOMAIN {apps} holds the portal itself. Give it a domain of its own.")
    if sites.within(apps, portal):
        raise CannotStart(f"APPS_DOMAIN {apps} lies below the portal's own host. Give it a domain of its own.")
    for name, key in keys.items():
        if len(key) < SHORTEST_KEY:
            raise CannotStart(f"{name} is shorter than {SHORTEST_KEY} characters: openssl rand -base64 48 makes one.")
    if len(set(keys.values())) < len(keys):
        raise CannotStart(f"{' and '.join(keys)} are the same. Make each of them anew.")


def _parts(env: Mapping[str, str], name: str) -> list[str]:
    return [part.strip() for part in env.get(name, "").split(",") if part.strip()]


def _pairs(env: Mapping[str, str], scheme: str) -> tuple[Pair, ...]:
    certificates, keys = _parts(env, "GATEWAY_TLS_CERT_FILE"), _parts(env, "GATEWAY_TLS_KEY_FILE")
    if len(certificates) != len(keys):
        raise CannotStart("GATEWAY_TLS_CERT_FILE and GATEWAY_TLS_KEY_FILE must name as many files as each other.")
    if certificates and scheme != "https":
        raise CannotStart("With GATEWAY_TLS_CERT_FILE the gateway speaks https: PORTAL_URL must begin with https://.")
    return tuple(Pair(Path(certificate), Path(key)) for certificate, key in zip(certificates, keys, strict=True))


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
        proxies = tuple(ipaddress.ip_network(part) for part in _parts(env, "GATEWAY_TRUSTED_PROXIES"))
    except ValueError as error:
        raise CannotStart(f"GATEWAY_TRUSTED_PROXIES: {error}.") from None
    default = Limits()
    demo = env.get("BEAMPORT_DEMO", "") == "1"
    redirect, metrics = (env.get(f"GATEWAY_{name}_LISTEN", "").strip() for name in ("REDIRECT", "METRICS"))
    config = Config(
        listen=_listen("GATEWAY_LISTEN", _text(env, "GATEWAY_LISTEN"), demo),
        portal_url=portal_url,
        apps_domain=_text(env, "APPS_DOMAIN", f"apps.{parts.netloc}").lower(),
        web=_endpoint(env, "WEB_UPSTREAM"),
        internal=_endpoint(env, "INTERNAL_URL"),
        token=_text(env, "GATEWAY_TOKEN"),
        instance_key=_text(env, "INSTANCE_KEY").encode(),
        trusted_proxies=proxies,
        tls=_pairs(env, parts.scheme),
        redirect_listen=_listen("GATEWAY_REDIRECT_LISTEN", redirect, demo) if redirect else (),
        metrics_listen=_private("GATEWAY_METRICS_LISTEN", metrics, demo) if metrics else (),
        hsts=not demo,
        processes=_processes(env.get("GATEWAY_PROCESSES", "").strip()),
        limits=Limits(
            connections=int(_number(env, "GATEWAY_CONNECTIONS", default.connections)),
            per_address=int(_number(env, "GATEWAY_CONNECTIONS_PER_ADDRESS", default.per_address)),
            per_session=int(_number(env, "GATEWAY_CONNECTIONS_PER_SESSION", default.per_session)),
            per_instance=int(_number(env, "GATEWAY_CONNECTIONS_PER_INSTANCE", default.per_instance)),
            response=_number(env, "GATEWAY_RESPONSE_SECONDS", default.response),
            drain=_number(env, "GATEWAY_DRAIN_SECONDS", default.drain),
            drain_tunnels=3600 * _number(env, "GATEWAY_DRAIN_TUNNELS", default.drain_tunnels / 3600),
        ),
    )
    if not demo:
        _refuse_unsafe(config)
    return config
