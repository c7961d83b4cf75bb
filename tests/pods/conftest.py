"""The whole portal, a Chromium and a cluster with a real node in one room; once for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from instances.providers.kubernetes import build as images
from tests.browser.conftest import Running, chromium, page, start, stop, visitor  # noqa: F401  (fixtures)
from tests.labs.kubernetes import node, room
from tests.labs.kubernetes.build import build_node
from tests.labs.kubernetes.cluster import NAMESPACE, Account
from tests.labs.kubernetes.real import RealLab
from tests.pods.cluster import add_row
from tests.portals import free_port

#: homes of the provider's test, the check, the walk's two and the times', and some to spare: what was given back is
#: not used again
HOMES = 8


def settings() -> dict[str, str]:
    """Return the kernel's settings that a kubelet would change for the whole machine."""
    return {name: Path("/proc/sys", name).read_text() for name in node.TUNABLES}


@pytest.fixture(scope="session")
def before() -> dict[str, str]:
    return settings()


@pytest.fixture(scope="session")
def lab(before: dict[str, str]) -> Iterator[RealLab]:
    with RealLab(build_node()) as running:
        running.load(images.archive("jupyter"))
        running.shelve(HOMES)
        yield running


@pytest.fixture(scope="session")
def account(lab: RealLab) -> Account:
    return lab.namespace(NAMESPACE)


@pytest.fixture(scope="session")
def running(lab: RealLab, account: Account) -> Iterator[Running]:
    state = Path(os.environ[room.FOLDER]) / "p"
    state.mkdir(mode=0o711)
    portal = start(state, free_port(), 600)
    try:
        add_row(portal, lab, account, images.name("jupyter"))
        yield portal
    finally:
        stop(portal)
