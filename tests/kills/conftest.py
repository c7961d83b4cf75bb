"""A portal with a line of instances on it, once a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kills.matrix import Line, seed
from tests.kills.site import Site, site


@pytest.fixture(scope="module")
def portal() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.fixture(scope="module")
def line(portal: Site) -> Line:
    return Line.begin(portal, seed())
