"""Fixtures for tests on the lab: one cluster for each process of the suite that needs it, up in some seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.kubernetes import build
from tests.labs.kubernetes.cluster import NAMESPACE, Account, Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The cluster, level a. What a test freezes or kills it heals, by the fixture `healed`."""
    with Lab(build.folder()) as running:
        yield running


@pytest.fixture(scope="session")
def account(lab: Lab) -> Account:
    """The portal's restricted account in the namespace of deploy/kubernetes."""
    return lab.namespace(NAMESPACE)


@pytest.fixture
def healed(lab: Lab) -> Iterator[Lab]:
    """The cluster, for a test that breaks some of it."""
    yield lab
    lab.heal()
