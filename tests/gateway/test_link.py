"""The link to the portal: lost, found again, and what it means meanwhile; probes, reports and who may answer."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from instances.gateway import link, probes, upstream
from instances.gateway.config import CannotStart, read
from instances.gateway.server import Gateway
from instances.gateway.upstream import Endpoint, NotConnected, Pool, Target, open_socket
from instances.lifecycle import State
from tests.gateway.harness import INSTANCE_KEY, Backend, Harness, Wire, request
from tests.ports import free_port


# ---- the link ----
def test_a_snapshot_brings_routes_sessions_and_keys(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    ours = {name: getattr(gateway.config, name) for name in ("internal", "web", "portal_url", "apps_domain")}
    with Harness(**ours) as second:
        second.port = gateway.port  # the names are the same, the address is its own
        reply = second.get(host=second.host(), Cookie=cookie, Sec_Fetch_Site="same-origin")
    assert reply.status == 200
    assert len(backend.heads) == 1
    assert "GET" not in gateway.log


def test_a_lost_stream_comes_back_with_a_snapshot(gateway: Harness) -> None:
    gateway.instance()
    sid, cookie = gateway.session()
    del gateway.portal.sessions[sid]  # withdrawn, and the message lost with the stream
    for stream in gateway.portal.streams:
        gateway.call(stream.put_nowait, None)
    gateway.until(lambda: gateway.gateway.sessions.get(sid) is None)
    assert gateway.same_origin(cookie=cookie).status == 401


def test_the_portal_says_who_it_is_because_systemd_may_hold_its_socket(gateway: Harness) -> None:
    gateway.portal.uid = 64300
    for stream in gateway.portal.streams:
        gateway.call(stream.put_nowait, None)
    gateway.until(lambda: gateway.gateway.link.portal_uid == 64300)
    assert not Gateway._may_serve(gateway.gateway, 64300)  # the harness lets anybody serve
    assert Gateway._may_serve(gateway.gateway, 200_000)


def test_a_route_that_went_while_the_link_was_down_is_closed(gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session()
    del gateway.portal.routes["alpha1234"]
    for stream in gateway.portal.streams:
        gateway.call(stream.put_nowait, None)
    gateway.until(lambda: gateway.gateway.routes.get("alpha1234") is None)
    assert gateway.same_origin(cookie=cookie).status == 503


def test_a_session_made_while_the_snapshot_is_loaded_survives_it(gateway: Harness) -> None:
    gateway.instance()
    sessions = gateway.gateway.sessions
    sid, _cookie = gateway.session()
    known = sessions.get(sid)
    assert known is not None
    gateway.call(sessions.replace, [], known.seen - 1)
    assert sessions.get(sid) is known
    gateway.call(sessions.replace, [], known.seen + 1)
    assert sessions.get(sid) is None


def test_no_heartbeat_means_a_new_stream(gateway: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.portal.silent = True
    gateway.until(lambda: not gateway.gateway.link.up.is_set())
    gateway.portal.silent = False
    gateway.until(lambda: gateway.gateway.link.up.is_set())
    assert link.SILENCE == 3.0


def test_with_the_portal_away_living_sessions_go_on_and_nothing_is_granted(gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session()
    gateway.portal.away = True
    for stream in gateway.portal.streams:
        gateway.call(stream.put_nowait, None)
    gateway.until(lambda: not gateway.gateway.link.up.is_set())
    assert gateway.same_origin(cookie=cookie).status == 200
    gateway.portal.away = False
    gateway.until(lambda: gateway.gateway.link.up.is_set())


def test_a_ticket_is_not_spent_while_there_are_no_keys_to_make_a_cookie_with(gateway: Harness) -> None:
    the_link = gateway.gateway.link
    gateway.portal.tickets["ticket"] = {"nonce": "nonce", "session": {"slug": "alpha1234", "sid": "sid"}}
    gateway.call(the_link.up.clear)
    assert gateway.run(the_link.redeem("ticket", "nonce", "alpha1234")) == (503, {})
    assert "ticket" in gateway.portal.tickets
    gateway.call(the_link.up.set)
    assert gateway.run(the_link.redeem("ticket", "nonce", "alpha1234"))[0] == 200


def test_cookies_expire_by_the_portals_clock(gateway: Harness) -> None:
    gateway.instance()
    _sid, cookie = gateway.session(life=60)
    gateway.portal.away = True
    gateway.call(gateway.gateway.clock.set, gateway.gateway.clock.now() + 120)
    assert gateway.same_origin(cookie=cookie).status == 401


# ---- probes ----
def test_a_starting_instance_is_probed_and_reported_ready(gateway: Harness) -> None:
    seen: list[bytes] = []
    backend = Backend(gateway.folder / "alpha1234.sock")

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await backend.head(reader))
        busy = len(seen) < 3
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % (b"503 Not Yet" if busy else b"200 OK"))

    backend.handler = handler
    gateway.run(backend.start())
    row = gateway.route("alpha1234", "starting", backend.path, version=7)
    gateway.until(lambda: any(path == "/ready" for path, _ in gateway.portal.calls))
    path, body = gateway.portal.calls[0]
    assert (path, body) == ("/ready", {"instance": row["instance"], "version": 7})
    assert len(seen) >= 3
    assert seen[0].startswith(b"GET /api/status HTTP/1.1\r\n")
    assert b"\r\nAuthorization: token " in seen[0]


def test_a_starting_instance_is_probed_as_soon_as_it_has_an_address(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the pause between two rounds of probes is."""
    monkeypatch.setattr(probes, "STARTING_EVERY", 3600.0)
    gateway.instance(state="starting")
    gateway.until(lambda: any(path == "/ready" for path, _ in gateway.portal.calls))
    first = len(gateway.portal.calls)
    gateway.instance("bravo1234", state="starting")
    gateway.until(lambda: len(gateway.portal.calls) > first)


