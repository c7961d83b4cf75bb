"""Which provider object a row has, and how long."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from instances.providers import registry

KINDS = {"lasting": f"{__name__}.Lasting", "plain": f"{__name__}.Plain"}


class Plain:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options


class Lasting(Plain):
    """Holds something, and is made from a file."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.closed = threading.Event()
        self.made_at = self._time()

    def _time(self) -> int:
        return Path(self.options["file"]).stat().st_mtime_ns if "file" in self.options else 0

    def is_outdated(self) -> bool:
        return self._time() != self.made_at

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"name": request.node.name, "namespace": "one"}


def test_a_row_keeps_its_provider(options):
    first = registry.get("lasting", options, KINDS)
    assert registry.get("lasting", dict(options), KINDS) is first
    assert registry.get("lasting", options | {"name": "another row"}, KINDS) is not first
    assert not first.closed.is_set()


def test_a_row_with_other_options_has_another_one_and_the_first_ends(options):
    first = registry.get("lasting", options, KINDS)
    second = registry.get("lasting", options | {"namespace": "two"}, KINDS)
    assert second is not first
    assert second.options["namespace"] == "two"
    assert first.closed.wait(10)
    assert not second.closed.is_set()


def test_a_file_that_changes_makes_another_one(options, tmp_path):
    file = tmp_path / "credentials"
    file.write_text("a")
    options["file"] = str(file)
    first = registry.get("lasting", options, KINDS)
    os.utime(file, ns=(1, 1))
    assert registry.get("lasting", options, KINDS) is not first
    assert first.closed.wait(10)


def test_what_holds_something_can_be_dropped_and_what_holds_nothing_stays(options):
    lasting, plain = (registry.get(kind, options, KINDS) for kind in KINDS)
    for kind in KINDS:
        registry.drop(kind, options, KINDS)
        registry.drop(kind, options, KINDS)
    assert lasting.closed.wait(10)
    assert registry.get("lasting", options, KINDS) is not lasting
    assert registry.get("plain", options, KINDS) is plain
