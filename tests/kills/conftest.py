"""One portal for each worker of the suite, and one line of instances for all files that kill something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kills.matrix import Line, lined
from tests.kills.site import Site, site


@pytest.fixture(scope="session")
def portal() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture(scope="session")
def line(portal: Site) -> Iterator[Line]:
    with lined(portal) as line:
        yield line
