"""The kill matrix in full: each process at KILLS_ROUNDS (20) random moments of all five verbs. An hour and a half."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.kills.matrix import VERBS, WANTED, Line

ROUNDS = int(os.environ.get("KILLS_ROUNDS", "20"))
VICTIMS = os.environ.get("KILLS_VICTIMS", "web worker redis postgres gateway supervisor up").split()

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


def test_twenty_moments_of_each_process_and_each_verb(line: Line) -> None:
    became: Counter[tuple[str, str, str]] = Counter()
    for number in range(ROUNDS):
        for victim in VICTIMS:
            outcome = line.round(victim)
            became.update((victim, verb, outcome[verb]) for verb in VERBS)
            _look_after(line, victim, outcome)
            print(f"{number + 1} of {ROUNDS}: {victim} {outcome}", flush=True)
    for (victim, verb, what), times in sorted(became.items()):
        print(f"{victim:10} {verb:8} {what:32} {times}")


def _look_after(line: Line, victim: str, outcome: dict[str, str]) -> None:
    """See what a kill did to the verbs and to the witness's notebook, and make ready for the next."""
    if victim == "supervisor":
        stopped = "stopped supervisor-restarted"
        assert all(what in (WANTED[verb], stopped) for verb, what in outcome.items()), outcome
        line.mend()
        return
    assert outcome == WANTED, victim
    if victim in ("gateway", "up"):
        line.witness.comes_back()
    else:
        assert line.witness.answers()
