"""Who is let in: listening sockets, TLS handshakes, and how many connections there may be."""

from __future__ import annotations

import asyncio
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

if TYPE_CHECKING:
    from instances.gateway.server import Gateway
    from instances.gateway.tls import Certificates

_CERTIFICATES_EVERY = 10.0
#: how long a client has to say goodbye in TLS
_TLS_GOODBYE = 3.0


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
        self.clients: set[Client] = set()

    def _load_certificates(self) -> Certificates | None:
        if not self._config.tls:
            return None
        from instances.gateway.tls import Certificates  # costs memory that a gateway without TLS does not need

        return Certificates(self._config, self._gateway.log)

    def open(self, most: int) -> list[int]:
        """Accept up to `most` connections at a time; returns the ports. Raises CannotStart."""
        self._most = most
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
        return not self.clients and not self.opening

    def close(self) -> None:
        while self._listeners:
            self._listeners.pop().close()

    def check(self, now: float) -> None:
        """Called each second."""
        if self._certificates is not None and now >= self._certificates_due:
            self._certificates_due = now + _CERTIFICATES_EVERY
            self._certificates.look()

    def reload_certificates(self) -> None:
        if self._certificates is not None:
            self._certificates.reload()

    # ---- one connection ----
    def _take(self, owner: Gateway, sock: socket.socket, address: str) -> None:
        encrypted = self._certificates is not None and owner is self._gateway
        reason = self._full(address, encrypted)
        if reason:
            self._gateway.metrics.refused[reason] += 1
            sock.close()
            return
        self._per_address[address] = self._per_address.get(address, 0) + 1
        self.opening += 1
        self._gateway.spawn(self._open(Client(owner), sock, address, encrypted))

    def _full(self, address: str, encrypted: bool) -> str:
        """Return why one more connection is too many, or nothing."""
        limits = self._config.limits
        if len(self.clients) + self.opening >= self._most:
            return "connections"
        if encrypted and self.opening >= limits.handshakes:
            return "handshakes"
        held = self._per_address.get(address, 0)
        if held >= limits.per_address and not is_within(address, self._config.trusted_proxies):
            return "address"
        return ""

    async def _open(self, client: Client, sock: socket.socket, address: str, encrypted: bool) -> None:
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
        finally:
            self.opening -= 1
            if not client.address:  # it never came to be connected
                self._let_go(address)

    def gone(self, client: Client) -> None:
        if client in self.clients:
            self.clients.discard(client)
            self._let_go(client.address)

    def _let_go(self, address: str) -> None:
        held = self._per_address[address] - 1
        if held:
            self._per_address[address] = held
        else:
            del self._per_address[address]


class Redirects:
    """Stands for the gateway on a plain address of an https portal: every page is elsewhere."""

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
