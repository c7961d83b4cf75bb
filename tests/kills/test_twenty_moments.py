"""The kill matrix in full: each process at KILLS_ROUNDS (20) random moments of each verb; one portal for all.

In parts: KILLS_VICTIMS="web worker" takes some processes, KILLS_VERBS="stop delete" some verbs, and KILLS_RECORD=file
keeps what is done, so that the same command goes on where it was ended.
"""

from __future__ import annotations

import os

import pytest

from tests.kills.matrix import VERBS, VICTIMS, Line, expect
from tests.kills.record import Record

ROUNDS = int(os.environ.get("KILLS_ROUNDS", "20"))
KILLED = os.environ.get("KILLS_VICTIMS", " ".join(VICTIMS)).split()
CHOSEN = os.environ.get("KILLS_VERBS", " ".join(VERBS)).split()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * 3600)]


@pytest.fixture(scope="module")
def record() -> Record:
    return Record.read(os.environ.get("KILLS_RECORD", ""))


@pytest.mark.parametrize("victim", KILLED)
def test_twenty_moments_of_each_verb(line: Line, record: Record, victim: str) -> None:
    while verbs := record.wanting(victim, CHOSEN, ROUNDS):
        record.add(victim, line.round(victim, verbs))
    print("\n" + "\n".join(record.lines(victim)), flush=True)
    for became in record.of(victim):
        expect(victim, became)
