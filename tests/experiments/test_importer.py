"""The JSON importer: all or nothing, every fault named, nothing changed the second time."""

from __future__ import annotations

import copy
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from auth.models import Facility, Person
from experiments import euxfel
from experiments.errors import ImportRefused
from experiments.importer import import_path, load
from experiments.models import Cycle, Dataset, Experiment, Instrument, Proposal, TeamMember
from tests.factories.auth import UserFactory
from tests.factories.experiments import ProposalFactory

pytestmark = pytest.mark.django_db

FILE: dict[str, Any] = {
    "facility": {"slug": "site", "name": "The Site", "time_zone": "Europe/Berlin"},
    "instruments": [{"code": "BL1", "name": "Beamline 1"}, {"code": "BL2", "name": "Beamline 2"}],
    "cycles": [{"name": "2021A", "start_at": "2021-01-01", "end_at": "2021-06-30"}],
    "persons": [{"id": "U1", "name": "Una One"}, {"id": "U2", "name": "Dua Two"}],
    "proposals": [
        {
            "identifier": "1234",
            "title": "A study",
            "pid": "10.5072/Site-1234",
            "embargo_until": "2099-01-01",
            "creators": [{"name": "One, Una", "orcid": "0000-0002-1825-0097"}],
            "team": ["U1"],
            "experiments": [
                {"id": "1234-1", "run_number": 1, "instrument": "BL1", "start_at": "2021-03-01 08:00:00"},
                {"id": "1234-2", "run_number": 2, "instrument": "BL2", "cycle": "2021A", "team": ["U1", "U2"]},
            ],
        },
        {"identifier": "1235", "title": "Another", "released_at": "2022-01-01T00:00:00+05:00"},
    ],
}


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(FILE)


def problems(data: object, **options: bool) -> list[str]:
    with pytest.raises(ImportRefused) as caught:
        load(data, **options)
    return caught.value.problems


def nothing_is_loaded() -> bool:
    return not any(model.objects.exists() for model in (Facility, Instrument, Cycle, Person, Proposal, Experiment))


