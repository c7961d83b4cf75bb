"""The notebook that opens first in a new instance: what was chosen, where it lies, and a first look at the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """One chosen run: its proposal, number (None = the facility counts otherwise), title and folder in the instance,
    empty where the catalogue knows a run whose files do not lie here; `format` as datasets name it."""

    proposal: str
    run: int | None
    title: str
    path: str
    format: str = ""


_NOTHING = (
    "No experiment was chosen for this instance, so no data are mounted. "
    "Choose one on its page in the portal (**Analyse**) and start a new instance with it."
)
_PLACES = """\
| folder | what it is |
|---|---|
| `/work/data` | the data of the chosen runs, read-only |
| `/work/home` | your home: kept until you delete it, the same in all your instances |
| `/work` | this instance's own disk: kept by Stop, gone with Delete |

Save what you want to keep in `/work/home`."""

_OPEN = """\
from extra_data import RunDirectory

run = RunDirectory({path!r})
run.info()"""

_SUM = """\
print("Sum of train ids:", sum(run.train_ids))"""

_FIND = """\
IMAGES = ("image.data", "data.adc", "data.image.pixels", "data.image")


def image_sources(run):
    \"\"\"Yield (source, key, trains with data) of every detector module and camera that has frames here.\"\"\"
    for source in sorted(run.all_sources):
        for key in IMAGES:
            if key in run.keys_for_source(source):
                counts = run.get_data_counts(source, key)
                trains = counts.index[counts > 0]
                if len(trains) and len(run[source, key].entry_shape) >= 2:
                    yield source, key, trains
                break


found = next(image_sources(run), None)
print(f"Images from {found[0]} ({found[1]})" if found else "This run holds no detector images.")"""

_PLOT = """\
import matplotlib.pyplot as plt
import numpy as np
from extra_data import by_id


def first_frame(run, source, key, trains, limit=32):
    \"\"\"Read a few trains, one at a time, and return the first frame with something to see.\"\"\"
    for train in trains[:limit]:
        data = run[source, key].select_trains(by_id[[int(train)]]).ndarray()
        frames = data.reshape(len(data), -1, *data.shape[-2:])[:, 0]  # raw AGIPD: image, then gain
        frame = max(frames, key=lambda one: float(np.nanstd(one)))
        if np.nanstd(frame) > 0:
            break
    return np.squeeze(frame), int(train)


if found:
    frame, train = first_frame(run, *found)
    low, high = np.nanpercentile(frame, [1, 99.5])
    if low == high:
        low, high = float(np.nanmin(frame)), float(np.nanmax(frame))
    figure, axes = plt.subplots(figsize=(8, 6), constrained_layout=True)
    shown = axes.imshow(frame, origin="lower", interpolation="nearest", vmin=low, vmax=high)
    axes.set(title=f"{found[0]}, train {train}", xlabel="x / pixel", ylabel="y / pixel")
    figure.colorbar(shown, ax=axes, label=found[1])
    plt.show()
    size = " × ".join(map(str, frame.shape))
    print(f"{size} pixels, smallest value {np.nanmin(frame)}, largest {np.nanmax(frame)}")"""

_OPEN_NEXUS = """\
from pathlib import Path

import h5py


def of_class(group, name):
    \"\"\"Return the first group of a NeXus class.\"\"\"
    return next(one for one in group.values() if one.attrs.get("NX_class") in (name, name.encode()))


path = next(path for path in sorted(Path({path!r}).iterdir()) if path.suffix in (".nxs", ".h5", ".hdf5"))
entry = of_class(h5py.File(path, locking="best-effort"), "NXentry")
images = of_class(entry, "NXdata")["data"]
print(entry["definition"].asstr()[()], "—", entry["title"].asstr()[()] if "title" in entry else path.name)
print(len(images), "frames of", " × ".join(map(str, images.shape[1:])), "pixels")"""

_SUM_NEXUS = """\
import numpy as np

total = np.zeros(images.shape[1:], "u8")
for frame in images:  # one at a time, so that this runs in little memory
    total += frame
print("Sum of counts:", int(total.sum()))"""

_PLOT_NEXUS = """\
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(8, 6), constrained_layout=True)
shown = axes.imshow(total, interpolation="nearest", vmax=max(1, np.percentile(total, 99.8)))
axes.set(title=f"{path.name}, sum of all frames", xlabel="x / pixel", ylabel="y / pixel")
figure.colorbar(shown, ax=axes, label="counts")
plt.show()"""


def notebook(title: str, runs: Sequence[RunInfo]) -> str:
    """Return the notebook (nbformat 4.5) as JSON text; the newest run is the last one of the last proposal."""
    cells = [_markdown("# " + _plain(title) + "\n\n" + _chosen(runs)), _markdown("## Where things are\n\n" + _PLACES)]
    there = [run for run in runs if run.path]
    if there:
        newest = max(there, key=lambda run: (run.proposal, -1 if run.run is None else run.run))
        cells += _nexus(newest) if newest.format == "nexus-nxmx" else _euxfel(newest)
    for number, cell in enumerate(cells):
        cell["id"] = f"welcome-{number}"
    metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def _euxfel(run: RunInfo) -> list[dict[str, Any]]:
    return [
        _markdown(f"## A first look\n\nThe newest of the chosen runs, {_name(run)}, opened with EXtra-data."),
        _code(_OPEN.format(path=run.path)),
        _code(_SUM),
        _markdown("One train of one detector module is read, so that this runs in little memory."),
        _code(_FIND),
        _code(_PLOT),
    ]


def _nexus(run: RunInfo) -> list[dict[str, Any]]:
    return [
        _markdown(f"## A first look\n\nThe newest of the chosen runs, {_name(run)}, a NeXus file opened with h5py."),
        _code(_OPEN_NEXUS.format(path=run.path)),
        _code(_SUM_NEXUS),
        _code(_PLOT_NEXUS),
    ]


def _chosen(runs: Sequence[RunInfo]) -> str:
    """What is there as a table; what is not, as one line below it."""
    if not runs:
        return _NOTHING
    there, elsewhere = [run for run in runs if run.path], [run for run in runs if not run.path]
    lines: list[str] = []
    if there:
        lines += ["Mounted read-only:", "", "| run | title | folder |", "|---|---|---|"]
        lines += [f"| {_name(run)} | {_plain(run.title)} | `{run.path}` |" for run in there]
    if elsewhere:
        lines += ["", f"{'Also chosen' if there else 'Chosen'}, with no files here: {_names(elsewhere)}."]
    return "\n".join(lines)


def _names(runs: Sequence[RunInfo]) -> str:
    """Name many runs shortly: `p700000 run 1, 2, 3; p900123`."""
    by_proposal = groupby(runs, key=lambda run: run.proposal)
    return "; ".join(
        ", ".join([_name(first), *(str(run.run) for run in more if run.run is not None)])
        for _, (first, *more) in by_proposal
    )


def _name(run: RunInfo) -> str:
    return _plain(run.proposal + (f" run {run.run}" if run.run is not None else ""))


def _plain(text: str) -> str:
    """Return free text as one line that Markdown shows as it is: it comes from people and catalogues."""
    line = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>#|~$!" else sign for sign in line)


def _markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
