"""The gateway's own TLS: what is spoken, which certificate is shown, and how a new one comes into use."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from instances.gateway import reception
from instances.gateway.config import CannotStart, Limits, read
from instances.gateway.tls import Certificates
from tests.gateway.authority import Authority
from tests.gateway.harness import Harness, Wire, door, request
from tests.gateway.test_link import GOOD
from tests.gateway.test_sockets import Sockets


class Encrypted(Harness):
    """A gateway on https, whose test connects in TLS."""

    def __init__(self, authority: Authority, limits: Limits | None = None, **config: Any) -> None:
        super().__init__(limits)
        self.authority = authority
        if "tls" not in config:
            config["tls"] = (authority.pair("localhost", "*.apps.localhost"),)
        self.doors.append(door(redirects=True))
        self.config = replace(self.config, portal_url=f"https://localhost:{self.port}", **config)

    def connect(self, name: str = "localhost", context: ssl.SSLContext | None = None) -> Wire:
        plain = super().connect().sock
        return Wire((context or self.authority.client()).wrap_socket(plain, server_hostname=name))

    def plain(self) -> Wire:
        return super().connect()

    def shown(self, name: str = "localhost") -> bytes:
        """Return the certificate that a new connection is shown."""
        with self.connect(name) as wire:
            assert isinstance(wire.sock, ssl.SSLSocket)
            return wire.sock.getpeercert(binary_form=True) or b""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def gateway(authority: Authority) -> Iterator[Encrypted]:
    with Encrypted(authority) as harness:
        yield harness


@contextmanager
def checked_often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(reception, "_CERTIFICATES_EVERY", 0.0)
        yield


# ---- what is spoken ----
def test_requests_and_cookies_pass_in_tls(gateway: Encrypted) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    assert gateway.same_origin(cookie=cookie).body == b"hello"
    assert b"X-Forwarded-Proto: https\r\n" in backend.heads[0]
    assert gateway.get(host=f"localhost:{gateway.port}").status == 200


def test_a_great_answer_and_a_great_body_pass_whole(gateway: Encrypted) -> None:
    backend = gateway.instance()
    content = bytes(range(256)) * 20_000
    backend.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
    _sid, cookie = gateway.session()
    reply = gateway.same_origin(cookie=cookie)
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(content).digest()
    with gateway.connect() as wire:
        wire.send(request("POST", "/upload", f"localhost:{gateway.port}", content))
        assert wire.reply().status == 200
    assert gateway.portal.web_requests[-1]["body"] == content


def test_websockets_pass_and_a_withdrawal_closes_them(gateway: Encrypted) -> None:
    sockets = Sockets(gateway)
    host = gateway.host()
    message = b"\x00\xff" * 300_000

    async def speak() -> None:
        # not the client with a thread for reading: one TLS connection must not be used by two threads
        async with connect(
            f"wss://{host}/api/kernels/1/channels",
            host="127.0.0.1",
            ssl=gateway.authority.client(),
            origin=f"https://{host}",  # type: ignore[arg-type]
            additional_headers={"Cookie": sockets.cookie},
            max_size=None,
        ) as opened:
            await opened.send(message)
            assert await opened.recv() == message
            gateway.portal.send(type="withdraw", sid=sockets.sid)
            with pytest.raises(ConnectionClosed):
                await opened.recv()

    asyncio.run(speak())
    gateway.loop.call_soon_threadsafe(sockets.server.close)


def test_a_refusal_is_told_before_the_connection_ends(gateway: Encrypted) -> None:
    with gateway.connect() as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
        assert wire.reply().status == 421
        assert wire.closed


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(gateway: Encrypted, version: ssl.TLSVersion) -> None:
    context = gateway.authority.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        gateway.connect(context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_http_1_1_is_agreed_on(gateway: Encrypted, version: ssl.TLSVersion) -> None:
    context = gateway.authority.client()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with gateway.connect(context=context) as wire:
        assert isinstance(wire.sock, ssl.SSLSocket)
        assert wire.sock.selected_alpn_protocol() == "http/1.1"
        assert wire.sock.version() == version.name.replace("v1_", "v1.")


def test_plain_http_on_the_tls_port_ends_without_an_answer(gateway: Encrypted) -> None:
    with gateway.plain() as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in wire.to_end()
    assert gateway.get(host=f"localhost:{gateway.port}").status == 200


# ---- handshakes ----
def test_a_handshake_that_does_not_end_is_given_up(authority: Authority) -> None:
    with Encrypted(authority, Limits(handshake=0.2, drain=0.1)) as gateway, gateway.plain() as wire:
        wire.send(b"\x16\x03\x01")
        assert wire.closed
        gateway.until(lambda: not gateway.gateway.reception.opening)
        assert not gateway.gateway.reception._per_address


def test_handshakes_under_way_are_bounded(authority: Authority) -> None:
    with Encrypted(authority, Limits(handshakes=3, drain=0.1)) as gateway:
        slow = [gateway.plain() for _ in range(3)]
        gateway.until(lambda: gateway.gateway.reception.opening == 3)
        with gateway.plain() as fourth:
            assert fourth.closed
        for wire in slow:
            wire.sock.close()
        gateway.until(lambda: not gateway.gateway.reception.opening)
        assert gateway.get(host=f"localhost:{gateway.port}").status == 200


def test_broken_handshakes_leave_nothing_behind(gateway: Encrypted) -> None:
    for start in (b"", b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x00" * 100) * 20:
        with gateway.plain() as wire:
            wire.send(start)
    inner = gateway.gateway
    gateway.until(lambda: not inner.reception.opening and not inner.reception._per_address)
    gateway.until(lambda: len(inner._tasks) < 10)
    assert not inner._clients


# ---- which certificate ----
def test_each_name_is_shown_its_own_certificate(authority: Authority) -> None:
    pairs = (authority.pair("localhost", file="portal"), authority.pair("*.apps.localhost", file="apps"))
    with Encrypted(authority, tls=pairs) as gateway:
        certificates = [ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()) for pair in pairs]
        assert gateway.shown("localhost") == certificates[0]
        assert gateway.shown("alpha1234.apps.localhost") == certificates[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            gateway.connect("elsewhere.example")


def test_a_new_certificate_comes_into_use_when_its_file_changes(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with checked_often(monkeypatch), Encrypted(authority) as gateway, gateway.connect() as old:
        before = gateway.shown()
        authority.pair("localhost", "*.apps.localhost")
        gateway.until(lambda: gateway.shown() != before)
        old.send(request("GET", "/", f"localhost:{gateway.port}"))
        assert old.reply().status == 200, "open connections go on"


def spoiled(authority: Authority, how: str) -> None:
    """Put something in the place of the certificate that must not be used."""
    if how == "other key":
        authority.pair("localhost", "*.apps.localhost", file="other")
        (authority.path.parent / "other.key").replace(authority.path.parent / "server.key")
    elif how == "expired":
        authority.pair("localhost", "*.apps.localhost", life=timedelta(minutes=-1))
    elif how == "other names":
        authority.pair("localhost", "*.elsewhere.example")
    elif how == "nonsense":
        (authority.path.parent / "server.pem").write_text("nonsense")
    else:
        (authority.path.parent / "server.pem").unlink()


BAD = ["other key", "expired", "other names", "nonsense", "gone"]


@pytest.mark.parametrize("how", BAD)
def test_a_bad_certificate_is_refused_and_the_old_one_stays(gateway: Encrypted, how: str) -> None:
    before = gateway.shown()
    spoiled(gateway.authority, how)
    gateway.call(gateway.gateway.reception.reload_certificates)
    assert gateway.shown() == before
    assert "new certificate refused" in gateway.log
    authority = gateway.authority
    authority.pair("localhost", "*.apps.localhost")
    gateway.call(gateway.gateway.reception.reload_certificates)
    assert gateway.shown() != before


@pytest.mark.parametrize("how", BAD)
def test_it_does_not_start_with_a_bad_certificate(gateway: Encrypted, how: str) -> None:
    spoiled(gateway.authority, how)
    with pytest.raises(CannotStart, match="GATEWAY_TLS_CERT_FILE"):
        Certificates(gateway.config, gateway.gateway.log)


# ---- plain http beside it ----
@pytest.mark.parametrize(
    ("host", "target"),
    [("localhost", "https://localhost:{}"), ("alpha1234.apps.localhost", "https://alpha1234.apps.localhost:{}")],
)
def test_plain_http_is_sent_to_https(gateway: Encrypted, host: str, target: str) -> None:
    _secure, plain = gateway.gateway.ports
    with Wire(socket.create_connection(("127.0.0.1", plain), timeout=10)) as wire:
        wire.send(request("GET", "/lab/tree/a%2Fb?x=1", f"{host}:{plain}"))
        reply = wire.reply()
    assert reply.status == 308
    assert reply.get("Location") == target.format(gateway.port) + "/lab/tree/a%2Fb?x=1"
    assert not reply.cookies


@pytest.mark.parametrize(("host", "method", "status"), [("elsewhere.example", "GET", 421), ("localhost", "POST", 403)])
def test_nothing_else_is_answered_in_plain_http(gateway: Encrypted, host: str, method: str, status: int) -> None:
    with Wire(socket.create_connection(("127.0.0.1", gateway.gateway.ports[1]), timeout=10)) as wire:
        wire.send(request(method, "/", host))
        assert wire.reply().status == status
    assert not gateway.portal.web_requests


# ---- settings ----
@pytest.mark.parametrize(
    "change",
    [
        {"GATEWAY_TLS_CERT_FILE": "a.pem"},
        {"GATEWAY_TLS_KEY_FILE": "a.key"},
        {"GATEWAY_TLS_CERT_FILE": "a.pem,b.pem", "GATEWAY_TLS_KEY_FILE": "a.key"},
        {"GATEWAY_TLS_CERT_FILE": "a.pem", "GATEWAY_TLS_KEY_FILE": "a.key", "PORTAL_URL": "http://localhost:8000"},
        {"GATEWAY_REDIRECT_LISTEN": "everywhere:80"},
    ],
)
def test_half_a_setting_stops_the_start(change: dict[str, str]) -> None:
    with pytest.raises(CannotStart):
        read({**GOOD, "PORTAL_URL": "https://localhost:8000", **change})


def test_many_clients_at_once_are_served_in_tls(gateway: Encrypted) -> None:
    statuses: list[int] = []

    def ask() -> None:
        for _ in range(5):
            statuses.append(gateway.get(host=f"localhost:{gateway.port}").status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 40


# ---- by https only ----
def test_every_page_of_ours_tells_browsers_to_come_by_https_only(authority: Authority) -> None:
    """As the portal's own pages do; never in the clear, where anybody could say it (RFC 6797 §7.2)."""
    with Encrypted(authority, hsts=True) as gateway:
        gateway.instance()
        _sid, cookie = gateway.session()
        own = [
            gateway.navigate("/"),  # to the portal
            gateway.get("/"),
            gateway.get("/", host="elsewhere.example"),
            gateway.get("/.portal/no", Cookie=cookie),
            gateway.get("/", method="TRACE"),
        ]
        assert {reply.status for reply in own} >= {303, 403, 404, 405, 421}
        assert {reply.get("Strict-Transport-Security") for reply in own} == {"max-age=31536000; includeSubDomains"}
        assert gateway.same_origin(cookie=cookie).get("Strict-Transport-Security") == ""
        with Wire(socket.create_connection(("127.0.0.1", gateway.doors[1].port), timeout=10)) as plain:
            plain.send(request("GET", "/", f"localhost:{gateway.port}"))
            reply = plain.reply()
        assert (reply.status, reply.get("Strict-Transport-Security")) == (308, "")


def test_in_the_demo_nobody_is_told_to_come_by_https_only(gateway: Encrypted) -> None:
    assert gateway.navigate("/").get("Strict-Transport-Security") == ""


def test_outside_the_demo_https_only_is_said() -> None:
    keys = {"GATEWAY_TOKEN": "t" * 32, "INSTANCE_KEY": "k" * 32}
    assert not read(GOOD).hsts
    assert read({**GOOD, **keys, "BEAMPORT_DEMO": "", "PORTAL_URL": "https://p.example", "APPS_DOMAIN": "a.net"}).hsts
