"""Where an experiment's data lie: a dataset's own path, else the facility's template. Pure string work."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from experiments.errors import BadDataPath

if TYPE_CHECKING:
    from experiments.models import Dataset, Experiment

_FIELD = re.compile(r"\{(instrument|cycle|proposal|run|year)(?::0([1-9])d)?\}")
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")


def data_paths(experiment: Experiment) -> list[tuple[str, Path]]:
    """Return name and folder of each dataset; an experiment without datasets has no data to mount."""
    datasets = sorted(experiment.datasets.all(), key=lambda dataset: dataset.pk)
    return [(dataset.name, dataset_path(dataset, experiment)) for dataset in datasets]


def dataset_path(dataset: Dataset, experiment: Experiment) -> Path:
    if dataset.path:
        return checked(dataset.path)
    template = experiment.proposal.facility.data_path_template
    if not template:
        raise BadDataPath("This dataset has no path, and its facility has no path template.")
    return checked(fill(template, _values(experiment)))


def fill(template: str, values: dict[str, str | int | None]) -> str:
    """Fill `{instrument}`, `{cycle}`, `{proposal}`, `{run:04d}` and `{year}`; each value stays one path segment.

    Not `str.format`: that would reach attributes and widths of any size.
    """

    def value(match: re.Match[str]) -> str:
        name, width = match[1], match[2]
        given = values.get(name)
        if given is None or given == "":
            raise BadDataPath(f"The path template needs {{{name}}}, which this experiment does not have.")
        text = str(given)
        if width:
            if not text.isascii() or not text.isdigit():
                raise BadDataPath(f"The path template needs a number for {{{name}}}.")
            return text.zfill(int(width))
        if not _SAFE.fullmatch(text) or ".." in text:
            raise BadDataPath(f"The value of {{{name}}} cannot be part of a path.")
        return text

    if "{" in _FIELD.sub("", template) or "}" in _FIELD.sub("", template):
        raise BadDataPath("The path template has a field that is not known.")
    return _FIELD.sub(value, template)


def checked(text: str) -> Path:
    """Return an absolute path without a step back, or refuse."""
    path = Path(text)
    plain = text.isprintable() and "\\" not in text
    if not plain or not path.is_absolute() or ".." in path.parts or len(path.parts) < 3:
        raise BadDataPath("A data path must be absolute, at least two folders deep, and without `..`.")
    return path


def _values(experiment: Experiment) -> dict[str, str | int | None]:
    return {
        "instrument": experiment.instrument.code,
        "cycle": experiment.cycle.name if experiment.cycle else None,
        "proposal": experiment.proposal.identifier,
        "run": experiment.run_number,
        "year": local(experiment.start_at, experiment.proposal.facility.time_zone).year
        if experiment.start_at
        else None,
    }


def local(moment: datetime, zone: str) -> datetime:
    """Return the moment in a facility's zone; an unknown zone shows UTC."""
    try:
        return moment.astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        return moment
