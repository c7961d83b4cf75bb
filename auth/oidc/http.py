"""Calls to a provider: five seconds in all, a size limit, no redirects, no proxies, TLS checked, public addresses only
(and those of the networks that the operator names for a provider).

The address is checked on the socket that was really opened, before a byte is sent, so a name that resolves
differently the second time gains nothing (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as PoolTimeout

from auth.oidc.errors import ProviderFailed, ProviderSlow
from auth.providers import Provider

DEADLINE = 5.0
Timeouts = (PoolTimeout, TimeoutError)
#: a provider that hangs can hold this many calls, no more; later ones to it fail at their deadline
MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes


@dataclass
class Guard:
    """What one call may reach, and the handle by which it is cut off."""

    provider: Provider
    _sockets: list[socket.socket] = field(default_factory=list)

    def admit(self, connection: socket.socket) -> None:
        peer = connection.getpeername()[0]
        if not (self.provider.allow_private or is_public(peer) or is_named(self.provider, peer)):
            connection.close()
            raise ProviderFailed("private-address")
        # a duplicate handle: TLS takes the first one away
        self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))

    def cut(self) -> None:
        for handle in self._sockets:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        for handle in self._sockets:
            handle.close()


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    return parsed


def is_public(address: str) -> bool:
    parsed = _parsed(address)
    return parsed.is_global and not parsed.is_multicast


def is_named(provider: Provider, address: str) -> bool:
    """Whether the operator said that this provider may lie there."""
    return any(_parsed(address) in network for network in provider.private_networks)


class _GuardedHTTP(HTTPConnection):
    def __init__(self, *args: Any, guard: Guard, **more: Any) -> None:
        super().__init__(*args, **more)
        self.guard = guard

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        self.guard.admit(connection)
        return connection


class _GuardedHTTPS(HTTPSConnection):
    def __init__(self, *args: Any, guard: Guard, **more: Any) -> None:
        super().__init__(*args, **more)
        self.guard = guard

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        self.guard.admit(connection)
        return connection


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _GuardedHTTP


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedHTTPS


@cache
def _calls(slug: str) -> ThreadPoolExecutor:
    """The threads that call one provider: another's hanging takes none of them."""
    return ThreadPoolExecutor(max_workers=MOST_AT_ONCE, thread_name_prefix=f"oidc-{slug}")


@cache
def _tls() -> ssl.SSLContext:
    """The system's trust store; SSL_CERT_FILE names another."""
    return ssl.create_default_context()


def call(
    provider: Provider,
    method: str,
    url: str,
    *,
    limit: int,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> Answer:
    """Make one call and return its whole answer; raises ProviderFailed or ProviderSlow within the deadline."""
    guard = Guard(provider)
    job = _calls(provider.slug).submit(_call, guard, method, url, limit, dict(headers or {}), form)
    try:
        return job.result(DEADLINE)
    except FutureTimeout:
        job.cancel()
        guard.cut()
        raise ProviderSlow("too-slow") from None


def _call(
    guard: Guard, method: str, url: str, limit: int, headers: dict[str, str], form: Mapping[str, str] | None
) -> Answer:
    body = None
    if form is not None:
        body = urlencode(form).encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    headers["Accept-Encoding"] = "identity"
    headers["User-Agent"] = "beamport"
    pool, path = _pool(guard, url)
    try:
        answer = pool.urlopen(
            method, path, body=body, headers=headers, redirect=False, retries=False,
            preload_content=False, decode_content=False,
        )  # fmt: skip
        with contextlib.closing(answer):
            return _read(answer, limit)
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, Timeouts) and not isinstance(error, NewConnectionError):  # urllib3 calls both a timeout
            raise ProviderSlow("too-slow") from None
        raise ProviderFailed("call-failed") from error
    finally:
        pool.close()
        guard.release()


def _pool(guard: Guard, url: str) -> tuple[urllib3.HTTPConnectionPool, str]:
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path or "/"
    if parts.query:
        path += "?" + parts.query
    timeout = urllib3.Timeout(total=DEADLINE)
    if parts.scheme == "https":
        return _HTTPSPool(host, parts.port, timeout=timeout, ssl_context=_tls(), guard=guard), path
    if parts.scheme == "http" and guard.provider.allow_private:
        return _HTTPPool(host, parts.port, timeout=timeout, guard=guard), path
    raise ProviderFailed("not-https")


def _read(answer: urllib3.BaseHTTPResponse, limit: int) -> Answer:
    body = b""
    while len(body) <= limit:
        part = answer.read(65_536)
        if not part:
            return Answer(answer.status, answer.headers.get("Content-Type", "").lower(), body)
        body += part
    raise ProviderFailed("answer-too-large")
