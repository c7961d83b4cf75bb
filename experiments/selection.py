"""What `/instances/new?dois=…&proposals=…` selects: everything the user may see of what was named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Q

from experiments.models import Experiment, Proposal
from experiments.pids import parse_pid

if TYPE_CHECKING:
    from auth.models import User
    from experiments.visibility import ExperimentQuerySet

#: more than this many names in one address are not looked up
MOST = 200
#: a comma separates two identifiers only where the next one begins; a comma inside a DOI is legal
_NEXT = re.compile(r",(?=\s*(?:https?(?::|%3a)|doi:|hdl:|urn:|info:|[0-9]+\.[0-9]))", re.I)


def names_several(text: str) -> bool:
    """Tell whether one parameter holds several identifiers, separated by commas."""
    return _NEXT.search(text) is not None


@dataclass(frozen=True)
class Selection:
    """`missing`: what was named and not found. Not permitted and unknown are the same."""

    experiments: ExperimentQuerySet
    proposals: list[Proposal]
    missing: list[str]


@dataclass
class _Known:
    """Canonical identifiers that this user may see, and to what they lead."""

    proposals: dict[str, Proposal]
    experiments: dict[str, int]

    def holds(self, canonical: str) -> bool:
        return canonical in self.proposals or canonical in self.experiments


def find(user: User | Any, dois: Iterable[str], proposals: Iterable[str]) -> Selection:
    """Look up DOIs (or Handles) in any dress and proposal numbers; three queries, however many are named."""
    named = [text for text in dict.fromkeys(text.strip() for text in dois) if text]
    numbers = [part for part in dict.fromkeys(part.strip() for text in proposals for part in text.split(",")) if part]
    known = _look_up(user, named[:MOST])
    hits: list[str] = []
    missing: list[str] = []
    for text in named:
        found, lost = _resolve(text, known)
        hits += found
        missing += lost
    by_number = _by_number(user, numbers[:MOST])
    missing += [number for number in numbers if number not in by_number]

    chosen = {known.proposals[hit].pk: known.proposals[hit] for hit in hits if hit in known.proposals}
    chosen |= {proposal.pk: proposal for found in by_number.values() for proposal in found}
    single = [known.experiments[hit] for hit in hits if hit in known.experiments]
    experiments = (
        Experiment.objects.visible_to(user)
        .filter(Q(proposal__in=list(chosen)) | Q(pk__in=single))
        .select_related("proposal__facility", "instrument", "cycle")
        .order_by("proposal__identifier", "run_number", "pk")
    )
    return Selection(experiments, list(chosen.values()), [text[:200] for text in dict.fromkeys(missing)])


def _candidates(text: str) -> list[str]:
    pid = parse_pid(text)
    return list(pid.candidates) if pid else []


def _look_up(user: User | Any, named: list[str]) -> _Known:
    wanted = {form for text in named for part in (text, *_NEXT.split(text)) for form in _candidates(part)}
    if not wanted:
        return _Known({}, {})
    visible = Proposal.objects.visible_to(user).filter(pid_norm__in=wanted).select_related("facility")
    runs = Experiment.objects.visible_to(user).filter(pid_norm__in=wanted).values_list("pid_norm", "pk")
    by_pid = {proposal.pid_norm: proposal for proposal in visible if proposal.pid_norm}
    return _Known(by_pid, {pid: pk for pid, pk in runs if pid})


def _resolve(text: str, known: _Known) -> tuple[list[str], list[str]]:
    """Return what a text leads to, and what of it leads nowhere: the whole of it first, then its parts."""
    forms, parts = _candidates(text), _NEXT.split(text)
    # an identifier may hold what looks like a second one; but white space after a comma ends the first
    is_whole = bool(forms) and len(_NEXT.split(forms[0])) == len(parts)
    if is_whole and known.holds(forms[0]):
        return [forms[0]], []
    if len(parts) == 1:
        hit = next((form for form in forms if known.holds(form)), None)
        return ([hit], []) if hit else ([], [text])
    found, lost = [], []
    for part in parts:
        hits, misses = _resolve(part.strip(), known)
        found += hits
        lost += misses
    return found, [part for part in lost if part]


def _by_number(user: User | Any, numbers: list[str]) -> dict[str, list[Proposal]]:
    found: dict[str, list[Proposal]] = {}
    readable = [number for number in numbers if number.isprintable()]
    if readable:
        visible = Proposal.objects.visible_to(user).filter(identifier__in=readable).select_related("facility")
        for proposal in visible:
            found.setdefault(proposal.identifier, []).append(proposal)
    return found
