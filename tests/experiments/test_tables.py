"""A folder of CSV files in VISA's columns: the same rules as JSON, and every fault with its file and line."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from auth.models import Facility, Person
from experiments.errors import ImportRefused
from experiments.importer import Report, import_path
from experiments.models import Dataset, Experiment, Instrument, Proposal, TeamMember
from tests.factories.auth import UserFactory

pytestmark = pytest.mark.django_db

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "docs" / "operate" / "import-example"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "site"))


def bring(folder: Path, **options: bool) -> Report:
    return import_path(folder, look_at_folders=False, **options)


def problems(folder: Path) -> list[str]:
    """What is wrong; and nothing was loaded."""
    with pytest.raises(ImportRefused) as caught:
        bring(folder)
    assert not any(model.objects.exists() for model in (Facility, Instrument, Person, Proposal, Experiment))
    return caught.value.problems


def change(folder: Path, table: str, old: str, new: str) -> None:
    path = folder / f"{table}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class TestTheExample:
    def test_all_tables_are_filled(self, folder: Path) -> None:
        report = bring(folder)
        assert str(report) == (
            "1 facilities created, 2 instruments created, 1 cycles created, 3 persons created, 2 proposals created, "
            "3 experiments created, 4 team members created, 1 instrument scientists created, 3 datasets created"
        )
        assert report.warnings == [f"{name}.csv: is known and not kept here" for name in ("employer", "staff_user")]
        run = Experiment.objects.get(external_id="90002")
        assert (run.instrument.code, run.cycle.name if run.cycle else "") == ("D22", "20241")
        assert run.start_at == datetime(2024, 3, 3, 7, 30, tzinfo=UTC)  # Paris
        assert set(run.team.values_list("name", flat=True)) == {"Ada Lamprecht", "Müller, geb. Čapek"}
        assert run.proposal.abstract == "What water does\nwhen nobody looks."
        assert run.proposal.embargo_until == datetime(2027, 3, 4, 23, tzinfo=UTC)
        assert Proposal.objects.open().values_list("identifier", flat=True).get() == "5-11-402"
        assert Facility.objects.get().embargoed_metadata == "landing"

    def test_the_second_time_nothing_changes(self, folder: Path) -> None:
        bring(folder)
        assert str(bring(folder)) == "nothing changed"

    def test_lines_in_another_order_with_crlf_and_a_byte_order_mark_change_nothing(self, folder: Path) -> None:
        bring(folder)
        for name in ("experiment", "user", "experiment_user"):
            path = folder / f"{name}.csv"
            head, *lines = path.read_text().splitlines()
            path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([head, *reversed(lines), ""]).encode())
        assert str(bring(folder)) == "nothing changed"

    def test_a_dry_run_says_the_same_and_writes_nothing(self, folder: Path) -> None:
        said = str(bring(folder, dry_run=True))
        assert not Facility.objects.exists()
        assert said == str(bring(folder))

    def test_what_vanished_is_named_and_hidden_and_comes_back(self, folder: Path) -> None:
        bring(folder)
        uid = Experiment.objects.get(external_id="90003").uid
        kept = {name: (folder / f"{name}.csv").read_text() for name in ("proposal", "experiment", "experiment_user")}
        change(folder, "proposal", kept["proposal"].splitlines()[-1] + "\n", "")
        change(folder, "experiment", kept["experiment"].splitlines()[-1] + "\n", "")
        change(folder, "experiment_user", "90003,4712\n", "")
        change(folder, "dataset", "90003,raw\n", "")
        assert bring(folder).vanished == [
            "experiment 90003 is not there any more: hidden",
            "proposal 5-11-402 is not there any more: withdrawn",
        ]
        assert Experiment.objects.get(uid=uid).removed_at is not None
        assert bring(folder).vanished == []
        for name, text in kept.items():
            (folder / f"{name}.csv").write_text(text)
        assert str(bring(folder)) == "1 team members created, 1 proposals updated, 1 experiments updated"
        assert Experiment.objects.get(uid=uid).removed_at is None
        assert Proposal.objects.open().exists()

    def test_who_is_no_longer_in_the_team_loses_access(self, folder: Path) -> None:
        bring(folder)
        user = UserFactory()
        Person.objects.filter(external_id="4711").update(user=user)
        assert Experiment.objects.visible_to(user).count() == 3  # two of their own, one open
        change(folder, "experiment_user", "90001,4711\n90002,4711\n", "")
        bring(folder)
        assert Experiment.objects.visible_to(user).count() == 1
        assert TeamMember.objects.count() == 2

    def test_instrument_scientists_are_those_of_their_file_and_stay_without_it(self, folder: Path) -> None:
        def scientists() -> set[tuple[str, str]]:
            ties = Instrument.scientists.through.objects
            return set(ties.values_list("instrument__code", "person__external_id"))

        bring(folder)
        assert scientists() == {("D22", "4713")}
        change(folder, "instrument_scientist", "1,4713", "2,4713\n2,4711")
        assert str(bring(folder)) == "2 instrument scientists created"
        assert scientists() == {("D2B", "4713"), ("D2B", "4711")}
        kept = (folder / "instrument_scientist.csv").read_text()
        (folder / "instrument_scientist.csv").unlink()
        assert str(bring(folder)) == "nothing changed"
        assert len(scientists()) == 2
        (folder / "instrument_scientist.csv").write_text(kept.splitlines()[0] + "\n")
        bring(folder)
        assert scientists() == set()

    def test_an_instrument_without_a_code_is_known_by_its_id(self, folder: Path) -> None:
        (folder / "instrument.csv").write_text("id,name\n1,One\n2,Two\n")
        bring(folder)
        assert set(Instrument.objects.values_list("code", "name")) == {("1", "One"), ("2", "Two")}

    def test_folders_of_datasets_follow_the_template(self, folder: Path, tmp_path: Path) -> None:
        for instrument, proposal in (("D22", "9-10-1701"), ("D2B", "5-11-402")):
            place = tmp_path / "data" / instrument / "20241" / f"exp_{proposal}" / "rawdata"
            place.mkdir(parents=True)
            (place / "a.nxs").write_bytes(b"12345")
        change(folder, "facility", "/data/", f"{tmp_path}/data/")
        import_path(folder)
        assert set(Dataset.objects.values_list("size", "file_count")) == {(5, 1)}
        shutil.rmtree(tmp_path / "data" / "D2B")
        with pytest.raises(ImportRefused, match=r"dataset\.csv, line 4: the folder .*/D2B/.* cannot be read"):
            import_path(folder)


class TestFaults:
    ONE = [
        ("experiment", "id,instr", "id,colour,instr", "experiment.csv, line 1: the column 'colour' is not known"),
        ("user", "email", "id", "user.csv, line 1: the column 'id' is named twice"),
        ("proposal", "public_at", "url", "proposal.csv, line 1: the column 'public_at' is missing"),
        ("cycle", "id,name,start_date,end_date", "id;name", "cycle.csv, line 1: columns are separated by commas"),
        ("user", "4711,", "4711,4711,", "user.csv, line 2: has 9 values, line 1 names 8 columns"),
        ("user", "4712,", ",", "user.csv, line 3, id: is missing"),
        ("user", "4712,", "4711,", "user.csv, line 3, id: '4711' is also in user.csv, line 2"),
        ("experiment_user", "90003,4712", "90001,4711", "line 5, experiment_id: '90001 4711' is also in"),
        ("experiment", "90002,1,900", "90002,7,900", "line 3, instrument_id: '7' is not in instrument.csv"),
        ("experiment", "90002,1,900", "90002,1,999", "line 3, proposal_id: '999' is not in proposal.csv"),
        ("experiment", "90002,1,900", "90002,1,", "experiment.csv, line 3, proposal_id: is missing"),
        ("experiment", "90002,1,900", "90002,,900", "experiment.csv, line 3, instrument_id: is missing"),
        ("experiment", ",,,31", ",,,77", "experiment.csv, line 2, cycle_id: '77' is not in cycle.csv"),
        ("experiment_user", "90002,4712", "90002,4799", "line 4, user_id: '4799' is not in user.csv"),
        ("experiment_user", "90002,4712", "90022,4712", "line 4, experiment_id: '90022' is not in experiment.csv"),
        ("user", "2,1,2024", "2,9,2024", "user.csv, line 2, affiliation_id: '9' is not in employer.csv"),
        ("staff_user", "4713", "4799", "staff_user.csv, line 2, user_id: '4799' is not in user.csv"),
        ("experiment", "2024-03-01 08:30:00", "01/03/2024", "line 2, start_date: '01/03/2024' is no date"),
        ("experiment", "2024-03-03 08:30:00,E", "2023-03-03,E", "line 2, end_date: lies before start_at"),
        ("proposal", "2020-01-01", "soon", "proposal.csv, line 4, public_at: 'soon' is no date"),
        ("proposal", "10.5072/EXAMPLE-DATA.5", "https://doi.org/10.5072/5", "line 4, doi: is no bare DOI"),
        ("proposal", "10.5072/EXAMPLE-DATA.5-11-402", "10.5072/example-data.90003", "doi: '10.5072/example-data.9"),
        ("proposal", "5-11-402", "9-10-1701", "line 4, identifier: '9-10-1701' is also in proposal.csv, line 2"),
        ("facility", "Europe/Paris", "Mars", "facility.csv, line 2, time_zone: is no time zone"),
        ("facility", ",true,", ",maybe,", "facility.csv, line 2, open_data_enabled: must be true or false"),
        ("facility", "reactor,", "two words,", "facility.csv, line 2, slug: must be letters"),
        ("dataset", "90001,raw", "90009,raw", "dataset.csv, line 2, experiment_id: '90009' is not in experiment.csv"),
        ("user", '"Müller, geb. Čapek"', '"Müller', "user.csv, line 4: unexpected end of data"),
        ("user", "Ada", "A\x00da", "user.csv, line 2, last_name: holds control characters"),
    ]

    @pytest.mark.parametrize(("table", "old", "new", "reason"), ONE)
    def test_one_fault_is_named_by_file_and_line_and_nothing_is_loaded(
        self, folder: Path, table: str, old: str, new: str, reason: str
    ) -> None:
        change(folder, table, old, new)
        found = problems(folder)
        assert any(reason in problem for problem in found), found

    def test_all_faults_of_all_files_are_named_at_once(self, folder: Path) -> None:
        change(folder, "user", "4712,", "4711,")
        change(folder, "experiment", "90002,1,900,2024-03-03 08:30:00", "90002,1,999,yesterday")
        change(folder, "experiment_user", "90003,4712", "90003,4799")
        (folder / "payments.csv").write_text("id\n")
        (folder / "instrument.csv").unlink()
        assert problems(folder) == [
            "payments.csv: is no table of the import",
            "user.csv, line 3, id: '4711' is also in user.csv, line 2",
            "instrument.csv: is missing",
            "experiment.csv, line 3, proposal_id: '999' is not in proposal.csv",
            "experiment_user.csv, line 4, user_id: '4712' is not in user.csv",
            "experiment_user.csv, line 5, user_id: '4799' is not in user.csv",
            "experiment.csv, line 3, start_date: 'yesterday' is no date or time",
        ]

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_another_encoding_is_refused_with_the_line(self, folder: Path, encoding: str) -> None:
        text = (folder / "user.csv").read_text().replace("Č", "C")
        (folder / "user.csv").write_bytes(text.encode(encoding))
        line = 3 if encoding == "latin-1" else 1
        found = problems(folder)
        assert found == [found[0]]  # nothing is said of what is tied to it
        assert found[0].startswith(f"user.csv, line {line}: byte 0x")
        assert "is not UTF-8" in found[0]

    @pytest.mark.parametrize("name", ["facility", "user", "instrument", "proposal", "experiment", "experiment_user"])
    def test_a_missing_or_empty_file_is_named(self, folder: Path, name: str) -> None:
        (folder / f"{name}.csv").write_text("")
        assert f"{name}.csv, line 1: must name the columns" in problems(folder)
        (folder / f"{name}.csv").unlink()
        assert f"{name}.csv: is missing" in problems(folder)

    def test_two_facilities_are_refused(self, folder: Path) -> None:
        with (folder / "facility.csv").open("a") as file:
            file.write("other,,,,,,\n")
        assert problems(folder) == ["facility.csv: must hold one line beside the names of its columns"]

    def test_a_quoted_line_break_does_not_shift_the_lines_below(self, folder: Path) -> None:
        change(folder, "proposal", "2020-01-01", "soon")
        assert problems(folder)[0].startswith("proposal.csv, line 4, public_at")


def test_the_command_imports_a_folder_and_can_only_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("import_experiments", str(folder), "--without-folders", "--dry-run")
    assert "Checked only, nothing written" in capsys.readouterr().out
    assert not Proposal.objects.exists()
    call_command("import_experiments", str(folder), "--without-folders")
    assert "3 experiments created" in capsys.readouterr().out
    (folder / "cycle.csv").unlink()
    with pytest.raises(CommandError, match=r"Nothing was imported:\n  experiment\.csv, line 2, cycle_id: '31'"):
        call_command("import_experiments", str(folder), "--without-folders")


def write_site(folder: Path, experiments: int) -> None:
    """A site with a proposal for five experiments, and four people on each."""
    persons, proposals = experiments // 4, experiments // 5
    tables = {
        "facility": ["slug", "big"],
        "instrument": ["id,name", *(f"{n},Beamline {n}" for n in range(20))],
        "user": ["id,first_name,last_name", *(f"{n},Ada,Number {n}" for n in range(persons))],
        "proposal": ["id,identifier,title,public_at", *(f"{n},P-{n},Study {n},2030-01-01" for n in range(proposals))],
        "experiment": [
            "id,instrument_id,proposal_id,start_date,title",
            *(f"{n},{n % 20},{n // 5},2020-01-01 00:{n % 60:02}:00,Run {n}" for n in range(experiments)),
        ],
        "experiment_user": [
            "experiment_id,user_id",
            *(f"{n},{(n * 4 + k) % persons}" for n in range(experiments) for k in range(4)),
        ],
    }
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_ten_times_the_rows_take_few_more_queries(tmp_path: Path) -> None:
    """Rows are read and written in batches of 500, never one by one."""
    counts = []
    for size in (200, 2000):
        write_site(tmp_path, size)
        with CaptureQueriesContext(connection) as queries:
            bring(tmp_path)
        counts.append(len(queries))
    assert TeamMember.objects.count() == 8000
    assert counts[1] - counts[0] < 40, counts
    deletes = [query["sql"] for query in queries if query["sql"].startswith("DELETE")]
    assert deletes
    assert not [sql for sql in deletes if "JOIN" in sql], "on a table that was not yet counted that took a minute"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_experiments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_site(tmp_path, 10_000)
    times = []
    for expected in ("10000 experiments created, 40000 team members created", "nothing changed"):
        began = time.monotonic()
        assert str(bring(tmp_path)).endswith(expected)
        times.append(time.monotonic() - began)
    with capsys.disabled():
        print(f"\n10 000 experiments, 40 000 team members: first {times[0]:.1f} s, again {times[1]:.1f} s")