def test_an_instance_is_served_as_soon_as_it_was_said_to_be_ready(gateway: Harness) -> None:
    """The answer brings the route; the stream says nothing here."""
    gateway.portal.ready_status = 409
    gateway.instance(state="starting")
    _sid, cookie = gateway.session()
    gateway.portal.ready_answer = {"route": gateway.portal.routes["alpha1234"] | {"state": "active", "version": 2}}
    gateway.portal.ready_status = 200
    gateway.until(lambda: gateway.same_origin(cookie=cookie).status == 200)


def test_a_busy_portal_is_told_again(gateway: Harness) -> None:
    gateway.portal.ready_status = 409
    gateway.instance(state="starting")
    gateway.until(lambda: len(gateway.portal.calls) >= 3)
    assert {path for path, _ in gateway.portal.calls} == {"/ready"}


def test_a_starting_instance_is_not_served(gateway: Harness) -> None:
    gateway.portal.ready_status = 409
    backend = gateway.instance(state="starting")
    _sid, cookie = gateway.session()
    assert gateway.same_origin(cookie=cookie).status == 503
    assert backend.heads == []


def test_one_probe_at_a_time(gateway: Harness) -> None:
    backend = Backend(gateway.folder / "alpha1234.sock")

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    backend.handler = hangs
    gateway.run(backend.start())
    gateway.route("alpha1234", "starting", backend.path)
    gateway.until(lambda: backend.connections == 1)
    gateway.run(asyncio.sleep(0.6))
    assert backend.connections == 1
    assert gateway.portal.calls == []


def jupyter(backend: Backend, kernels: bytes, terminals: bytes = b"[]", status: bytes = b"200 OK") -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await backend.head(reader)
        body = {b"/api/kernels": kernels, b"/api/terminals": terminals}.get(head.split(b" ")[1], b"{}")
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    backend.handler = handler


def look(gateway: Harness) -> dict[str, Any]:
    route = gateway.gateway.routes.get("alpha1234")
    assert route is not None
    row: dict[str, Any] = gateway.run(gateway.gateway.probes._look(route))
    return row


def test_the_report_says_who_answers_and_who_works(gateway: Harness) -> None:
    backend = gateway.instance()
    jupyter(
        backend,
        b'[{"execution_state": "busy", "last_activity": "2026-01-01T12:00:00.5Z"}, {"execution_state": "idle"}]',
        b'[{"name": "1", "last_activity": "2026-01-01T13:00:00Z"}]',
    )
    row = look(gateway)
    assert row["answers"] == {"jupyter": True}
    assert row["activity"] == {"busy": 1, "kernels": 2, "last_active": 1767272400.0}
    assert "activity" not in look(gateway), "asked once a minute"


@pytest.mark.parametrize(
    "kernels",
    [
        b"",
        b"{",
        b"{}",
        b'"x"',
        b"[1, null]",
        b"[" * 100_000,
        b'[{"last_activity": "never"}]',
        b'[{"last_activity": {"a": []}}]',
    ],
    ids=lambda kernels: repr(kernels[:30]),
)
def test_an_instance_that_answers_nonsense_is_not_called_idle_or_busy(gateway: Harness, kernels: bytes) -> None:
    jupyter(gateway.instance(), kernels)
    activity = look(gateway)["activity"]
    assert activity is None or (activity["busy"], activity["last_active"]) == (0, None)


