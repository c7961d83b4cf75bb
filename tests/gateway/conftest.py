"""One gateway for each test that asks for it, in the test's process or as processes of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.harness import Harness
from tests.gateway.processes import Front, Service


@pytest.fixture
def gateway() -> Iterator[Harness]:
    with Harness() as harness:
        yield harness


@pytest.fixture
def service(gateway: Harness) -> Iterator[Service]:
    yield (made := Service(gateway))
    made.close()


@pytest.fixture
def front(gateway: Harness, service: Service) -> Iterator[Front]:
    with Front(gateway, GATEWAY_PROCESSES="2") as made:
        yield made
