"""All labs side by side for one run, and the portal that has each of them as a provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auth.models import Facility, Group
from auth.oidc import http
from tests.auth.test_demo_provider import folder
from tests.factories.auth import FacilityFactory
from tests.factories.rights import GroupFactory, GroupRoleFactory, GroupRuleFactory
from tests.gateway.authority import Authority
from tests.labs import setup
from tests.labs.canaille import Canaille
from tests.labs.demo import Demo
from tests.labs.keycloak import Keycloak
from tests.labs.lab import Lab
from tests.labs.satosa import Satosa
from tests.labs.visitor import Visitor

__all__ = ["folder"]

LABS: dict[str, type[Lab]] = {lab.slug: lab for lab in (Demo, Satosa, Canaille, Keycloak)}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def labs(
    live_server: Any, folder: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Lab]]:
    """All of them, started at once; who needs one waits for it."""
    place, programs = tmp_path_factory.mktemp("labs"), setup.set_up()
    running = {slug: lab(place / slug, live_server.url, programs, authority) for slug, lab in LABS.items()}
    try:
        for lab in running.values():
            lab.start()
        yield running
    finally:
        for lab in running.values():
            lab.stop()


@pytest.fixture
def portal(
    labs: dict[str, Lab],
    live_server: Any,
    authority: Authority,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The portal's address. It trusts the labs' authority as the operator would have it: SSL_CERT_FILE."""
    demo = labs["demo"]
    assert isinstance(demo, Demo)
    file = tmp_path / "providers.toml"
    file.write_text("".join(lab.toml() for lab in labs.values() if lab is not demo))
    settings.PORTAL_URL = live_server.url
    settings.DEMO_PROVIDER = demo.settings()
    settings.PROVIDERS_FILE = str(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    http._tls.cache_clear()
    yield live_server.url
    http._tls.cache_clear()


@pytest.fixture
def group(portal: str) -> Group:
    """Beamline staff of one facility, by a rule for each provider in its own words."""
    facility: Facility = FacilityFactory(slug="xfel")
    group: Group = GroupFactory(slug="beamline")
    GroupRoleFactory(group=group, role="instrument-scientist", facility=facility)
    for slug, lab in LABS.items():
        GroupRuleFactory(provider=slug, group=group, **lab.rule)
    return group


@pytest.fixture
def browser(authority: Authority) -> Iterator[Callable[[], Visitor]]:
    """A browser of somebody; call again for another one."""
    opened: list[Visitor] = []

    def another() -> Visitor:
        opened.append(Visitor(authority.path))
        return opened[-1]

    yield another
    for visitor in opened:
        visitor.session.close()
