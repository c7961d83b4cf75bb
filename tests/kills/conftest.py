"""One portal for each worker of the suite, and a line of instances for each file that kills something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kills.agreement import agree
from tests.kills.matrix import Line, seed
from tests.kills.site import Site, site


@pytest.fixture(scope="session")
def portal() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture(scope="module")
def line(portal: Site) -> Iterator[Line]:
    line = Line.begin(portal, seed())
    yield line
    line.account.delete_all()
    agree(portal)
