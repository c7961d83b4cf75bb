"""The list of experiments: filters from a query string, and keyset pages, newest first."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from django.db.models import BooleanField, Exists, F, Func, IntegerField, OuterRef, Q, Value
from django.db.models.functions import Upper

from experiments.models import Experiment, Instrument, Proposal
from experiments.pids import parse_pid
from portal.lib.errors import BadRequest

if TYPE_CHECKING:
    from auth.models import User
    from experiments.visibility import ExperimentQuerySet

PAGE = 25
MOST_WORDS = 8
LONGEST_TEXT = 200
SHOW = ("", "mine", "open")


class LocalYear(Func):
    """The year of a moment in a facility's zone: a run at New Year's Eve counts where it was measured."""

    function = "timezone"
    template = "CAST(EXTRACT(YEAR FROM %(function)s(%(expressions)s)) AS integer)"
    output_field = IntegerField()


NEWEST = (F("start_at").desc(nulls_last=True), F("id").desc())
OLDEST = (F("start_at").asc(nulls_first=True), F("id").asc())
YEAR = LocalYear(F("proposal__facility__time_zone"), F("start_at"))


@dataclass(frozen=True)
class Filters:
    """What a visitor asked for; the same for the page and the API."""

    show: str = ""
    instrument: str = ""
    year: int | None = None
    text: str = ""
    doi: str = ""

    @classmethod
    def read(cls, query: Mapping[str, Any]) -> Self:
        """Read a query string; a value that cannot be one is refused, not passed over."""
        show = str(query.get("show", ""))
        if show not in SHOW:
            raise BadRequest("Show is `mine`, `open`, or nothing for all.")
        return cls(
            show=show,
            instrument=readable(query.get("instrument", ""))[:50],
            year=_year(str(query.get("year", ""))),
            text=readable(query.get("text", ""))[:LONGEST_TEXT],
            doi=readable(query.get("doi", "")),
        )

    def query(self) -> str:
        """The query string that stands for these filters, without those that are not set."""
        pairs = {"show": self.show, "instrument": self.instrument, "year": self.year or "", "text": self.text}
        return urlencode({name: value for name, value in pairs.items() if value})

    def __bool__(self) -> bool:
        return self != Filters()

    def without_show(self) -> str:
        return replace(self, show="").query()

    def apply(self, experiments: ExperimentQuerySet, user: User | Any) -> ExperimentQuerySet:
        """Narrow down what is visible already; never widens."""
        if self.show == "mine":
            experiments = experiments.of(user)
        elif self.show == "open":
            experiments = experiments.open()
        if self.instrument:
            experiments = experiments.filter(instrument__code=self.instrument)
        if self.year is not None:
            experiments = _in_year(experiments, self.year)
        if self.doi:
            experiments = experiments.filter(_identified(self.doi))
        for word in self.text.split()[:MOST_WORDS]:
            experiments = experiments.filter(words__contains=Upper(Value(word)))
        return experiments


@dataclass(frozen=True)
class Page:
    """One page of rows; `newer` and `older` are the anchors of its neighbours, empty when there are none."""

    rows: list[Experiment]
    newer: str = ""
    older: str = ""


@dataclass(frozen=True)
class Choices:
    """What the filters offer: computed from what this visitor may see, nothing else."""

    instruments: list[Instrument]
    years: list[int]


def choices(user: User | Any) -> Choices:
    visible = Experiment.objects.visible_to(user)
    instruments = Instrument.objects.filter(Exists(visible.filter(instrument=OuterRef("pk")))).order_by("name")
    return Choices(list(instruments), _years(visible))


def _years(visible: ExperimentQuerySet) -> list[int]:
    """Every year from the newest visible experiment to the oldest: the two ends of an index, however many there are."""
    dated = visible.filter(start_at__isnull=False).annotate(local_year=YEAR)
    newest = dated.order_by(*NEWEST).values_list("local_year", flat=True).first()
    oldest = dated.order_by(*OLDEST).values_list("local_year", flat=True).first()
    return list(range(newest, oldest - 1, -1)) if newest is not None else []


def _in_year(experiments: ExperimentQuerySet, year: int) -> ExperimentQuerySet:
    """Those of a year in their facility's zone; the index narrows down to that year and a day on both sides."""
    if not MINYEAR < year < MAXYEAR:
        return experiments.none()
    day = timedelta(days=1)
    begin, end = datetime(year, 1, 1, tzinfo=UTC) - day, datetime(year + 1, 1, 1, tzinfo=UTC) + day
    return experiments.filter(start_at__gte=begin, start_at__lt=end).alias(local_year=YEAR).filter(local_year=year)


