"""The data folders that an import file speaks of: where they lie, that they are there, and how much they hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from auth.models import Facility
from experiments import euxfel, paths
from experiments.errors import BadDataPath
from experiments.models import Dataset
from experiments.records import Records, Row


def check(records: Records, look: bool, *, open_runs: bool = True) -> None:
    """Work out each dataset's folder; look whether it is there, how much it holds, and open EuXFEL runs once."""
    template = records.facility.get("data_path_template")
    if template is None:
        stored = Facility.objects.filter(slug=records.facility["slug"]).first()
        template = stored.data_path_template if stored else ""
    runs: dict[Path, Row] = {}
    for proposal, experiment in records.experiments():
        for dataset in experiment.inner:
            try:
                folder = _folder(records, template, proposal, experiment, dataset)
            except BadDataPath as error:
                records.problems.append(f"{dataset.where.column('path')}: {error.message}")
                continue
            if look and _measure(records, dataset, folder) and dataset["format"] == Dataset.Format.EUXFEL:
                runs[folder] = dataset
    if runs and open_runs and not records.problems:
        _open_runs(records, runs)


def _folder(records: Records, template: str, proposal: Row, experiment: Row, dataset: Row) -> Path:
    if dataset["path"]:
        return Path(dataset["path"])
    if not template:
        raise BadDataPath("is empty, and the facility has no data_path_template")
    start = experiment["start_at"]
    return paths.checked(
        paths.fill(
            template,
            {
                "instrument": experiment["instrument"],
                "cycle": experiment["cycle"],
                "proposal": proposal["identifier"],
                "run": experiment["run_number"],
                "year": paths.local(start, records.zone).year if start else None,
            },
        )
    )


def _measure(records: Records, dataset: Row, folder: Path) -> bool:
    """Note number and size of the files unless the row names them; False when the folder cannot be read."""
    try:
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in _entries(folder)]
    except OSError as error:
        records.problems.append(f"{dataset.where}: the folder {folder} cannot be read: {error.strerror}")
        return False
    if dataset["size"] is None:
        dataset.values["size"] = sum(sizes)
    if dataset["file_count"] is None:
        dataset.values["file_count"] = len(sizes)
    return True


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All files below a folder but EXtra-data's own map; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))
            elif entry.name != euxfel.MAP:
                yield entry


def _open_runs(records: Records, runs: dict[Path, Row]) -> None:
    try:
        answers = euxfel.make_maps(runs)
    except RuntimeError as error:
        records.problems.append(f"European XFEL runs could not be opened: {error}")
        return
    for folder, reason in answers.items():
        if reason:
            records.problems.append(f"{runs[folder].where}: {folder}: {reason}")
