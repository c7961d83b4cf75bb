"""What `/instances/new?dois=…&proposals=…` preselects, and where its data lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test.utils import CaptureQueriesContext

from experiments.errors import BadDataPath
from experiments.paths import checked, data_paths, fill
from experiments.selection import find
from tests.factories.auth import FacilityFactory, UserFactory
from tests.factories.experiments import (
    CycleFactory,
    DatasetFactory,
    ExperimentFactory,
    InstrumentFactory,
    ProposalFactory,
    join_team,
)

NOBODY = AnonymousUser()


def chosen(user: Any, dois: list[str], proposals: list[str] | None = None) -> tuple[set[int], list[str]]:
    selection = find(user, dois, proposals or [])
    return set(selection.experiments.values_list("pk", flat=True)), selection.missing


@pytest.mark.django_db
class TestSelection:
    def test_all_experiments_of_a_proposals_doi_are_found(self) -> None:
        proposal = ProposalFactory(opened=True, pid="10.5072/A")
        runs = ExperimentFactory.create_batch(120, proposal=proposal)
        assert chosen(NOBODY, ["https://doi.org/10.5072/a"]) == ({run.pk for run in runs}, [])

    def test_a_runs_own_doi_finds_that_run_and_nothing_is_missing(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True), pid="10.5072/RUN")
        ExperimentFactory(proposal=run.proposal)
        assert chosen(NOBODY, ["10.5072/run"]) == ({run.pk}, [])

    def test_several_may_stand_in_one_text_and_a_comma_inside_a_doi_is_legal(self) -> None:
        a, b, c = (
            ExperimentFactory(proposal=ProposalFactory(opened=True, pid=pid))
            for pid in ("10.5072/A", "10.5072/B,1", "20.500.1/C")
        )
        everything = {a.pk, b.pk, c.pk}
        assert chosen(NOBODY, ["10.5072/a,10.5072/b,1,20.500.1/c"]) == (everything, [])
        assert chosen(NOBODY, ["10.5072/a, doi:10.5072/b,1", "hdl:20.500.1/c"]) == (everything, [])
        assert chosen(NOBODY, ["10.5072/a,10.5072/zzz,nonsense"]) == ({a.pk}, ["10.5072/zzz,nonsense"])

    def test_a_doi_that_holds_another_after_a_comma_wins_as_a_whole(self) -> None:
        whole = ExperimentFactory(proposal=ProposalFactory(opened=True, pid="10.5072/a,10.5072/b"))
        ExperimentFactory(proposal=ProposalFactory(opened=True, pid="10.5072/b"))
        assert chosen(NOBODY, ["10.5072/a,10.5072/b"]) == ({whole.pk}, [])

    def test_not_permitted_and_unknown_are_missing_alike(self) -> None:
        facility = FacilityFactory(embargoed_metadata="landing")
        hidden = ExperimentFactory(proposal=ProposalFactory(pid="10.5072/HID", facility=facility), pid="10.5072/RUN")
        names = ["10.5072/hid", "10.5072/run", "10.5072/none", "rubbish"]
        assert chosen(NOBODY, names) == chosen(UserFactory(), names) == (set(), names)
        assert chosen(NOBODY, [], [hidden.proposal.identifier]) == (set(), [hidden.proposal.identifier])
        member = UserFactory()
        join_team(member, hidden)
        assert chosen(member, names) == ({hidden.pk}, names[2:])

    def test_by_proposal_number(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True, identifier="p700000"))
        assert chosen(NOBODY, [], ["p700000,p1", " p2 ", "\x00"]) == ({run.pk}, ["p1", "p2", "\x00"])

    def test_many_names_cost_the_same_queries(self) -> None:
        for number in range(5):
            ExperimentFactory(proposal=ProposalFactory(opened=True, pid=f"10.5072/{number}"))
        with CaptureQueriesContext(connection) as queries:
            find(NOBODY, [f"10.5072/{number}" for number in range(300)], ["a", "b"])
        assert len(queries) == 3

    def test_odd_input_never_raises(self) -> None:
        assert chosen(NOBODY, ["", " ", ",", "%", "\x00", "10.5072/\ud800", "x" * 20_000])[0] == set()


class TestPaths:
    VALUES: dict[str, str | int | None] = {
        "instrument": "SPB", "cycle": "201750", "proposal": "700000", "run": 7, "year": 2021,
    }  # fmt: skip

    def test_a_template_is_filled(self) -> None:
        template = "/data/{instrument}/{cycle}/p{proposal:06d}/raw/r{run:04d}/{year}"
        assert fill(template, self.VALUES) == "/data/SPB/201750/p700000/raw/r0007/2021"

    @pytest.mark.parametrize(
        "template",
        [
            "/d/{owner}",
            "/d/{run.__class__}",
            "/d/{run!r}",
            "/d/{0}",
            "/d/{run:99999999d}",
            "/d/{run:>9}",
            "/d/{",
            "/d/}",
            "/d/{{run}}",
        ],
    )
    def test_nothing_but_the_known_fields_is_formatted(self, template: str) -> None:
        with pytest.raises(BadDataPath):
            fill(template, self.VALUES)

    @pytest.mark.parametrize(
        "value", ["..", ".", "a/b", "../x", "", None, "a\x00", "-rf", " ", "a..b", "x" * 200, "ä", "a\nb"]
    )
    def test_a_value_stays_one_segment(self, value: str | None) -> None:
        with pytest.raises(BadDataPath):
            fill("/data/{instrument}/x", self.VALUES | {"instrument": value})

    def test_a_width_needs_a_number(self) -> None:
        with pytest.raises(BadDataPath):
            fill("/data/p{proposal:06d}", self.VALUES | {"proposal": "abc"})

    @pytest.mark.parametrize("path", ["", "x/y/z", "/", "/etc", "/a/../b", "/a/b\n", "/a/b\x00", "/a/b\\c"])
    def test_a_path_must_be_absolute_deep_and_plain(self, path: str) -> None:
        with pytest.raises(BadDataPath):
            checked(path)

    @pytest.mark.django_db
    def test_the_datasets_own_path_wins_and_a_record_without_dataset_has_none(self) -> None:
        facility = FacilityFactory(data_path_template="/gpfs/{instrument}/{cycle}/{proposal}/r{run:04d}")
        run = ExperimentFactory(
            proposal=ProposalFactory(facility=facility, identifier="p1"),
            instrument=InstrumentFactory(facility=facility, code="FXE"),
            cycle=CycleFactory(facility=facility, name="202101"),
            run_number=5,
        )
        assert data_paths(run) == []
        DatasetFactory(experiment=run, name="raw", path="")
        DatasetFactory(experiment=run, name="proc", path="/elsewhere/proc/5")
        assert data_paths(run) == [
            ("raw", Path("/gpfs/FXE/202101/p1/r0005")),
            ("proc", Path("/elsewhere/proc/5")),
        ]