def _identified(text: str) -> Q:
    """Those with this identifier, or of the proposal with it: by two indexes; an OR over a join could use none."""
    pid = parse_pid(text)
    forms = pid.candidates if pid else ()
    proposals = list(Proposal.objects.filter(pid_norm__in=forms).values_list("pk", flat=True))
    return Q(pid_norm__in=forms) | Q(proposal_id__in=proposals)


def page(experiments: ExperimentQuerySet, *, after: str = "", before: str = "") -> Page:
    """Return the page older than `after` or newer than `before`, both ids of experiments of the list.

    An anchor that is not in the list (gone, closed, made up) leads to the first page.
    """
    anchor = _anchor(experiments, after or before)
    if anchor is None:
        rows = list(experiments.order_by(*NEWEST)[: PAGE + 1])
        return Page(rows[:PAGE], older=_more(rows))
    if after:
        rows = _older(experiments, *anchor)
        return Page(rows[:PAGE], newer=_uid(rows[:1]), older=_more(rows))
    rows = _newer(experiments, *anchor)
    shown = rows[:PAGE][::-1]
    return Page(shown, newer=_uid(shown[:1]) if len(rows) > PAGE else "", older=_uid(shown[-1:]))


def _more(rows: list[Experiment]) -> str:
    return str(rows[PAGE - 1].uid) if len(rows) > PAGE else ""


def _uid(rows: list[Experiment]) -> str:
    return str(rows[0].uid) if rows else ""


def _anchor(experiments: ExperimentQuerySet, text: str) -> tuple[Any, int] | None:
    try:
        uid = uuid.UUID(text)
    except ValueError:
        return None
    return experiments.filter(uid=uid).values_list("start_at", "id").first()


# Each half of a neighbouring page is one range of the index `experiment_newest`: those with a
# start, then those without.
def _older(experiments: ExperimentQuerySet, start: datetime | None, pk: int) -> list[Experiment]:
    undated = experiments.filter(start_at__isnull=True)
    if start is None:
        return list(undated.filter(id__lt=pk).order_by(*NEWEST)[: PAGE + 1])
    rows = list(experiments.filter(_beside("<", start, pk)).order_by(*NEWEST)[: PAGE + 1])
    return rows + list(undated.order_by(*NEWEST)[: PAGE + 1 - len(rows)])


def _newer(experiments: ExperimentQuerySet, start: datetime | None, pk: int) -> list[Experiment]:
    """The nearest first."""
    if start is not None:
        return list(experiments.filter(_beside(">", start, pk)).order_by(*OLDEST)[: PAGE + 1])
    rows = list(experiments.filter(start_at__isnull=True, id__gt=pk).order_by(*OLDEST)[: PAGE + 1])
    dated = experiments.filter(start_at__isnull=False)
    return rows + list(dated.order_by(*OLDEST)[: PAGE + 1 - len(rows)])


def _beside(sign: str, start: datetime, pk: int) -> Func:
    """Compare rows: `(start_at, id) < (start, pk)` is one range of an index, which AND and OR are not."""
    here = Func("start_at", "id", function="ROW", output_field=BooleanField())
    there = Func(Value(start), Value(pk), function="ROW", output_field=BooleanField())
    return Func(here, there, template="%(expressions)s", arg_joiner=f" {sign} ", output_field=BooleanField())


def readable(text: Any) -> str:
    """Return text without what PostgreSQL cannot store and people cannot read."""
    return "".join(c for c in str(text) if unicodedata.category(c) not in ("Cc", "Cs")).strip()


def _year(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) == 4):
        raise BadRequest("The year must be four digits.")
    return int(text)
