"""Who is let in: listening sockets, TLS handshakes, and how many connections there may be."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from instances.gateway import pages
from instances.gateway.access import Site, Sites
from instances.gateway.bodies import Refused
from instances.gateway.connection import Client
from instances.gateway.headers import is_within
from instances.gateway.http1 import Request
from instances.gateway.listen import Door, Listener, bind
from instances.gateway.log import Log

if TYPE_CHECKING:
    from instances.gateway.server import Gateway
    from instances.gateway.tls import Certificates

_CERTIFICATES_EVERY = 10.0
_FEW_FILES = 4096
#: descriptors that are no connections of clients
_SPARE_FILES = 200
#: how long a client has to say goodbye in TLS
_TLS_GOODBYE = 3.0
_TOO_MANY = pages.text(503, "too many connections", b"Retry-After: 5\r\n").render(keep=False, head_only=False)


class Reception:
    """The numbers are looked at before anything else is spent on a connection."""

    def __init__(self, gateway: Gateway, doors: Sequence[Door] | None) -> None:
        self._gateway = gateway
        self._config = gateway.config
        self._doors = doors
        self._listeners: list[Listener] = []
        self._certificates = self._load_certificates()
        self._certificates_due = 0.0
        self._most = self._config.limits.connections
        self._per_address: dict[str, int] = {}
        self.opening = 0
        #: everybody let in, those in their handshake too
        self._held: set[Client] = set()
        self.clients: set[Client] = set()

    def _load_certificates(self) -> Certificates | None:
        if not self._config.tls:
            return None
        from instances.gateway.tls import Certificates  # costs memory that a gateway without TLS does not need

        return Certificates(self._config, self._gateway.log)

    def open(self) -> list[int]:
        """Accept connections; returns the ports. Raises CannotStart."""
        self._most = min(self._config.limits.connections, _raise_file_limit(self._gateway.log))
        doors = bind(self._config) if self._doors is None else self._doors
        redirects = cast("Gateway", Redirects(self._gateway))
        for door in doors:
            owner = redirects if door.redirects else self._gateway
            take = partial(self._take, owner)
            self._listeners.append(Listener(door, take, self._gateway.log, self._gateway.metrics))
        for listener in self._listeners:
            listener.start()
        return [door.port for door in doors]

    @property
    def empty(self) -> bool:
        return not self._held

    @property
    def waited_for(self) -> bool:
        """Whether somebody may still get an answer, who has only just been let in, too."""
        return any(client.tunnel is None for client in self._held)

    def close(self) -> None:
        while self._listeners:
            self._listeners.pop().close()

    def check(self, now: float) -> None:
        """Called each second."""
        if self._certificates is not None and now >= self._certificates_due:
            self._certificates_due = now + _CERTIFICATES_EVERY
            self._certificates.look()
        self._bound_half_open()

    def _bound_half_open(self) -> None:
        """Of those that have begun a request and not ended its head, the oldest give way when there are too many."""
        most = self._config.limits.half_open
        if len(self.clients) > most:
            half_open = sorted((client for client in self.clients if client.began), key=lambda client: client.began)
            for client in half_open[: max(len(half_open) - most, 0)]:
                self._gateway.metrics.refused["half-open"] += 1
                client.abort()

    def reload_certificates(self) -> None:
        if self._certificates is not None:
            self._certificates.reload()

    # ---- one connection ----
    def _take(self, owner: Gateway, sock: socket.socket, address: str) -> None:
        encrypted = self._certificates is not None and owner is self._gateway
        reason = self._full(address, encrypted)
        if reason:
            self._gateway.metrics.refused[reason] += 1
            with contextlib.suppress(OSError):
                if not encrypted:
                    sock.send(_TOO_MANY)
                    sock.shutdown(socket.SHUT_WR)
            sock.close()
            return
        client = Client(owner, address)
        self._held.add(client)
        self._per_address[address] = self._per_address.get(address, 0) + 1
        self.opening += 1
        self._gateway.spawn(self._open(client, sock, encrypted))

    def _full(self, address: str, encrypted: bool) -> str:
        """Return why one more connection is too many, or nothing."""
        limits = self._config.limits
        if len(self._held) >= self._most:
            return "connections"
        if encrypted and self.opening >= limits.handshakes:
            return "handshakes"
        held = self._per_address.get(address, 0)
        if held >= limits.per_address and not is_within(address, self._config.trusted_proxies):
            return "address"
        return ""

    async def _open(self, client: Client, sock: socket.socket, encrypted: bool) -> None:
        """Shake hands. Who fails here was never a client."""
        options: dict[str, Any] = {}
        if encrypted and self._certificates is not None:
            options = {
                "ssl": self._certificates.context,
                "ssl_handshake_timeout": self._config.limits.handshake,
                "ssl_shutdown_timeout": _TLS_GOODBYE,
            }
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: client, sock, **options)
        except (OSError, TimeoutError):  # SSLError is an OSError
            self._gateway.metrics.refused["handshake"] += 1
            sock.close()
            self.gone(client)
        finally:
            self.opening -= 1

    def gone(self, client: Client) -> None:
        """Count a connection no more; however often that is said."""
        self.clients.discard(client)
        if client in self._held:
            self._held.remove(client)
            held = self._per_address.pop(client.address) - 1
            if held:
                self._per_address[client.address] = held


class Redirects:
    """Stands for the gateway on a plain address of an https portal: every page is elsewhere."""

    hsts = False  # RFC 6797 §7.2: never said in the clear

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._sites = Sites(gateway.config.portal_host, gateway.config.apps_host, frozenset())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    def handle(self, client: Client, request: Request) -> None:
        config = self._gateway.config
        site, slug = self._sites.find(request.host.partition(b":")[0])
        if request.method not in (b"GET", b"HEAD") or request.websocket:
            raise Refused(403, f"this is spoken over https only, at {config.portal_url}")
        origin = config.portal_url if site is Site.PORTAL else f"https://{slug}.{config.apps_domain}"
        client.answer(pages.redirect(origin + request.target.decode(), status=308))


def _raise_file_limit(log: Log) -> int:
    """Use all the descriptors that we may; returns how many connections they are good for, two each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < _FEW_FILES:
        log.event("warning", "few file descriptors: raise the limit of open files", limit=hard)
    return max(hard - _SPARE_FILES, 2) // 2
