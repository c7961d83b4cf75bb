"""Where the children's code comes from, and which addresses a start uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded import checkout as code
from portal.embedded.addresses import Site
from portal.embedded.people import CannotStart, gateway_person, portal_person
from portal.embedded.state import ROOT, State


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bpk-", dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        "BEAMPORT_DEMO",
        "PORT",
        "PORTAL_URL",
        "APPS_DOMAIN",
        "BEAMPORT_PROVIDERS",
        "GATEWAY_LISTEN",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.root
def test_a_checkout_that_plain_users_cannot_read_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = folder / "checkout"
    for name in ("portal", "instances", "auth", "experiments"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / ".git").mkdir()
    (checkout / "tests").mkdir()
    checkout.chmod(0o700)
    monkeypatch.setattr(code, "ROOT", checkout)
    state = State(folder, portal_person(), gateway_person())
    copied = code.code_folder(state)
    assert copied == folder / "code"
    assert sorted(path.name for path in copied.iterdir()) == ["auth", "experiments", "instances", "portal"]
    done = subprocess.run(
        [sys.executable, "-c", "import portal.env; print(portal.env.__file__)"],
        env={"PYTHONPATH": str(copied)},
        cwd="/",
        capture_output=True,
        text=True,
        **state.gateway.ids(),
    )
    assert done.stdout.strip() == str(copied / "portal" / "env.py"), done.stderr
    checkout.chmod(0o755)
    assert code.code_folder(state) == checkout


def test_the_demo_takes_two_ports_and_stays_on_loopback(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEAMPORT_DEMO", "1")
    clean.setenv("PORT", "8200")
    clean.setenv("GATEWAY_LISTEN", "0.0.0.0:80")
    site = Site.read()
    assert site.ports() == [8200, 8201]
    assert (site.portal_url, site.apps_domain) == ("http://localhost:8200", "apps.localhost:8200")
    assert site.issuer == "http://127.0.0.1:8201"
    assert {part.rpartition(":")[0] for part in site.listen.split(",")} <= {"127.0.0.1", "[::1]"}


def test_the_demos_provider_stands_beside_those_of_the_file(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEAMPORT_DEMO", "1")
    clean.setenv("BEAMPORT_PROVIDERS", "/etc/beamport/providers.toml")
    assert Site.read().ports() == [8000, 8001]


def test_outside_the_demo_the_operator_says_where_to_listen(clean: pytest.MonkeyPatch) -> None:
    clean.setattr(os, "geteuid", lambda: 0)
    clean.setenv("PORTAL_URL", "https://portal.example/")
    clean.setenv("BEAMPORT_PROVIDERS", "/etc/beamport/providers.toml")
    clean.setenv("GATEWAY_LISTEN", "10.0.0.5:8080")
    site = Site.read()
    assert (site.listen, site.portal_url, site.apps_domain) == (
        "10.0.0.5:8080",
        "https://portal.example",
        "apps.portal.example",
    )


def test_outside_the_demo_a_file_of_providers_is_asked_for(clean: pytest.MonkeyPatch) -> None:
    clean.setattr(os, "geteuid", lambda: 0)
    clean.setenv("PORTAL_URL", "https://portal.example")
    with pytest.raises(CannotStart, match="BEAMPORT_PROVIDERS"):
        Site.read()


def test_outside_the_demo_a_plain_user_is_refused(clean: pytest.MonkeyPatch) -> None:
    clean.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotStart, match="start as root"):
        Site.read()


@pytest.mark.parametrize(
    ("listen", "reached"),
    [("0.0.0.0:80", ("127.0.0.1", 80)), ("[::]:81,10.0.0.5:82", ("::1", 81)), ("10.0.0.5:83", ("10.0.0.5", 83))],
)
def test_the_gateway_is_asked_where_it_listens(listen: str, reached: tuple[str, int]) -> None:
    assert Site(False, 8000, "https://portal.example", "", listen).first_listener == reached


@pytest.mark.parametrize("port", ["0", "65535", "-1", "http"])
def test_a_port_that_is_none_is_refused(port: str, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEAMPORT_DEMO", "1")
    clean.setenv("PORT", port)
    with pytest.raises(CannotStart, match="PORT must be a number"):
        Site.read()
