"""The demo's files and records, made by the analysis image's own interpreter."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command

from auth.models import Person
from experiments.demo import catalogue, load
from experiments.models import Dataset, Experiment, Proposal
from experiments.paths import data_paths
from experiments.records import parse
from experiments.selection import find
from tests.factories.auth import UserFactory

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()


def stamp(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*")}


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.h5")):
        total.update(path.read_bytes())
    return total.hexdigest()


def test_the_catalogue_has_no_bad_row(tmp_path: Path) -> None:
    records = parse(catalogue.catalogue(tmp_path))
    assert (records.problems, records.warnings) == ([], [])
    assert [len(proposal.inner) for proposal in records.proposals] == [39, 1, 3]


def test_outside_the_demo_it_refuses(settings: Any) -> None:
    settings.DEMO = False
    with pytest.raises(CommandError, match="BEAMPORT_DEMO"):
        call_command("demo_data")


def test_without_the_image_it_says_what_to_do(settings: Any, tmp_path: Path) -> None:
    settings.EXTRA_DATA_PYTHON = str(tmp_path / "no" / "python")
    settings.STATE_DIR = tmp_path
    with pytest.raises(CommandError, match="Build the analysis image first"):
        call_command("demo_data")
    assert not Proposal.objects.exists()


def test_a_place_that_cannot_be_written_is_a_reason(settings: Any, tmp_path: Path) -> None:
    settings.STATE_DIR = tmp_path
    (tmp_path / "data").write_text("a file is in the way")
    with pytest.raises(CommandError, match="data: File exists"):
        call_command("demo_data")


@pytest.mark.timeout(300)
def test_the_whole_demo(reader: Path, settings: Any, tmp_path: Path) -> None:
    """One long test, because writing the files takes seconds."""
    settings.STATE_DIR = tmp_path
    root = tmp_path / "data"
    call_command("demo_data")

    # records: 39 open runs and one more, at least eight with files; the embargoed ones only for their team
    open_runs = Experiment.objects.visible_to(NOBODY)
    assert open_runs.count() == 40
    assert Dataset.objects.filter(experiment__in=open_runs, file_count__gt=0, size__gt=0).count() >= 8
    found = find(NOBODY, ["https://doi.org/10.22003/XFEL.EU-DATA-700000-00"], [])
    assert found.experiments.count() == 39
    assert find(NOBODY, ["10.22003/XFEL.EU-DATA-700100-00"], []).missing == ["10.22003/XFEL.EU-DATA-700100-00"]
    scientist = UserFactory()
    Person.objects.filter(external_id="X-1001").update(user=scientist)
    assert Experiment.objects.visible_to(scientist).count() == 43

    # files: small, readable by any uid, and each dataset's folder is where the template says
    assert sum(path.stat().st_size for path in root.rglob("*.[hn]*")) < 150 * 2**20
    for path in root.rglob("*"):
        if path.name != ".demo-version":
            assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    for run in Experiment.objects.prefetch_related("datasets"):
        for _, folder in data_paths(run):
            assert [path for path in folder.iterdir() if path.suffix in (".h5", ".nxs")]

    # the newest run: distinct train ids, a picture in its first train
    newest = max(root.rglob("r[0-9][0-9][0-9][0-9]"), key=lambda path: path.name)
    assert newest.name == "r0039"
    with h5py.File(newest / "RAW-R0039-JNGFR01-S00000.h5") as file:
        trains = file["INDEX/trainId"][:]
        assert len(set(trains)) == len(trains) > 0
        frame = file["INSTRUMENT/FXE_XAD_JF1M/DET/JNGFR01:daqOutput/data/adc"][0, 0]
    assert np.std(frame) > 10

    # the second time nothing is written
    before = stamp(root)
    call_command("demo_data")
    assert stamp(root) == before

    # a run opens from a folder that cannot be written, as it is mounted in an instance
    code = f"from extra_data import RunDirectory; run = RunDirectory({str(newest)!r}); print(sum(run.train_ids))"
    said = subprocess.run([str(reader), "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) == int(trains.sum())
    assert stamp(root) == before

    # an interrupted or lost run is made again, and the same
    lost = catalogue.WITH_DATA[0].folder(root)
    was = digest(lost)
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    assert load.write_runs(root) == 1
    assert digest(lost) == was
