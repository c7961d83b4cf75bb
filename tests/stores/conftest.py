"""One portal of real processes for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.rig import Rig


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    with Rig(people=4) as running:
        yield running
