"""One call to a provider: where it may go, what it says, how much it takes; without portal and database."""

from __future__ import annotations

import gc
import ipaddress
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from auth.oidc import http
from auth.oidc.errors import LoginError, ProviderFailed, ProviderSlow
from auth.providers import Provider
from tests.auth.hostile_op import HostileOP, Reply
from tests.gateway.authority import Authority

PROVIDER = Provider("sso", "Facility account", "https://provider.example", "beamport", "secret")
PRIVATE = replace(PROVIDER, slug="private", allow_private=True)


LIMIT = 1000


@pytest.fixture
def op() -> Iterator[HostileOP]:
    with HostileOP() as op:
        yield op


def get(url: str, provider: Provider = PROVIDER) -> http.Answer:
    return http.call(provider, "GET", url, limit=LIMIT)


# ---- what is sent, and what comes back ----
class Heard:
    """What the last request said."""

    def __init__(self, op: HostileOP) -> None:
        op.answer = self.answer  # type: ignore[method-assign]

    def answer(self, method: str, path: str, headers: Any, body: str) -> Reply:
        self.method, self.path, self.headers, self.body = method, path, dict(headers.items()), body
        return Reply(b"{}", 201, "Application/JSON; charset=UTF-8")


def test_a_form_is_sent_as_one_and_the_answer_comes_whole(op: HostileOP) -> None:
    heard = Heard(op)
    given = {"Authorization": "Basic eA=="}
    form = {"code": "a&b", "scope": "é"}
    answer = http.call(PRIVATE, "POST", f"{op.issuer}/token?a=1", limit=LIMIT, headers=given, form=form)
    assert answer == http.Answer(201, "application/json; charset=utf-8", b"{}")
    assert (heard.method, heard.path, heard.body) == ("POST", "/token", "code=a%26b&scope=%C3%A9")
    assert heard.headers == {
        "Host": op.issuer.removeprefix("http://"),
        "Authorization": "Basic eA==",
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": "23",
        "Accept-Encoding": "identity",
        "User-Agent": "beamport",
    }
    assert given == {"Authorization": "Basic eA=="}


def test_a_question_has_no_body(op: HostileOP) -> None:
    heard = Heard(op)
    get(op.issuer, PRIVATE)
    assert (heard.method, heard.path, heard.body) == ("GET", "/", "")
    assert heard.headers.keys() == {"Host", "Accept-Encoding", "User-Agent"}


def test_the_query_goes_along(op: HostileOP, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    pool = http.urllib3.HTTPConnectionPool
    real = pool.urlopen

    def urlopen(self: Any, method: str, url: str, **more: Any) -> Any:
        asked.append(url)
        return real(self, method, url, **more)

    monkeypatch.setattr(pool, "urlopen", urlopen)
    get(f"{op.issuer}/jwks?a=1&b=2", PRIVATE)
    get(f"{op.issuer}/jwks", PRIVATE)
    assert asked == ["/jwks?a=1&b=2", "/jwks"]


def test_an_answer_without_a_kind_is_taken(op: HostileOP) -> None:
    op.replies["/x"] = Reply(b"x", content_type="")
    assert get(f"{op.issuer}/x", PRIVATE) == http.Answer(200, "", b"x")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_leads_nowhere(op: HostileOP, status: int) -> None:
    op.replies["/moved"] = Reply(status=status, headers={"Location": f"{op.issuer}/elsewhere"})
    assert get(f"{op.issuer}/moved", PRIVATE).status == status
    assert not op.asked["/elsewhere"]


def test_what_fails_is_not_tried_again(op: HostileOP) -> None:
    op.replies["/x"] = Reply(b"{", headers={"Content-Length": "100"})
    op.replies["/busy"] = Reply(status=503, headers={"Retry-After": "0"})
    with pytest.raises(ProviderFailed):
        get(f"{op.issuer}/x", PRIVATE)
    assert get(f"{op.issuer}/busy", PRIVATE).status == 503
    assert op.asked == {"/x": 1, "/busy": 1}


def test_nothing_is_unpacked(op: HostileOP) -> None:
    """A few bytes could become gigabytes."""
    packed = b"\x1f\x8b\x08\x00 whatever"
    op.replies["/x"] = Reply(packed, headers={"Content-Encoding": "gzip"})
    assert get(f"{op.issuer}/x", PRIVATE).body == packed


@pytest.mark.parametrize("limit", [LIMIT, 100_000])
def test_an_answer_has_a_size(op: HostileOP, limit: int) -> None:
    op.replies["/x"] = Reply(b"x" * limit)
    assert http.call(PRIVATE, "GET", f"{op.issuer}/x", limit=limit).body == b"x" * limit
    with pytest.raises(ProviderFailed) as failed:
        http.call(PRIVATE, "GET", f"{op.issuer}/x", limit=limit - 1)
    assert failed.value.reason == "answer-too-large"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://nowhere.invalid/"])
def test_who_is_not_there_has_failed(url: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        get(url, PRIVATE)
    assert failed.value.reason == "call-failed"


@pytest.mark.parametrize("url", ["ftp://provider.example/", "file:///etc/passwd", "//provider.example/"])
def test_only_the_web_is_called(url: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        get(url, PRIVATE)
    assert failed.value.reason == "not-https"


def test_a_call_closes_what_it_opened(op: HostileOP) -> None:
    """And leaves it to no collector of garbage, which would say so."""
    op.replies["/large"] = Reply(b"x" * 200_000)
    gc.collect()  # what other tests have left
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(3):
            get(f"{op.issuer}/jwks", PRIVATE)
            with pytest.raises(ProviderFailed):
                get(f"{op.issuer}/large", PRIVATE)
        http._calls(PRIVATE.slug).submit(gc.collect).result()
    assert [str(warning.message) for warning in said] == []


# ---- where it may go ----


def test_plain_http_is_refused_outside_the_demo(op: HostileOP) -> None:
    with pytest.raises(ProviderFailed) as failed:
        get(f"{op.issuer}/jwks")
    assert failed.value.reason == "not-https"
    assert not op.asked


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "fd00::1",
                "::ffff:127.0.0.1", "0.0.0.0", "100.64.0.1", "224.0.0.1"]
)  # fmt: skip
def test_private_addresses_are_none_of_a_providers(address: str) -> None:
    assert not http.is_public(address)


@pytest.mark.parametrize("address", ["83.97.93.30", "2001:798:3::1e"])
def test_public_addresses_are(address: str) -> None:
    assert http.is_public(address)


@pytest.mark.parametrize(
    ("address", "named"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("10.2.0.1", False), ("127.0.0.1", False), ("fd00::1", True)],
)
def test_the_operator_may_name_networks_that_hold_the_provider(address: str, named: bool) -> None:
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    assert not http.is_public(address)
    assert http.is_named(replace(PROVIDER, private_networks=networks), address) == named


def test_a_name_that_leads_to_a_private_address_is_refused_before_a_byte_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        private = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: private)
        with pytest.raises(ProviderFailed) as failed:
            get(f"https://provider.example:{port}/")
        assert failed.value.reason == "private-address"
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("host", "trusted", "status"),
    [("localhost", True, 200), ("localhost", False, 0), ("127.0.0.1", True, 0)],
    ids=["known", "of an unknown authority", "of another name"],
)
def test_a_certificate_must_be_known_and_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool, status: int
) -> None:
    authority = Authority(tmp_path)
    pair = authority.pair("localhost")
    ours = ssl.create_default_context(cafile=str(authority.path) if trusted else None)
    monkeypatch.setattr(ssl, "create_default_context", lambda: ours)
    http._tls.cache_clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "do_GET", lambda handler: handler.send_error(200))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    near = replace(PROVIDER, private_networks=(ipaddress.ip_network("127.0.0.0/8"),))
    url = f"https://{host}:{server.server_address[1]}/"
    try:
        if status:
            assert get(url, near).status == status
        else:
            with pytest.raises(ProviderFailed) as failed:
                get(url, near)
            assert failed.value.reason == "call-failed"
    finally:
        server.shutdown()
        server.server_close()
        http._tls.cache_clear()


