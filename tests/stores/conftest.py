"""One portal of real processes for all of these tests."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.stores.rig import Rig

#: characters of each process's log that a failure shows
_TAIL = 4000


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    with Rig(people=4) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the processes said: their folder is gone afterwards."""
    report = yield
    rig: Any = getattr(item, "funcargs", {}).get("rig")
    if report.failed and rig is not None:
        for child in rig.children:
            alive = "alive" if child.alive() else "gone"
            report.sections.append((f"{child.name}, {alive}", rig.log(child)[-_TAIL:]))
    return report
