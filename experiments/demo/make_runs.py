"""Write demo runs as European XFEL files with an invented pattern. Executed by the image's interpreter, never imported.

The files' structure is that of EXtra-data's example writers, which write zeros; a few trains are filled here. The same
task always gives the same bytes. Standard input: a JSON list of tasks {folder, proposal, run, detector, pattern,
trains, filled}. Last line of standard output: a JSON object, folder to reason (empty: fine).
"""

import json
import os
import shutil
import sys
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from extra_data.tests import make_examples as examples
from extra_data.tests.mockdata import base

#: name in files, source, module class, number of the first, how many, rows and columns of a frame, key
DETECTORS: dict[str, dict[str, Any]] = {
    "agipd1m-spb": {"short": "AGIPD", "source": "SPB_DET_AGIPD1M-1/DET/{}CH0", "modules": range(16)},
    "agipd1m-mid": {"short": "AGIPD", "source": "MID_DET_AGIPD1M-1/DET/{}CH0", "modules": range(16)},
    "agipd500k-hed": {"short": "AGIPD", "source": "HED_DET_AGIPD500K2G/DET/{}CH0", "modules": range(8)},
    "lpd1m-fxe": {"short": "LPD", "source": "FXE_DET_LPD1M-1/DET/{}CH0", "modules": range(16)},
    "dssc1m-scs": {"short": "DSSC", "source": "SCS_DET_DSSC1M-1/DET/{}CH0", "modules": range(16)},
    "jungfrau1m-fxe": {"short": "JNGFR", "source": "FXE_XAD_JF1M/DET/JNGFR{:02}", "modules": range(1, 3)},
    "jungfrau500k-fxe": {"short": "JNGFR", "source": "FXE_XAD_JF500K/DET/JNGFR{:02}", "modules": range(3, 4)},
}
SHAPES = {"AGIPD": (512, 128), "LPD": (256, 256), "DSSC": (128, 512), "JNGFR": (512, 1024)}
FRAMES_PER_TRAIN = 16


class FixedTime(datetime):
    """The writers stamp files with the time of writing; the demo's are always of one day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "FixedTime":
        return cls(2022, 10, 27, 9, 24, 32, tzinfo=tz or UTC)


def device(short: str, source: str) -> Any:
    if short == "JNGFR":
        return examples.JUNGFRAUModule(source, raw=True)
    module = {"AGIPD": examples.AGIPDModule, "LPD": examples.LPDModule, "DSSC": examples.DSSCModule}[short]
    return module(source, frames_per_train=FRAMES_PER_TRAIN)


def radius(shape: tuple[int, int], number: int) -> np.ndarray:
    """Distance of each pixel from the beam: it passes between two JUNGFRAU modules, else between two columns."""
    rows, columns = shape
    if shape == SHAPES["JNGFR"]:
        y = np.arange(rows)[:, None] + (20 if number % 2 == 0 else -rows - 20)
        return np.hypot(y, np.arange(columns)[None, :] - columns / 2)
    row, column = divmod(number, 2)
    from_top = np.arange(rows)[:, None] - rows * 0.5 + (row - 3.5) * rows * 0.12
    x = np.arange(columns)[None, :] + (12 if column else -columns - 12)
    return np.hypot(from_top, x)


def rings(rng: np.random.Generator, shape: tuple[int, int], number: int) -> np.ndarray:
    r = radius(shape, number)
    expected = 6 * np.exp(-r / 160)
    for place, strength, width in ((70, 9, 5), (118, 6, 6), (171, 5, 7), (243, 3, 9), (330, 2, 11)):
        expected += strength * np.exp(-(((r - place) / width) ** 2))
    return rng.poisson(expected)


def spots(rng: np.random.Generator, shape: tuple[int, int], number: int) -> np.ndarray:
    """Bragg spots, fewer and weaker outwards, over the ring of the liquid around the crystal."""
    rows, columns = shape
    r = radius(shape, number)
    expected = 1.2 * np.exp(-r / 300) + 2.2 * np.exp(-(((r - 240) / 70) ** 2))
    for _ in range(rows * columns // 3000):
        y, x = rng.integers(6, rows - 6), rng.integers(6, columns - 6)
        strength = rng.exponential(60) * np.exp(-r[y, x] / 320)
        patch = np.hypot(*np.mgrid[-6:7, -6:7])
        expected[y - 6 : y + 7, x - 6 : x + 7] += strength * np.exp(-((patch / 2.4) ** 2))
    return rng.poisson(expected)


def photons(rng: np.random.Generator, shape: tuple[int, int], number: int) -> np.ndarray:
    """Single photons of a small particle: many near the beam, few further out, in fringes."""
    r = radius(shape, number)
    return rng.poisson(0.9 * np.exp(-r / 90) * (1 + np.cos(r / 11)) + 0.01)


PATTERNS = {"rings": rings, "spots": spots, "photons": photons}


def fill(file: h5py.File, task: dict[str, Any], short: str, source: str, number: int) -> None:
    """Put a frame with a pedestal, and 40 units per photon, into each of the first trains."""
    pattern, shape = PATTERNS[task["pattern"]], SHAPES[short]
    for train in range(min(task["filled"], task["trains"], 8)):
        rng = np.random.default_rng([task["proposal"], task["run"], number, train])
        counts = pattern(rng, shape, number)
        frame = np.clip(200 + rng.normal(0, 4, shape) + 40 * counts, 0, 16_000).astype("u2")
        if short == "JNGFR":
            file[f"INSTRUMENT/{source}:daqOutput/data/adc"][train, 0] = frame
            continue
        images = file[f"INSTRUMENT/{source}:xtdf/image/data"]
        images[train * FRAMES_PER_TRAIN, 0] = frame
        if short == "AGIPD":
            images[train * FRAMES_PER_TRAIN, 1] = 6200


def write(task: dict[str, Any], folder: Path) -> None:
    detector = DETECTORS[task["detector"]]
    common = {"ntrains": task["trains"], "firsttrain": task["first_train"], "format_version": "1.2"}
    stem = f"RAW-R{task['run']:04}"
    for number in detector["modules"]:
        short, source = detector["short"], detector["source"].format(number)
        path = folder / f"{stem}-{short}{number:02}-S00000.h5"
        examples.write_file(str(path), [device(short, source)], chunksize=1 if short == "JNGFR" else 32, **common)
        with h5py.File(path, "r+") as file:
            fill(file, task, short, source, number)
            file["METADATA/proposalNumber"][...] = task["proposal"]
    path = folder / f"{stem}-DA01-S00000.h5"
    examples.write_file(str(path), [examples.XGM("SA1_XTD2_XGM/DOOCS/MAIN")], chunksize=32, **common)
    with h5py.File(path, "r+") as file:
        file["METADATA/proposalNumber"][...] = task["proposal"]


def make(task: dict[str, Any]) -> str:
    """Write beside its place and rename when whole: a run is there or it is not."""
    folder = Path(task["folder"])
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(task, partial)
        for path in partial.iterdir():
            path.chmod(0o644)
        partial.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        return f"cannot be written: {error.strerror or error}"
    return ""


def main() -> None:
    os.umask(0o022)
    base.datetime = FixedTime
    print(json.dumps({task["folder"]: make(task) for task in json.load(sys.stdin)}))


if __name__ == "__main__":
    main()
