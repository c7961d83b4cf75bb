"""`manage.py up` outside the demo: one host, its own TLS, somebody else's provider; and what it refuses."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

from portal.embedded.people import portal_person
from tests.gateway.authority import Authority
from tests.portals import OURS, ROOT, free_port, state_folder, until

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def state() -> Iterator[Path]:
    with state_folder("bpo-") as folder:
        yield folder


def environment(state: Path, port: int) -> dict[str, str]:
    """What an operator sets, with a certificate of a CA of the site's own."""
    providers = Path(shutil.copy(ROOT / "deploy" / "providers" / "keycloak.toml", state))
    secret = state / "client_secret_sso"
    secret.write_text("from the provider\n")
    secret.chmod(0o600)
    os.chown(secret, portal_person().uid, -1)
    pair = Authority(state).pair("portal.example.org", "*.apps-example.org")
    for path in (pair.certificate, pair.key):
        path.chmod(0o644)
    given = {key: value for key, value in os.environ.items() if key not in (*OURS, "BEAMPORT_DEMO")}
    return given | {
        "BEAMPORT_STATE": str(state),
        "PORTAL_URL": f"https://portal.example.org:{port}",
        "APPS_DOMAIN": f"apps-example.org:{port}",
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "GATEWAY_TLS_CERT_FILE": str(pair.certificate),
        "GATEWAY_TLS_KEY_FILE": str(pair.key),
        "BEAMPORT_PROVIDERS": str(providers),
    }


@dataclass
class Answer:
    status: int
    headers: Message
    text: str


def get(state: Path, port: int, path: str) -> Answer:
    """Ask as a browser would that trusts the site's CA."""
    trusted = ssl.create_default_context(cafile=str(state / "authority.pem"))
    plain = socket.create_connection(("127.0.0.1", port), 20)
    with plain, trusted.wrap_socket(plain, server_hostname="portal.example.org") as encrypted:
        encrypted.sendall(f"GET {path} HTTP/1.1\r\nHost: portal.example.org:{port}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(encrypted)
        answer.begin()
        return Answer(answer.status, answer.headers, answer.read().decode())


def up(given: dict[str, str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(ROOT / "manage.py"), "up"],
        env=given,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **options,
    )


@pytest.mark.root
def test_it_serves_https_with_a_certificate_of_its_own(state: Path) -> None:
    port = free_port()
    parent, lines = up(environment(state, port)), []
    threading.Thread(target=lambda: lines.extend(parent.stdout or ()), daemon=True).start()
    try:
        until(lambda: any("Ready: https" in line for line in lines) or parent.poll() is not None, 120)
        assert parent.poll() is None, "".join(lines)
        page = get(state, port, "/")
        assert page.status == 200
        assert "max-age=31536000" in (page.headers["Strict-Transport-Security"] or "")
        style = re.search(r'href="(/static/beamport/portal\.[0-9a-f]{12}\.css)"', page.text)
        assert style is not None
        assert "immutable" in (get(state, port, style.group(1)).headers["Cache-Control"] or "")
        assert not [line for line in lines if "Sign in as" in line]  # nobody is invented here
        assert not (state / "data").exists() or not any((state / "data").iterdir())
    finally:
        parent.send_signal(signal.SIGINT)
        assert parent.wait(90) == 0


@pytest.mark.root
def test_a_plain_user_is_told_that_it_takes_root(state: Path) -> None:
    given = environment(state, free_port())
    parent = up(given, user=64202, group=64202, extra_groups=[])
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == 1
    assert "Outside the demo start as root" in said
    assert "Traceback" not in said