@pytest.mark.parametrize("status", [b"403 Forbidden", b"500 No", b"404 Not Found"])
def test_an_error_is_no_answer(gateway: Harness, status: bytes) -> None:
    jupyter(gateway.instance(), b"[]", status=status)
    assert look(gateway)["answers"] == {"jupyter": False}


def test_an_endless_answer_to_a_probe_is_given_up(gateway: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_LIMIT", 10_000)
    backend = gateway.instance()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    backend.handler = endless
    assert look(gateway)["answers"] == {"jupyter": False}


# ---- who may stand behind a socket ----
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_a_link_in_place_of_a_socket_is_refused(folder: Path) -> None:
    with listening(folder / "portal.sock"):
        (folder / "jupyter.sock").symlink_to(folder / "portal.sock")
        with pytest.raises(OSError, match="no socket"):
            asyncio.run(open_socket(Endpoint(str(folder / "jupyter.sock"))))


@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "missing"])
def test_what_is_no_socket_is_refused(folder: Path, kind: str) -> None:
    path = folder / "jupyter.sock"
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(OSError):
        asyncio.run(open_socket(Endpoint(str(path))))


def test_who_listens_is_asked_before_a_byte_is_sent(folder: Path) -> None:
    asked: list[int] = []

    def refuse(uid: int) -> bool:
        asked.append(uid)
        return False

    with listening(folder / "jupyter.sock") as sock:
        target = Target("x", Endpoint(str(folder / "jupyter.sock")), b"", guarded=True)
        with pytest.raises(NotConnected):
            asyncio.run(Pool(refuse).connect(target))
        other, _ = sock.accept()
        assert other.recv(10) == b""
        other.close()
    assert asked == [os.getuid()]


def test_a_gateway_that_is_late_does_not_take_a_back_end_to_be_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT", 0.05)
    target = Target("web", Endpoint(str(folder / "web.sock")), b"", guarded=False)

    async def connect() -> None:
        connecting = asyncio.create_task(Pool(lambda uid: True).connect(target))
        await asyncio.sleep(0)  # it is connected, and the loop has not taken notice
        time.sleep(0.1)
        (await connecting).close()

    with listening(folder / "web.sock"):
        asyncio.run(connect())


@pytest.mark.parametrize(
    ("ours", "portal", "peer", "allowed"),
    [
        (901, 900, 20_001, True),
        (901, 900, 900, False),  # the portal's own socket
        (901, 900, 901, False),  # ours
        (901, 0, 0, False),
        (0, 0, 0, False),
        (0, 0, 20_001, True),
        (1000, 1000, 1000, True),  # all is one plain user
    ],
)
def test_the_portal_and_the_gateway_are_no_instances(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch, ours: int, portal: int, peer: int, allowed: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ours)
    monkeypatch.setattr(gateway.gateway.link, "portal_uid", portal)
    assert Gateway._may_serve(gateway.gateway, peer) is allowed


def test_the_portals_uid_is_learnt_from_its_socket(gateway: Harness) -> None:
    assert gateway.gateway.link.portal_uid == os.getuid()


