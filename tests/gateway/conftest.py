"""One gateway for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.harness import Harness


@pytest.fixture
def gateway() -> Iterator[Harness]:
    with Harness() as harness:
        yield harness
