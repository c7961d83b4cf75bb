"""The portal in production's layout, installed by the page's own commands; once for all tests of this folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import Site, browser, page, visitor  # noqa: F401  (fixtures)
from tests.layout.site import APPS, DATA, LOGIN, LOGIN_PORT, PORTAL, Facility


@dataclass
class Installed(Site):
    """The site as the story walks through it."""

    facility: Facility

    @property
    def private(self) -> list[Path]:
        places = ("/etc/beamport", "/run/beamport", "/var/lib/postgresql", "/run/postgresql", "/opt/beamport")
        return [*super().private, *map(Path, places)]


@pytest.fixture(scope="session")
def running() -> Iterator[Installed]:
    facility = Facility()
    try:
        facility.install()
        state, root = Path("/var/lib/beamport"), facility.machine.root
        yield Installed(
            f"https://{PORTAL}",
            f"https://{LOGIN}:{LOGIN_PORT}",
            APPS,
            443,
            state,
            root / state.relative_to("/"),
            root / DATA.relative_to("/"),
            facility,
        )
        print("\n".join(f"{seconds:6.1f} s  {section}" for section, seconds in facility.took.items()))
    finally:
        facility.close()


@pytest.fixture(scope="module")
def chromium(running: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser in the machine's network that trusts the site's two certificates."""
    started = tmp_path_factory.mktemp("browser") / "chromium"
    network = f"/proc/{running.facility.machine.pid}/ns/net"
    started.write_text(f'#!/bin/sh\nexec nsenter --net={network} {shlex.quote(shutil.which("chromium") or "")} "$@"\n')
    started.chmod(0o755)
    names = ", ".join(f"MAP {name} 127.0.0.1" for name in (PORTAL, LOGIN, f"*.{APPS}"))
    trusted = ",".join(running.facility.trusted)
    with browser(started, f"--host-resolver-rules={names}", f"--ignore-certificate-errors-spki-list={trusted}") as one:
        yield one