class TestLoading:
    def test_all_tables_are_filled(self, data: dict[str, Any]) -> None:
        report = load(data)
        assert str(report) == (
            "1 facilities created, 2 instruments created, 1 cycles created, 2 persons created, "
            "2 proposals created, 2 experiments created, 3 team members created"
        )
        run = Experiment.objects.get(external_id="1234-1")
        assert run.proposal.pid == "10.5072/Site-1234"
        assert run.proposal.pid_norm == "10.5072/site-1234"
        assert set(run.team.values_list("external_id", flat=True)) == {"U1"}
        other = Experiment.objects.get(external_id="1234-2")
        assert other.cycle == Cycle.objects.get()
        assert set(other.team.values_list("external_id", flat=True)) == {"U1", "U2"}

    def test_times_without_offset_are_the_facilitys(self, data: dict[str, Any]) -> None:
        load(data)
        assert Experiment.objects.get(external_id="1234-1").start_at == datetime(2021, 3, 1, 7, tzinfo=UTC)
        assert Proposal.objects.get(identifier="1234").embargo_until == datetime(2098, 12, 31, 23, tzinfo=UTC)
        assert Proposal.objects.get(identifier="1235").released_at == datetime(2021, 12, 31, 19, tzinfo=UTC)

    def test_the_second_time_nothing_changes(self, data: dict[str, Any]) -> None:
        load(data)
        before = list(Experiment.objects.order_by("pk").values()), list(TeamMember.objects.order_by("pk").values())
        assert str(load(data)) == "nothing changed"
        assert before == (
            list(Experiment.objects.order_by("pk").values()),
            list(TeamMember.objects.order_by("pk").values()),
        )

    def test_a_changed_row_is_updated_and_keeps_its_id(self, data: dict[str, Any]) -> None:
        load(data)
        old = Experiment.objects.get(external_id="1234-1")
        data["proposals"][0]["experiments"][0]["title"] = "Now with a title"
        data["proposals"][0]["title"] = "A better study"
        assert str(load(data)) == "1 proposals updated, 1 experiments updated"
        new = Experiment.objects.get(external_id="1234-1")
        assert (new.uid, new.title) == (old.uid, "Now with a title")
        assert new.updated_at > old.updated_at

    def test_who_is_no_longer_in_the_team_loses_access(self, data: dict[str, Any]) -> None:
        load(data)
        user = UserFactory()
        Person.objects.filter(external_id="U2").update(user=user)
        assert Experiment.objects.visible_to(user).count() == 1
        data["proposals"][0]["experiments"][1]["team"] = ["U1"]
        load(data)
        assert not Experiment.objects.visible_to(user).exists()
        assert Person.objects.get(external_id="U2").user == user

    def test_an_instruments_scientists_are_those_named_and_stay_when_none_are(self, data: dict[str, Any]) -> None:
        def scientists() -> set[tuple[str, str]]:
            ties = Instrument.scientists.through.objects
            return set(ties.values_list("instrument__code", "person__external_id"))

        first = data["instruments"][0]
        first["scientists"] = ["U1", "U2", "U1"]
        load(data)
        assert scientists() == {("BL1", "U1"), ("BL1", "U2")}
        del first["scientists"]
        assert str(load(data)) == "nothing changed"
        first["scientists"] = ["U2"]
        load(data)
        assert scientists() == {("BL1", "U2")}
        first["scientists"] = ["U3"]
        data["instruments"][1]["scientists"] = "U1"
        data["persons"][0]["scientists"] = []
        assert problems(data) == ["instruments[1].scientists: must be a list of person ids"]
        del data["instruments"][1]["scientists"]
        assert problems(data) == ["instruments[0].scientists: 'U3' is no known person"]
        first["scientists"] = []
        assert load(data).warnings == ["persons[0].scientists: is not known and was passed over"]
        assert scientists() == set()

    def test_empty_texts_and_null_are_the_same(self, data: dict[str, Any]) -> None:
        data["proposals"][1] |= {"pid": "", "summary": None, "license": " ", "start_at": ""}
        load(data)
        proposal = Proposal.objects.get(identifier="1235")
        assert (proposal.pid_norm, proposal.license, proposal.start_at) == (None, "", None)

    def test_unknown_columns_are_noted_and_passed_over(self, data: dict[str, Any]) -> None:
        data["proposals"][0]["colour"] = "blue"
        assert load(data).warnings == ["proposals[0].colour: is not known and was passed over"]

    def test_two_facilities_may_use_the_same_numbers(self, data: dict[str, Any]) -> None:
        load(data)
        data["facility"] = {"slug": "other"}
        del data["proposals"][0]["pid"]
        load(data)
        assert Proposal.objects.filter(identifier="1234").count() == 2
        assert not Experiment.objects.filter(removed_at__isnull=False).exists()


class TestVanishedRows:
    def test_a_vanished_experiment_is_hidden_not_deleted_and_comes_back(self, data: dict[str, Any]) -> None:
        load(data)
        uid = Experiment.objects.get(external_id="1234-2").uid
        gone = data["proposals"][0]["experiments"].pop()
        assert load(data).removed == 1
        assert Experiment.objects.get(uid=uid).removed_at is not None
        data["proposals"][0]["experiments"].append(gone)
        load(data)
        assert Experiment.objects.get(uid=uid).removed_at is None

    def test_a_vanished_proposal_closes(self, data: dict[str, Any]) -> None:
        load(data)
        assert Proposal.objects.open().count() == 1
        del data["proposals"][1]
        load(data)
        assert not Proposal.objects.open().exists()
        assert Proposal.objects.get(identifier="1235").withdrawn_at is not None

    def test_a_file_that_lacks_most_is_taken_for_a_broken_export(self, data: dict[str, Any]) -> None:
        runs = [{"id": f"r{n}", "instrument": "BL1"} for n in range(30)]
        data["proposals"][0]["experiments"] = runs
        load(data)
        data["proposals"][0]["experiments"] = runs[:10]
        assert "lacks 20 of 30 known experiments" in problems(data)[0]
        assert not Experiment.objects.filter(removed_at__isnull=False).exists()
        assert load(data, remove_many=True).removed == 20