# ---- how long it may take ----
def test_it_is_five_seconds() -> None:
    """And so many calls may hang at one provider before the next one waits."""
    assert (http.DEADLINE, http.MOST_AT_ONCE) == (5.0, 8)


@pytest.mark.parametrize(
    "reply",
    [Reply(b"{}", delay=2), Reply(b"{}", trickle=0.05), Reply(b"{}", headers={"Content-Length": "9"})],
    ids=["silent", "a header byte by byte", "an end that does not come"],
)
def test_the_deadline_is_for_the_whole_call(op: HostileOP, monkeypatch: pytest.MonkeyPatch, reply: Reply) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.4)
    op.replies["/slow"] = reply
    with pytest.raises(LoginError) as failed:
        get(f"{op.issuer}/slow", PRIVATE)
    assert isinstance(failed.value, ProviderSlow | ProviderFailed)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_knows_the_deadline_too(scheme: str) -> None:
    """So that its thread comes free by itself."""
    pool, _path = http._pool(http.Guard(PRIVATE), f"{scheme}://provider.example/")
    assert pool.timeout.total == http.DEADLINE


def test_each_silence_on_the_way_is_slowness(op: HostileOP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the connection notices it before the call as a whole does."""
    monkeypatch.setattr(http, "DEADLINE", 0.2)
    op.replies["/slow"] = Reply(b"{}", delay=1)
    with pytest.raises(ProviderSlow) as failed:
        http._call(http.Guard(PRIVATE), "GET", f"{op.issuer}/slow", LIMIT, {}, None)
    assert failed.value.reason == "too-slow"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider at which one call alone may be under way."""
    http._calls.cache_clear()
    monkeypatch.setattr(http, "MOST_AT_ONCE", 1)
    yield replace(PRIVATE, slug="narrow")
    http._calls.cache_clear()


def hang(op: HostileOP, provider: Provider, monkeypatch: pytest.MonkeyPatch, trickle: float) -> None:
    """Make a call that is given up after a moment; its answer comes byte by byte, a hundred of them."""
    op.replies["/slow"] = Reply(trickle=trickle)
    monkeypatch.setattr(http, "DEADLINE", 0.2)
    with pytest.raises(ProviderSlow) as failed:
        get(f"{op.issuer}/slow", provider)
    assert failed.value.reason == "too-slow"


def test_a_call_that_was_given_up_is_cut_off(op: HostileOP, narrow: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next one would wait for it."""
    hang(op, narrow, monkeypatch, 0.1)
    monkeypatch.setattr(http, "DEADLINE", 4.0)
    assert get(f"{op.issuer}/jwks", narrow).status == 200


def test_what_cannot_be_cut_holds_so_many_threads_and_no_more(
    op: HostileOP, narrow: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gave up waiting for a thread makes no call later."""
    monkeypatch.setattr(http.Guard, "cut", lambda _: None)
    hang(op, narrow, monkeypatch, 0.02)
    with pytest.raises(ProviderSlow):
        get(f"{op.issuer}/jwks", narrow)
    monkeypatch.setattr(http, "DEADLINE", 20.0)
    assert get(f"{op.issuer}/nowhere", PRIVATE).status == 404
    assert get(f"{op.issuer}/nowhere", narrow).status == 404
    assert not op.asked["/jwks"]
