"""What became of each verb at each kill, kept in a file so that a long matrix may be done in parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.kills.matrix import VERBS


@dataclass
class Record:
    """Rounds done so far, one line of JSON each; without a path they are forgotten at the end."""

    path: Path | None
    rounds: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @classmethod
    def read(cls, name: str) -> Record:
        path = Path(name) if name else None
        lines = path.read_text().splitlines() if path and path.exists() else []
        return cls(path, [json.loads(line) for line in lines])

    def add(self, victim: str, became: dict[str, str]) -> None:
        self.rounds.append((victim, became))
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(self.rounds[-1]) + "\n")

    def wanting(self, victim: str, verbs: Sequence[str], rounds: int) -> list[str]:
        """Return those verbs that have met the death of `victim` fewer times than this."""
        return [verb for verb in verbs if sum(self._outcomes(victim, verb).values()) < rounds]

    def lines(self, victim: str) -> list[str]:
        """Return one line for each verb: how often it was met, and what came of it."""
        found = {verb: self._outcomes(victim, verb) for verb in VERBS}
        return [
            f"{victim:16} {verb:7} {sum(outcomes.values()):3} kills: "
            + ", ".join(f"{times} {what}" for what, times in outcomes.most_common())
            for verb, outcomes in found.items()
        ]

    def of(self, victim: str) -> list[dict[str, str]]:
        """Return what became of the verbs in each round in which this one was killed."""
        return [became for killed, became in self.rounds if killed == victim]

    def _outcomes(self, victim: str, verb: str) -> Counter[str]:
        return Counter(became[verb] for became in self.of(victim) if verb in became)
