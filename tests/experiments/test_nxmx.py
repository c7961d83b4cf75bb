"""The demo's NeXus file: what the application definition NXmx demands is there, and the welcome notebook opens it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from experiments import euxfel
from experiments.demo.catalogue import NEXUS_RUNS
from experiments.demo.load import SCRIPTS
from instances.welcome import RunInfo, notebook

#: what NXmx (nexusformat.org, application definitions) demands, group classes from the entry down, and what is
#: recommended of which a program that indexes cannot do without
DEMANDED = {
    "NXentry": ("definition", "start_time", "end_time_estimated"),
    "NXentry/NXdata": ("data",),
    "NXentry/NXsample": ("name", "depends_on"),
    "NXentry/NXsource": ("name",),
    "NXentry/NXinstrument": ("name",),
    "NXentry/NXinstrument/NXbeam": ("incident_wavelength", "total_flux"),
    "NXentry/NXinstrument/NXdetector": ("sensor_material", "sensor_thickness"),
    "NXentry/NXinstrument/NXdetector/NXdetector_module": (
        "data_origin",
        "data_size",
        "fast_pixel_direction",
        "slow_pixel_direction",
    ),
}
RECOMMENDED = {
    "NXentry/NXsample/NXtransformations": (),
    "NXentry/NXinstrument": ("time_zone",),
    "NXentry/NXinstrument/NXdetector_group": ("group_names", "group_index", "group_parent"),
    "NXentry/NXinstrument/NXbeam": ("incident_beam_size", "profile", "incident_polarisation_stokes"),
    "NXentry/NXinstrument/NXdetector": (
        *("data", "description", "distance", "distance_derived", "count_time"),
        *("beam_center_x", "beam_center_y", "pixel_mask", "bit_depth_readout"),
    ),
}
WITH_UNITS = ("incident_wavelength", "total_flux", "sensor_thickness", "distance", "count_time", "incident_beam_size")


@pytest.fixture
def written(reader: Path, tmp_path: Path) -> Path:
    """The run's folder, written by the image's interpreter."""
    task = NEXUS_RUNS[0].task(tmp_path)
    assert euxfel.run_script(SCRIPTS["nexus-nxmx"], [task], 60) == {task["folder"]: ""}
    return Path(task["folder"])


def of_class(parent: h5py.Group, path: str) -> h5py.Group:
    """Follow a path of NeXus classes; each is there once."""
    for name in path.split("/"):
        (parent,) = (one for one in parent.values() if one.attrs.get("NX_class") == name)
    return parent


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def chain(file: h5py.File, name: str) -> list[h5py.Dataset]:
    """The axes from one down to the laboratory; each says how it moves what."""
    axes = []
    while name != ".":
        axis = file[name]
        assert axis.attrs["transformation_type"] in ("translation", "rotation")
        assert np.linalg.norm(axis.attrs["vector"]) == pytest.approx(1)
        assert len(axis.attrs["offset"]) == 3
        assert axis.attrs["units"] == ("m" if axis.attrs["transformation_type"] == "translation" else "deg")
        axes.append(axis)
        name = axis.attrs["depends_on"]
        assert len(axes) < 10
    return axes


def test_it_holds_what_nxmx_demands(written: Path) -> None:
    with h5py.File(only(written)) as file:
        for demanded in (DEMANDED, RECOMMENDED):
            for path, names in demanded.items():
                group = of_class(file, path)
                assert [name for name in names if name not in group] == [], path
                for name in set(names) & set(WITH_UNITS):
                    assert group[name].attrs["units"], name
        entry = of_class(file, "NXentry")
        assert entry["definition"].asstr()[()] == "NXmx"
        start, end = (datetime.fromisoformat(entry[name].asstr()[()]) for name in ("start_time", "end_time_estimated"))
        assert start < end
        assert start == NEXUS_RUNS[0].started
        assert file[file.attrs["default"]][entry.attrs["default"]].attrs["signal"] == "data"


def test_shapes_and_geometry_belong_together(written: Path) -> None:
    with h5py.File(only(written)) as file:
        detector = of_class(file, "NXentry/NXinstrument/NXdetector")
        frames, *shape = detector["data"].shape
        assert frames > 3
        module = of_class(detector, "NXdetector_module")
        assert (module["data_origin"][:].tolist(), module["data_size"][:].tolist()) == ([0, 0], shape)
        assert list(detector["pixel_mask"].shape) == shape
        assert len(of_class(file, "NXentry/NXinstrument/NXbeam")["incident_polarisation_stokes"]) == frames
        omega = chain(file, of_class(file, "NXentry/NXsample")["depends_on"].asstr()[()])[0]
        assert len(omega) == frames
        assert len(chain(file, detector["depends_on"].asstr()[()])) == 1
        # from the corner along the two pixel directions to the beam's centre: there the beam meets the detector
        at = np.zeros(3)
        for name, centre in (("fast_pixel_direction", "beam_center_x"), ("slow_pixel_direction", "beam_center_y")):
            axis = module[name]
            at += axis.attrs["vector"] * axis[()] * detector[centre][()]
        for axis in chain(file, module["fast_pixel_direction"].attrs["depends_on"]):
            at += axis.attrs["vector"] * axis[()]
        assert at == pytest.approx([0, 0, detector["distance"][()]])


def test_spots_move_from_frame_to_frame_and_the_file_is_small(written: Path) -> None:
    assert only(written).stat().st_size < 4 * 2**20
    with h5py.File(only(written)) as file:
        images = file["entry/data/data"][:]
    bright = [set(np.flatnonzero(image > 60)) for image in images]
    assert all(len(spots) > 20 for spots in bright)
    assert len(bright[0] & bright[-1]) < len(bright[0]) / 4


def test_the_same_run_has_the_same_bytes(written: Path) -> None:
    first = hashlib.sha256(only(written).read_bytes()).hexdigest()
    task = NEXUS_RUNS[0].task(written.parents[4])
    assert Path(task["folder"]) == written
    euxfel.run_script(SCRIPTS["nexus-nxmx"], [task], 60)
    assert hashlib.sha256(only(written).read_bytes()).hexdigest() == first


def test_the_welcome_notebook_runs_on_it_in_the_image(written: Path, reader: Path, tmp_path: Path) -> None:
    """Its cells one after another, from folders that cannot be written."""
    welcome = json.loads(notebook("Crystal", [RunInfo("p700001", 1, "MX", str(written), "nexus-nxmx")]))
    code = "\n".join(cell["source"] for cell in welcome["cells"] if cell["cell_type"] == "code")
    assert "extra_data" not in code
    code += "\nfigure.savefig('picture.png'); print(float(total.std()))"
    only(written).chmod(0o444)
    written.chmod(0o555)
    place = {"MPLBACKEND": "Agg", "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [str(reader), "-c", code], cwd=tmp_path, env=place, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    with h5py.File(only(written)) as file:
        assert f"Sum of counts: {file['entry/data/data'][:].sum(dtype='u8')}\n" in done.stdout
    assert "NXmx — Hen egg-white lysozyme" in done.stdout
    assert "12 frames of 512 × 512 pixels" in done.stdout
    assert float(done.stdout.splitlines()[-1]) > 10, "there is something to see"
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
