"""Where the children's code comes from, and which addresses a start uses."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded import stack
from portal.embedded.people import CannotStart, gateway_person, portal_person
from portal.embedded.stack import Site
from portal.embedded.state import ROOT, State


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bpk-", dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("BEAMPORT_DEMO", "PORT", "PORTAL_URL", "APPS_DOMAIN", "OIDC_ISSUER", "GATEWAY_LISTEN"):
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
    monkeypatch.setattr(stack, "ROOT", checkout)
    state = State(folder, portal_person(), gateway_person())
    copied = stack.code_folder(state)
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
    assert stack.code_folder(state) == checkout


def test_the_demo_takes_two_ports_and_stays_on_loopback(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEAMPORT_DEMO", "1")
    clean.setenv("PORT", "8200")
    clean.setenv("GATEWAY_LISTEN", "0.0.0.0:80")
    site = Site.read()
    assert site.ports() == [8200, 8201]
    assert (site.portal_url, site.apps_domain) == ("http://localhost:8200", "apps.localhost:8200")
    assert site.issuer == "http://127.0.0.1:8201"
    assert {part.rpartition(":")[0] for part in site.listen.split(",")} <= {"127.0.0.1", "[::1]"}


def test_another_issuer_means_no_provider_of_ours(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEAMPORT_DEMO", "1")
    clean.setenv("OIDC_ISSUER", "https://login.example")
    site = Site.read()
    assert not site.own_provider
    assert site.ports() == [8000]


def test_outside_the_demo_the_operator_says_where_to_listen(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("PORTAL_URL", "https://portal.example/")
    clean.setenv("OIDC_ISSUER", "https://login.example")
    clean.setenv("GATEWAY_LISTEN", "10.0.0.5:8080")
    site = Site.read()
    assert (site.listen, site.portal_url, site.apps_domain) == (
        "10.0.0.5:8080",
        "https://portal.example",
        "apps.portal.example",
    )


@pytest.mark.parametrize("port", ["0", "65535", "-1", "http"])
def test_a_port_that_is_none_is_refused(port: str, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("BEAMPORT_DEMO", "1")
    clean.setenv("PORT", port)
    with pytest.raises(CannotStart, match="PORT must be a number"):
        Site.read()
