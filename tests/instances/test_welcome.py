"""What the first notebook says of the chosen runs: what lies here first, the rest in a line."""

from __future__ import annotations

import json

import pytest

from instances.welcome import RunInfo, notebook

HERE = [RunInfo("p7", 4, "Lysozyme", "/work/data/p7/r0004"), RunInfo("p9", None, "Silica", "/work/data/p9")]
AWAY = [RunInfo("p7", 1, "", ""), RunInfo("p7", 2, "", ""), RunInfo("p8", None, "", "")]


def first_cell(runs: list[RunInfo]) -> str:
    return str(json.loads(notebook("Title", runs))["cells"][0]["source"])


def test_what_is_mounted_comes_first_and_the_rest_in_a_line() -> None:
    said = first_cell([AWAY[0], HERE[0], *AWAY[1:], HERE[1]])
    assert said.splitlines()[2:] == [
        "Mounted read-only:",
        "",
        "| run | title | folder |",
        "|---|---|---|",
        "| p7 run 4 | Lysozyme | `/work/data/p7/r0004` |",
        "| p9 | Silica | `/work/data/p9` |",
        "",
        "Also chosen, with no files here: p7 run 1, 2; p8.",
    ]


@pytest.mark.parametrize(("runs", "sentence"), [(HERE, ""), (AWAY, "Chosen, with no files here: p7 run 1, 2; p8.")])
def test_it_says_nothing_of_what_there_is_not(runs: list[RunInfo], sentence: str) -> None:
    said = first_cell(runs)
    assert ("Mounted" in said) == (runs is HERE)
    assert ("no files" in said) == bool(sentence)
    assert said.endswith(sentence)
