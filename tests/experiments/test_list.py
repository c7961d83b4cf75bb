"""The list of experiments: filters, pages, and that nothing of an embargo shows in rows, choices, counts or order."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils.http import urlencode

from experiments.models import Experiment, Instrument, Proposal
from tests.factories.auth import FacilityFactory, UserFactory, sign_in
from tests.factories.experiments import (
    ExperimentFactory,
    InstrumentFactory,
    ProposalFactory,
    join_team,
)

pytestmark = pytest.mark.django_db


def ask(client: Client, **query: Any) -> Any:
    return client.get(f"/experiments?{urlencode(query)}")


def ids(answer: Any) -> list[uuid.UUID]:
    return [row.uid for row in answer.context["page"].rows]


def titles(answer: Any) -> list[str]:
    return [row.title for row in answer.context["page"].rows]


def an_open(**values: Any) -> Experiment:
    return ExperimentFactory(proposal=ProposalFactory(opened=True), **values)


class TestFilters:
    def test_all_mine_and_open(self, client: Client) -> None:
        mine, foreign, free = ExperimentFactory(title="Mine"), ExperimentFactory(title="Foreign"), an_open(title="Free")
        user = UserFactory()
        join_team(user, mine)
        sign_in(client, user)
        assert set(titles(ask(client))) == {"Mine", "Free"}
        assert titles(ask(client, show="mine")) == ["Mine"]
        assert titles(ask(client, show="open")) == ["Free"]
        assert foreign.title not in ask(client).content.decode()
        assert free.title in ask(client).content.decode()

    def test_by_instrument_year_and_words(self, client: Client) -> None:
        line = InstrumentFactory(code="SPB", name="SPB/SFX")
        an_open(title="Lysozyme crystals", instrument=line, start_at=datetime(2020, 5, 1, tzinfo=UTC))
        an_open(title="Water jet", sample="water", start_at=datetime(2021, 5, 1, tzinfo=UTC))
        assert titles(ask(client, instrument="SPB")) == ["Lysozyme crystals"]
        assert titles(ask(client, year=2021)) == ["Water jet"]
        assert titles(ask(client, text="CRYSTALS sfx")) == ["Lysozyme crystals"]
        assert titles(ask(client, text="crystals water")) == []
        assert titles(ask(client, text="%")) == titles(ask(client, text="_")) == []

    def test_words_find_the_proposal_too(self, client: Client) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True, identifier="p700000", title="Example data"))
        assert titles(ask(client, text="p700000")) == titles(ask(client, text="example")) == [run.title]

    def test_words_follow_what_they_are_taken_from(self, client: Client) -> None:
        run, other = an_open(title="Alpha"), an_open(title="Other")
        for rows, columns in (
            (Experiment.objects.filter(pk=run.pk), ("title", "sample", "technique")),
            (Proposal.objects.filter(pk=run.proposal_id), ("title", "identifier")),
            (Instrument.objects.filter(pk=run.instrument_id), ("name", "code")),
        ):
            for column in columns:
                rows.update(**{column: "Grün"})
                assert ids(ask(client, text="GRÜN")) == [run.uid], column
                rows.update(**{column: "none"})
                assert ids(ask(client, text="grün")) == [], column
        Experiment.objects.filter(pk=run.pk).update(proposal=other.proposal, words="forged")
        assert ids(ask(client, text=other.proposal.identifier)) == [other.uid, run.uid]
        assert ids(ask(client, text="forged")) == []

    def test_the_year_is_the_facilitys(self, client: Client) -> None:
        proposal = ProposalFactory(opened=True, facility=FacilityFactory(time_zone="Asia/Tokyo"))
        ExperimentFactory(proposal=proposal, title="New year", start_at=datetime(2020, 12, 31, 20, tzinfo=UTC))
        assert titles(ask(client, year=2021)) == ["New year"]
        assert titles(ask(client, year=2020)) == []
        assert ask(client).context["choices"].years == [2021]

    def test_the_years_offered_reach_from_the_oldest_to_the_newest(self, client: Client) -> None:
        for year in (2019, 2022):
            an_open(start_at=datetime(year, 6, 1, tzinfo=UTC))
        an_open(start_at=None)
        assert ask(client).context["choices"].years == [2022, 2021, 2020, 2019]

    @pytest.mark.parametrize(
        "query",
        [{"show": "all"}, {"show": "all'--"}, {"year": "x"}, {"year": "20211"}, {"year": "٢٠٢١"}, {"year": "-001"}],
    )
    def test_a_value_that_cannot_be_is_refused(self, client: Client, query: dict[str, str]) -> None:
        assert ask(client, **query).status_code == 400

    @pytest.mark.parametrize(
        "query",
        [
            {"text": "a\x00b"},
            {"text": "\ud800".encode("utf-8", "surrogatepass")},
            {"text": "x" * 5000},
            {"text": " ".join("abcdefghijklmn")},
            {"instrument": "\x00"},
            {"after": "x"},
            {"after": "00000000-0000-0000-0000-000000000000"},
            {"before": "\x00"},
            {"year": "9999"},
            {"year": "0000"},
            {"unknown": "1"},
        ],
    )
    def test_odd_values_never_break_the_page(self, client: Client, query: dict[str, Any]) -> None:
        an_open()
        assert ask(client, **query).status_code == 200


class TestEmbargo:
    def test_what_is_under_embargo_is_in_no_row_choice_or_year(self, client: Client) -> None:
        an_open(start_at=datetime(2021, 1, 1, 12, tzinfo=UTC))
        facility = FacilityFactory(embargoed_metadata="landing")
        hidden = ExperimentFactory(
            proposal=ProposalFactory(title="Hidden proposal", facility=facility),
            instrument=InstrumentFactory(code="HIDDEN", name="Hidden line", facility=facility),
            title="Hidden run",
            start_at=datetime(2024, 1, 1, 12, tzinfo=UTC),
        )
        stranger = UserFactory()
        for user in (None, stranger):
            if user:
                sign_in(client, user)
            answer = ask(client)
            assert b"Hidden" not in answer.content
            assert b"HIDDEN" not in answer.content
            assert b"2024" not in answer.content
            assert answer.context["choices"].years == [2021]
            assert len(answer.context["choices"].instruments) == 1
            for query in ({"text": "hidden"}, {"instrument": "HIDDEN"}, {"year": 2024}, {"show": "mine"}):
                assert titles(ask(client, **query)) == []
            # as an anchor it is like one that was never there
            unknown = {"after": "00000000-0000-4000-8000-000000000000"}
            assert titles(ask(client, after=hidden.uid)) == titles(ask(client, **unknown))

    def test_removed_experiments_are_gone(self, client: Client) -> None:
        run = an_open(removed_at=datetime(2022, 1, 1, tzinfo=UTC))
        user = UserFactory()
        join_team(user, run)
        sign_in(client, user)
        answer = ask(client)
        assert titles(answer) == titles(ask(client, show="mine")) == []
        assert answer.context["choices"].instruments == []


class TestPages:
    def walk(self, client: Client, step: str, start: Any) -> list[list[str]]:
        pages, answer = [titles(start)], start
        while anchor := getattr(answer.context["page"], step):
            answer = ask(client, **{"after" if step == "older" else "before": anchor})
            pages.append(titles(answer))
        return pages

    def test_older_and_newer_walk_the_whole_list_without_gap_or_repeat(self, client: Client) -> None:
        proposal = ProposalFactory(opened=True)
        line = InstrumentFactory(facility=proposal.facility)
        same = datetime(2021, 1, 1, tzinfo=UTC)
        for number in range(60):
            start = None if number < 10 else same if number < 40 else same + timedelta(days=number)
            ExperimentFactory(proposal=proposal, instrument=line, start_at=start, title=f"{number:02}")
        expected = [f"{number:02}" for number in range(59, -1, -1)]
        down = self.walk(client, "older", ask(client))
        assert [title for page in down for title in page] == expected
        assert [len(page) for page in down] == [25, 25, 10]
        last = ask(client, after=Experiment.objects.get(title=down[1][-1]).uid)
        up = self.walk(client, "newer", last)
        assert [title for page in reversed(up) for title in page] == expected

    def test_a_new_row_shifts_no_page(self, client: Client) -> None:
        proposal = ProposalFactory(opened=True)
        ExperimentFactory.create_batch(30, proposal=proposal)
        anchor = ask(client).context["page"].older
        before = titles(ask(client, after=anchor))
        ExperimentFactory(proposal=proposal, start_at=datetime(2030, 1, 1, tzinfo=UTC))
        assert titles(ask(client, after=anchor)) == before

    def test_links_keep_the_filters(self, client: Client) -> None:
        line = InstrumentFactory(code="A&B")
        ExperimentFactory.create_batch(26, proposal=ProposalFactory(opened=True), instrument=line)
        page = ask(client, instrument="A&B", show="open").content.decode()
        assert 'href="?show=open&amp;instrument=A%26B&amp;after=' in page

    def test_the_number_of_queries_does_not_grow_with_the_rows(self, client: Client) -> None:
        user = UserFactory()
        sign_in(client, user)
        counts = []
        for _ in range(2):
            for run in [an_open() for _ in range(8)]:
                join_team(user, run)
            with CaptureQueriesContext(connection) as queries:
                ask(client)
            counts.append(sum('"experiments_' in query["sql"] for query in queries))
        assert counts == [4, 4]


class TestEmpty:
    def test_each_empty_list_says_what_to_do(self, client: Client) -> None:
        assert "No experiments here yet" in ask(client).content.decode()
        assert "Sign in to see your experiments" in ask(client, show="mine").content.decode()
        assert "Nothing fits" in ask(client, text="x").content.decode()
        sign_in(client, UserFactory())
        assert "You are in no team yet" in ask(client, show="mine").content.decode()

    def test_what_was_typed_is_escaped(self, client: Client) -> None:
        page = ask(client, text='"><script>alert(1)</script>').content.decode()
        assert "<script>alert" not in page