def test_a_path_longer_than_a_socket_address_is_reached(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    here = os.getcwd()
    os.chdir(deep)
    try:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("s.sock")
        sock.listen()
    finally:
        os.chdir(here)
    assert stat.S_ISSOCK((deep / "s.sock").lstat().st_mode)
    asyncio.run(open_socket(Endpoint(str(deep / "s.sock")))).close()
    sock.close()


# ---- routes and configuration ----
def test_an_instances_secret_follows_its_epoch(gateway: Harness) -> None:
    from portal.lib.hashing import instance_secret

    row = gateway.route("alpha1234", "active", Path("/x"), secret_epoch=3)
    route = gateway.gateway.routes.get("alpha1234")
    assert route is not None
    assert route.services["jupyter"].secret == instance_secret(INSTANCE_KEY, row["instance"], 3, "jupyter")
    assert route.state is State.ACTIVE


GOOD = {
    "GATEWAY_LISTEN": "127.0.0.1:8000,[::1]:8000",
    "PORTAL_URL": "http://localhost:8000",
    "WEB_UPSTREAM": "unix:/run/web.sock",
    "INTERNAL_URL": "unix:///run/internal.sock",
    "GATEWAY_TOKEN": "t",
    "INSTANCE_KEY": "k",
    "BEAMPORT_DEMO": "1",
}


def test_the_environment_is_read() -> None:
    config = read(GOOD)
    assert config.listen == (("127.0.0.1", 8000), ("::1", 8000))
    assert config.apps_domain == "apps.localhost:8000"
    assert (config.web.path, config.internal.path) == ("/run/web.sock", "/run/internal.sock")


def test_secrets_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "instance_key").write_text("from-the-state\n")
    for name in ("token", "secrets/instance_key"):
        (tmp_path / name).chmod(0o600)
    env = {name: value for name, value in GOOD.items() if name not in ("GATEWAY_TOKEN", "INSTANCE_KEY")}
    config = read({**env, "GATEWAY_TOKEN_FILE": str(tmp_path / "token"), "BEAMPORT_STATE": str(tmp_path)})
    assert (config.token, config.instance_key) == ("from-a-file", b"from-the-state")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"GATEWAY_LISTEN": "0.0.0.0:8000"}, "loopback"),
        ({"GATEWAY_LISTEN": "localhost:8000"}, "GATEWAY_LISTEN"),
        ({"GATEWAY_LISTEN": "127.0.0.1"}, "GATEWAY_LISTEN"),
        ({"PORTAL_URL": ""}, "PORTAL_URL"),
        ({"PORTAL_URL": "localhost:8000"}, "PORTAL_URL"),
        ({"PORTAL_URL": "http://localhost/x"}, "PORTAL_URL"),
        ({"GATEWAY_TOKEN": ""}, "GATEWAY_TOKEN"),
        ({"GATEWAY_TOKEN_FILE": "/nowhere"}, "both set"),
        ({"WEB_UPSTREAM": "web"}, "WEB_UPSTREAM"),
        ({"GATEWAY_CONNECTIONS": "many"}, "GATEWAY_CONNECTIONS"),
        ({"GATEWAY_TRUSTED_PROXIES": "x"}, "GATEWAY_TRUSTED_PROXIES"),
    ],
)
def test_a_wrong_value_stops_the_start_with_a_sentence(change: dict[str, str], word: str) -> None:
    with pytest.raises(CannotStart, match=word):
        read(GOOD | change)


PRODUCTION = {
    **GOOD,
    "BEAMPORT_DEMO": "0",
    "GATEWAY_LISTEN": "0.0.0.0:443",
    "PORTAL_URL": "https://portal.example",
    "APPS_DOMAIN": "apps-example.net",
    "GATEWAY_TOKEN": "t" * 48,
    "INSTANCE_KEY": "k" * 48,
}


def test_production_settings_are_taken() -> None:
    assert read(PRODUCTION).scheme == "https"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"PORTAL_URL": "http://portal.example"}, "PORTAL_URL is not https"),
        ({"APPS_DOMAIN": "portal.example"}, "APPS_DOMAIN"),
        ({"APPS_DOMAIN": "example:8443"}, "APPS_DOMAIN"),
        ({"APPS_DOMAIN": "apps.portal.example"}, "APPS_DOMAIN"),
        ({"GATEWAY_TOKEN": "t" * 31}, "GATEWAY_TOKEN is shorter"),
        ({"INSTANCE_KEY": "k" * 31}, "INSTANCE_KEY is shorter"),
        ({"INSTANCE_KEY": "t" * 48}, "are the same"),
    ],
)
def test_outside_the_demo_nothing_unsafe_starts(change: dict[str, str], word: str) -> None:
    with pytest.raises(CannotStart, match=word):
        read(PRODUCTION | change)


def test_a_taken_port_is_said_with_what_to_do(gateway: Harness) -> None:
    second = Gateway(gateway.config, gateway.gateway.log)
    with pytest.raises(CannotStart, match="taken"):
        gateway.run(second.start())


# ---- the process ----
def test_the_process_listens_says_so_and_stops_when_told(tmp_path: Path) -> None:
    port = free_port()
    env = GOOD | {
        "PATH": os.environ["PATH"],
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "PORTAL_URL": f"http://localhost:{port}",
        "WEB_UPSTREAM": f"unix:{tmp_path}/none.sock",
        "INTERNAL_URL": f"unix://{tmp_path}/none.sock",
    }
    process = subprocess.Popen([sys.executable, "-m", "instances.gateway"], env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["event"] == "gateway listens"
        with Wire(socket.create_connection(("127.0.0.1", port), timeout=10)) as wire:
            wire.send(request("GET", "/", f"localhost:{port}"))
            assert wire.reply().status == 502
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stderr.close()


def test_the_process_that_cannot_start_says_why() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instances.gateway"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == "PORTAL_URL is not set. Set it, or PORTAL_URL_FILE with the path of a file that holds it.\n"


def test_the_process_loads_no_django() -> None:
    code = "import sys, instances.gateway.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "asyncio" in loaded
    assert not loaded & {"django", "redis", "celery", "channels", "auth"}