class TestBadFiles:
    BAD = [
        (("proposals", 0, "embargo_until"), "soon", "proposals[0].embargo_until: 'soon' is no date or time"),
        (("proposals", 0, "embargo_until"), 2099, "proposals[0].embargo_until: must be a date or time"),
        (("proposals", 0, "identifier"), "", "proposals[0].identifier: is missing"),
        (("proposals", 0, "title"), "x" * 2001, "proposals[0].title: is longer than 2000 characters"),
        (("proposals", 0, "title"), "a\x00b", "proposals[0].title: holds control characters"),
        (("proposals", 0, "title"), ["a"], "proposals[0].title: must be text"),
        (("proposals", 0, "pid"), "10.5/x", "proposals[0].pid: is no bare DOI"),
        (("proposals", 0, "pid"), "https://doi.org/10.5072/x", "proposals[0].pid: is no bare DOI"),
        (("proposals", 0, "pid"), "10.5072/" + "x" * 1000, "proposals[0].pid: is no bare DOI"),
        (("proposals", 0, "url"), "javascript:alert(1)", "proposals[0].url: is no http address"),
        (("proposals", 0, "contact"), "nobody", "proposals[0].contact: is no e-mail address"),
        (("proposals", 0, "release_policy"), "always", "proposals[0].release_policy: must be one of"),
        (("proposals", 0, "proprietary"), "no", "proposals[0].proprietary: must be true or false"),
        (("proposals", 0, "creators"), [{"orcid": "x"}], "proposals[0].creators[0].name: is missing"),
        (("proposals", 0, "creators", 0, "orcid"), "0000-0002-1825-0098", "its check digit is wrong"),
        (("proposals", 0, "team"), "U1", "proposals[0].team: must be a list"),
        (("proposals", 0, "experiments"), {}, "proposals[0].experiments: must be a list"),
        (("proposals", 0, "experiments", 0), 5, "proposals[0].experiments[0]: must be an object"),
        (("proposals", 0, "experiments", 0, "instrument"), "BL9", "'BL9' is no known instrument"),
        (("proposals", 0, "experiments", 0, "cycle"), "1999", "'1999' is no known cycle"),
        (("proposals", 0, "experiments", 0, "team"), ["U9"], "'U9' is no known person"),
        (("proposals", 0, "experiments", 0, "run_number"), -1, "must be a whole number"),
        (("proposals", 0, "experiments", 0, "run_number"), True, "must be a whole number"),
        (("proposals", 0, "experiments", 0, "id"), "1234-2", "experiments[1].id: '1234-2' is also in"),
        (("proposals", 0, "experiments", 0, "pid"), "10.5072/SITE-1234", "is also in proposals[0]"),
        (("proposals", 0, "experiments", 0, "end_at"), "2020-01-01", "end_at: lies before start_at"),
        (("proposals", 1, "identifier"), "1234", "proposals[1].identifier: '1234' is also in proposals[0]"),
        (("proposals", 1, "release_policy"), "never", "released_at: is set, but release_policy is never"),
        (("facility", "slug"), "a b", "facility.slug: must be letters"),
        (("facility", "time_zone"), "Mars/Olympus", "facility.time_zone: is no time zone"),
        (("facility", "time_zone"), "../../etc/passwd", "facility.time_zone: is no time zone"),
        (("facility",), None, "facility: must be an object"),
        (("proposals",), None, "proposals: must be a list"),
    ]

    @pytest.mark.parametrize(("place", "value", "reason"), BAD)
    def test_one_bad_value_and_nothing_is_loaded(
        self, data: dict[str, Any], place: tuple[Any, ...], value: Any, reason: str
    ) -> None:
        target: Any = data
        for step in place[:-1]:
            target = target[step]
        target[place[-1]] = value
        found = problems(data)
        assert any(reason in problem for problem in found), found
        assert nothing_is_loaded()

    def test_all_bad_rows_are_named_at_once(self, data: dict[str, Any]) -> None:
        data["proposals"][0]["embargo_until"] = "soon"
        data["proposals"][0]["experiments"][1]["run_number"] = "two"
        data["persons"].append({"name": "Nobody"})
        assert [problem.split(":")[0] for problem in problems(data)] == [
            "persons[2].id",
            "proposals[0].embargo_until",
            "proposals[0].experiments[1].run_number",
        ]

    def test_bad_references_leave_what_was_there_as_it_was(self, data: dict[str, Any]) -> None:
        load(data)
        data["proposals"][0]["title"] = "Changed"
        data["persons"][0]["name"] = "Changed"
        data["proposals"][0]["experiments"][0]["instrument"] = "BL9"
        problems(data)
        assert Proposal.objects.get(identifier="1234").title == "A study"
        assert Person.objects.get(external_id="U1").name == "Una One"

    def test_an_identifier_of_another_record_is_refused(self, data: dict[str, Any]) -> None:
        ProposalFactory(pid="10.5072/SITE-1234")
        assert "proposals[0].pid: '10.5072/SITE-1234' belongs to another record" in problems(data)[0]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b'{"facility": {\n"slug": "x",,\n}}', "line 2, column 13"),
            (b"", "line 1, column 1"),
            (b"\xff\xfe{}", "is not UTF-8"),
            (b"[" * 100_000, "recursion"),
            (b'{"facility": {"slug": "a", "slug": "b"}}', "names 'slug' twice"),
            (b'{"facility": NaN}', "NaN is no JSON"),
            (b'{"proposals": [' + b"9" * 5000 + b"]}", "integer"),
            (b"[]", "must hold an object"),
        ],
    )
    def test_a_broken_file_is_refused_with_line_and_reason(self, tmp_path: Path, content: bytes, reason: str) -> None:
        path = tmp_path / "broken.json"
        path.write_bytes(content)
        with pytest.raises(ImportRefused) as caught:
            import_path(path)
        assert reason in str(caught.value)

    def test_the_command_says_what_was_wrong_and_what_was_done(
        self, tmp_path: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "site.json"
        with pytest.raises(CommandError, match="No such file"):
            call_command("import_experiments", str(path))
        path.write_text(json.dumps(data))
        call_command("import_experiments", str(path))
        assert "2 experiments created" in capsys.readouterr().out
        path.write_text(json.dumps(data | {"proposals": [5]}))
        with pytest.raises(CommandError, match=r"Nothing was imported:\n  proposals\[0\]: must be an object"):
            call_command("import_experiments", str(path))


class TestFolders:
    def with_dataset(self, data: dict[str, Any], **dataset: Any) -> dict[str, Any]:
        data["proposals"][0]["experiments"][0]["datasets"] = [dataset]
        return data

    def test_a_folder_that_is_not_there_is_reported(self, data: dict[str, Any], tmp_path: Path) -> None:
        missing = tmp_path / "a" / "missing"
        found = problems(self.with_dataset(data, path=str(missing)))
        assert found == [
            f"proposals[0].experiments[0].datasets[0]: the folder {missing} cannot be read: No such file or directory"
        ]
        assert nothing_is_loaded()

    def test_folders_need_not_be_looked_at(self, data: dict[str, Any], tmp_path: Path) -> None:
        load(self.with_dataset(data, path=str(tmp_path / "missing")), look_at_folders=False)
        assert Dataset.objects.get().size is None

    def test_number_and_size_of_files_are_measured(self, data: dict[str, Any], tmp_path: Path) -> None:
        folder = tmp_path / "run"
        (folder / "below").mkdir(parents=True)
        (folder / "one.dat").write_bytes(b"x" * 100)
        (folder / "below" / "two.dat").write_bytes(b"x" * 23)
        (folder / "link").symlink_to("/etc/passwd")
        load(self.with_dataset(data, path=str(folder)))
        dataset = Dataset.objects.get()
        assert dataset.file_count == 3
        assert dataset.size == 123 + len("/etc/passwd")

    @pytest.mark.parametrize("path", ["relative/run", "/data/../etc", "/", "/data", "/data/a\nb"])
    def test_a_path_that_leads_elsewhere_is_refused(self, data: dict[str, Any], path: str) -> None:
        found = problems(self.with_dataset(data, path=path))
        assert "datasets[0].path" in found[0]

    def test_without_path_or_template_there_is_no_folder(self, data: dict[str, Any]) -> None:
        assert "the facility has no data_path_template" in problems(self.with_dataset(data, name="raw"))[0]

    def test_the_template_is_filled_and_its_values_stay_one_segment(self, data: dict[str, Any], tmp_path: Path) -> None:
        data["facility"]["data_path_template"] = f"{tmp_path}/{{instrument}}/p{{proposal}}/r{{run:04d}}"
        (tmp_path / "BL1" / "p1234" / "r0001").mkdir(parents=True)
        load(self.with_dataset(data, name="raw"))
        data["proposals"][0]["identifier"] = "../../etc"
        assert "cannot be part of a path" in problems(self.with_dataset(data, name="raw"))[0]


class TestEuxfelRuns:
    def test_a_missing_interpreter_is_named_with_what_to_do(
        self, data: dict[str, Any], tmp_path: Path, settings: Any
    ) -> None:
        settings.EXTRA_DATA_PYTHON = "/nowhere/python"
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "a.h5").write_bytes(b"")
        data["proposals"][0]["experiments"][0]["datasets"] = [{"path": str(tmp_path / "run"), "format": "euxfel-hdf5"}]
        found = problems(data)
        assert "/nowhere/python does not exist" in found[0]
        assert "EXTRA_DATA_PYTHON" in found[0]
        assert nothing_is_loaded()

    def test_a_folder_without_a_run_is_reported(self, data: dict[str, Any], tmp_path: Path, reader: Path) -> None:
        for name in ("empty", "broken"):
            (tmp_path / name).mkdir()
        (tmp_path / "broken" / "RAW-R0001-X-S00000.h5").write_bytes(b"no HDF5")
        data["proposals"][0]["experiments"][0]["datasets"] = [
            {"name": name, "path": str(tmp_path / name), "format": "euxfel-hdf5"} for name in ("empty", "broken")
        ]
        found = problems(data)
        assert len(found) == 2
        assert all("EXtra-data" in problem for problem in found)

    def test_a_map_counts_only_when_everybody_may_read_it_and_the_files_are_the_same(self, tmp_path: Path) -> None:
        file = tmp_path / "RAW-R0001-X-S00000.h5"
        file.write_bytes(b"123")
        assert not euxfel.has_map(tmp_path)
        entry = {"filename": file.name, "mtime": file.stat().st_mtime, "size": 3}
        (tmp_path / euxfel.MAP).write_text(json.dumps([entry]))
        (tmp_path / euxfel.MAP).chmod(0o600)
        assert not euxfel.has_map(tmp_path)
        (tmp_path / euxfel.MAP).chmod(0o644)
        assert euxfel.has_map(tmp_path)
        os.utime(file, (1, 1))
        assert not euxfel.has_map(tmp_path)
        (tmp_path / euxfel.MAP).write_text("{")
        assert not euxfel.has_map(tmp_path)


def test_an_unreadable_folder_of_a_plain_user_is_a_reason(data: dict[str, Any], tmp_path: Path) -> None:
    """A file where a folder should be: the same road as a folder that may not be read."""
    path = tmp_path / "deep" / "file"
    path.parent.mkdir()
    path.write_text("")
    assert stat.S_ISREG(path.stat().st_mode)
    data["proposals"][0]["experiments"][0]["datasets"] = [{"path": str(path)}]
    assert "cannot be read: Not a directory" in problems(data)[0]
