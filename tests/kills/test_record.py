"""A long matrix is done in parts: what was done is not done again, and all parts make one table."""

from __future__ import annotations

from pathlib import Path

from tests.kills.record import Record


def test_the_next_part_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    file = str(tmp_path / "kills.jsonl")
    first = Record.read(file)
    assert first.wanting("web", ["create", "stop"], 2) == ["create", "stop"]
    first.add("web", {"create": "active", "stop": "stopped"})
    first.add("web", {"stop": "stopped"})
    first.add("worker", {"stop": "error lost"})
    then = Record.read(file)
    assert then.wanting("web", ["create", "stop"], 2) == ["create"]
    assert then.wanting("worker", ["create", "stop"], 1) == ["create"]
    then.add("web", {"create": "unavailable"})
    assert then.lines("web")[:2] == [
        "web              create    2 kills: 1 active, 1 unavailable",
        "web              stop      2 kills: 2 stopped",
    ]
    assert Record.read(file).of("worker") == [{"stop": "error lost"}]
