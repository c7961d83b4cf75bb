"""Ten thousand experiments: pages without gap or repeat, a constant number of queries, and indexes at any depth."""

from __future__ import annotations

import os
import re
import statistics
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth.models import Person, User
from experiments import listing
from experiments.models import Experiment, Instrument, Proposal, TeamMember
from experiments.visibility import ExperimentQuerySet
from tests.factories.auth import FacilityFactory, UserFactory, sign_in
from tests.factories.experiments import join_team

pytestmark = pytest.mark.django_db

FIRST = datetime(2006, 1, 1, tzinfo=UTC)


def fill(size: int) -> tuple[User, Experiment]:
    """A site of this size, every second proposal open; returns somebody in every tenth team, and the middle row."""
    facility = FacilityFactory()
    lines = Instrument.objects.bulk_create(
        Instrument(facility=facility, code=f"B{n}", name=f"Line {n}") for n in range(20)
    )
    proposals = Proposal.objects.bulk_create(
        Proposal(
            facility=facility,
            identifier=f"P-{n}",
            title=f"Study of crystal {n}",
            pid=f"10.5072/BIG-{n}",
            pid_norm=f"10.5072/big-{n}",
            embargo_until=FIRST if n % 2 else FIRST + timedelta(days=40_000),
        )
        for n in range(size // 5)
    )
    runs = Experiment.objects.bulk_create(
        (
            Experiment(
                proposal=proposals[n // 5],
                instrument=lines[n % 20],
                external_id=str(n),
                title=f"Run {n}",
                # some at the same moment, some at none, the others in an order unlike that of their keys
                start_at=None if n % 50 == 0 else FIRST + timedelta(hours=17 * (n * 7919 % size // 3)),
            )
            for n in range(size)
        ),
        batch_size=1000,
    )
    user = UserFactory()
    person = join_team(user, runs[0])
    TeamMember.objects.bulk_create(TeamMember(experiment=run, person=person) for run in runs[10::10])
    crowd = Person.objects.bulk_create(Person(facility=facility, external_id=f"C{n}") for n in range(size // 10))
    TeamMember.objects.bulk_create(
        (TeamMember(experiment=run, person=crowd[n % len(crowd)]) for n, run in enumerate(runs)), batch_size=1000
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    dated = Experiment.objects.visible_to(user).filter(start_at__isnull=False).order_by("start_at")
    return user, dated[dated.count() // 2]


def ask(client: Client, path: str, **query: Any) -> Any:
    answer = client.get(path, query)
    assert answer.status_code == 200
    return answer


def visible(user: User | AnonymousUser, **filters: Any) -> ExperimentQuerySet:
    """What the page lists."""
    rows = Experiment.objects.visible_to(user).select_related("proposal__facility", "instrument")
    return listing.Filters(**filters).apply(rows, user)


def walk(user: User | AnonymousUser, step: str, start: str = "", **filters: Any) -> Iterator[list[int]]:
    """The keys of page after page, to the end of the list."""
    rows = visible(user, **filters)
    while True:
        page = listing.page(rows, **({"after" if step == "older" else "before": start} if start else {}))
        yield [row.pk for row in page.rows]
        start = getattr(page, step)
        if not start:
            return


def expected(user: User | AnonymousUser, **filters: Any) -> list[int]:
    """The same list, sorted here: newest first, those without a start last."""
    rows = visible(user, **filters).values_list("start_at", "pk")
    return [pk for _, pk in sorted(rows, key=lambda row: (row[0] or FIRST - timedelta(days=1), row[1]), reverse=True)]


def check_walks(size: int) -> None:
    user, _ = fill(size)
    for who, filters in ((AnonymousUser(), {}), (user, {}), (user, {"show": "mine"}), (user, {"instrument": "B7"})):
        order = expected(who, **filters)
        down = list(walk(who, "older", **filters))
        assert [pk for page in down for pk in page] == order
        last = str(Experiment.objects.get(pk=order[-1]).uid)
        up = list(walk(who, "newer", last, **filters))
        assert [pk for page in reversed(up) for pk in page] == order[:-1]
    assert len(expected(user)) > size // 2


def test_all_pages_down_and_up_show_each_experiment_once_and_in_order() -> None:
    check_walks(2000)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_pages_of_ten_thousand() -> None:
    check_walks(10_000)


def test_rows_that_come_and_go_meanwhile_repeat_and_omit_none() -> None:
    fill(1000)
    before, seen = expected(AnonymousUser()), []
    rows = Experiment.objects.in_bulk(before)
    for number, page in enumerate(walk(AnonymousUser(), "older")):
        seen += page
        run = rows[before[0]]
        run.pk, run.uid, run.external_id = None, uuid.uuid4(), f"new-{number}"
        run.start_at = FIRST + timedelta(days=number)
        run.save(force_insert=True)
        run.pk = before[0]
    assert len(seen) == len(set(seen))
    assert set(before) <= set(seen)


def test_the_number_of_queries_is_the_same_at_any_depth_and_none_counts(client: Client) -> None:
    user, middle = fill(2000)
    sign_in(client, user)
    dated = Experiment.objects.visible_to(user).filter(start_at__isnull=False)
    last = str(dated.order_by("start_at", "id")[3].uid)
    pages = [{}, {"after": str(middle.uid)}, {"before": str(middle.uid)}]
    counts = []
    for query in (*pages, {"after": last}):
        with CaptureQueriesContext(connection) as queries:
            ask(client, "/experiments", **query)
        about = [row["sql"] for row in queries if '"experiments_' in row["sql"]]
        assert not any("COUNT(" in sql for sql in about)
        counts.append(len(about))
    # the list, and what the filters offer; with an anchor that too, and at the border those without a start
    assert counts == [4, 5, 5, 6]


def test_the_api_walks_all_of_them_with_a_constant_number_of_queries(client: Client) -> None:
    user, _ = fill(2000)
    sign_in(client, user)
    wanted = set(Experiment.objects.visible_to(user).values_list("uid", flat=True))
    where, seen, counts = "/api/v1/experiments?limit=100", [], set()
    while where:
        with CaptureQueriesContext(connection) as queries:
            answer = ask(client, where).json()
        about = [row["sql"] for row in queries if '"experiments_' in row["sql"]]
        assert not any("COUNT(" in sql for sql in about)
        counts.add(len(about))
        assert "count" not in answer
        seen += [uuid.UUID(row["id"]) for row in answer["results"]]
        where = answer["next"]
    assert counts == {1}
    assert len(seen) == len(wanted)
    assert set(seen) == wanted


FILTERS: list[dict[str, Any]] = [
    {},
    {"show": "mine"},
    {"show": "open"},
    {"instrument": "B7"},
    {"year": 2008},
    {"doi": "https://doi.org/10.5072/BIG-77"},
    {"show": "mine", "instrument": "B10", "year": 2008},
]


@pytest.mark.timeout(120)
def test_every_filter_in_every_order_finds_its_rows_by_an_index() -> None:
    """PostgreSQL's own plans at 10 000 rows: no filter reads the table from end to end. (Words do, see the docs.)"""
    user, middle = fill(10_000)
    for who, filters in product((AnonymousUser(), user), FILTERS):
        rows = visible(who, **filters)
        for page in ({}, {"after": str(middle.uid)}, {"before": str(middle.uid)}):
            with CaptureQueriesContext(connection) as queries:
                listing.page(rows, **page)
            for query in queries:
                with connection.cursor() as cursor:
                    cursor.execute(f"EXPLAIN {query['sql']}")
                    plan = "\n".join(line for (line,) in cursor.fetchall())
                assert "Seq Scan on experiments_experiment" not in plan, (filters, page, plan)
                assert "Seq Scan on experiments_teammember" not in plan, (filters, page, plan)
    # a deep page is one range of the index, which begins at its anchor
    for sign, order in (("<", listing.NEWEST), (">", listing.OLDEST)):
        deep = visible(user).filter(listing._beside(sign, middle.start_at, middle.pk)).order_by(*order)
        assert re.search(
            rf"Index Scan( Backward)? using experiment_newest .*\n *Index Cond: \(ROW\(start_at, id\) {sign} ROW",
            deep[: listing.PAGE + 1].explain(),
        )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", [10_000, 100_000])
def test_how_long_lists_take(size: int, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures for docs/reference/performance.md, none asserted."""
    user, middle = fill(size)
    sign_in(client, user)
    lines = [f"\n{size} experiments, load {os.getloadavg()[0]:.1f}: first page, and the one after the middle, ms"]
    for filters in (*FILTERS, {"text": "crystal 77"}, {"text": "nowhere"}):
        times = []
        for page in ({}, {"after": str(middle.uid)}):
            taken = []
            for _ in range(7):
                began = time.perf_counter()
                ask(client, "/experiments", **filters, **page)
                taken.append(1000 * (time.perf_counter() - began))
            times.append(statistics.median(taken))
        lines.append(f"  {filters}: {times[0]:.0f}, {times[1]:.0f}")
    with capsys.disabled():
        print("\n".join(lines))
