"""Write demo runs as NeXus NXmx files: a crystal turned in the beam. Executed by the image's interpreter alone.

Geometry and spots belong together: each reflection of an invented lysozyme crystal lies where Ewald's sphere puts it,
so that the file can be indexed. The same task always gives the same bytes. Standard input: a JSON list of tasks
{folder, proposal, run, start}. Last line of standard output: a JSON object, folder to reason (empty: fine).
"""

import json
import os
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FRAMES, SIDE = 12, 512
PIXEL, DISTANCE = 150e-6, 0.09
WAVELENGTH = 1.3332
#: turn of the crystal from frame to frame, in degrees
STEP = 0.25
CELL = (79.1, 79.1, 37.9)
RESOLUTION = 3.2
CENTRE = (SIDE / 2 + 3.4, SIDE / 2 - 5.8)
EXPOSURE = 0.1

#: where what stands; the axes of NeXus: z with the beam, y up
BEAM, AXIS = np.array([0, 0, 1.0]), np.array([-1.0, 0, 0])
FAST, SLOW = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0])


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Rodrigues: the matrix that turns about an axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def reflections(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal lattice points of a crystal lying somehow, and how strong each is."""
    most = [int(length / RESOLUTION) for length in CELL]
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), -1).reshape(-1, 3)
    points = hkl / np.array(CELL)
    lengths = np.linalg.norm(points, axis=1)
    inside = (lengths > 1 / 40) & (lengths < 1 / RESOLUTION)
    lying = rotation(np.array([0.6, 0.48, 0.64]), 37.0)
    strength = rng.exponential(900, len(points)) * np.exp(-18 * lengths**2)
    return (points @ lying.T)[inside], strength[inside]


def spots(points: np.ndarray, strength: np.ndarray, omega: float) -> np.ndarray:
    """Expected counts of one frame: each reflection that touches Ewald's sphere, where its ray meets the detector."""
    turned = points @ rotation(AXIS, omega).T
    rays = turned + BEAM / WAVELENGTH
    off = (np.linalg.norm(rays, axis=1) - 1 / WAVELENGTH) / 4e-4
    lit = (np.abs(off) < 3) & (rays[:, 2] > 0)
    rays, bright = rays[lit], strength[lit] * np.exp(-(off[lit] ** 2))
    at = rays * (DISTANCE / rays[:, 2:])
    columns, rows = at @ FAST / PIXEL + CENTRE[0], at @ SLOW / PIXEL + CENTRE[1]
    frame = np.zeros((SIDE, SIDE))
    y, x = np.mgrid[-4:5, -4:5]
    for column, row, counts in zip(columns, rows, bright, strict=True):
        c, r = round(column), round(row)
        if 4 <= c < SIDE - 4 and 4 <= r < SIDE - 4:
            shape = np.exp(-((x - (column - c)) ** 2 + (y - (row - r)) ** 2) / 2.2)
            frame[r - 4 : r + 5, c - 4 : c + 5] += counts * shape / shape.sum()
    return frame


def frames(rng: np.random.Generator) -> np.ndarray:
    """All frames: spots over the broad ring of the solvent; the beam stop's shadow in the middle."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    radius = np.hypot(columns - CENTRE[0], rows - CENTRE[1]) * PIXEL
    background = 2.5 * np.exp(-radius / 0.02) + 1.5 * np.exp(-(((radius - 0.036) / 0.012) ** 2))
    points, strength = reflections(rng)
    made = [rng.poisson(background + spots(points, strength, number * STEP)) for number in range(FRAMES)]
    images = np.clip(made, 0, 65_000).astype("u2")
    images[:, radius < 12 * PIXEL] = 0
    return images


# ---- the file ----
def group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    made = parent.create_group(name)
    made.attrs["NX_class"] = kind
    return made


def put(parent: h5py.Group, name: str, value: Any, units: str = "", **attributes: Any) -> None:
    parent[name] = value
    if units:
        parent[name].attrs["units"] = units
    for key, text in attributes.items():
        parent[name].attrs[key] = text


def axis(parent: h5py.Group, name: str, value: Any, units: str, kind: str, vector: np.ndarray, on: str) -> None:
    """One axis of a chain; the chain ends at `.`, the laboratory."""
    still = {"offset": np.zeros(3), "offset_units": "m"}
    put(parent, name, value, units, transformation_type=kind, vector=vector, depends_on=on, **still)


def write(path: Path, task: dict[str, Any]) -> None:
    images = frames(np.random.default_rng([task["proposal"], task["run"]]))
    start = datetime.fromisoformat(task["start"])
    end = start + timedelta(seconds=FRAMES * EXPOSURE)
    with h5py.File(path, "w") as file:
        file.attrs.update(default="entry", file_name=path.name, file_time=_utc(end))
        entry = group(file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        put(entry, "definition", "NXmx")
        put(entry, "title", "Hen egg-white lysozyme, turned in the beam (invented)")
        put(entry, "start_time", _utc(start))
        put(entry, "end_time", _utc(end))
        put(entry, "end_time_estimated", _utc(end))
        put(group(entry, "source", "NXsource"), "name", "European XFEL (demo)", short_name="EuXFEL")
        data = group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        data.create_dataset("data", data=images, chunks=(1, SIDE, SIDE), compression="gzip", shuffle=True)
        _sample(entry)
        instrument = group(entry, "instrument", "NXinstrument")
        put(instrument, "name", "SPB/SFX", short_name="SPB")
        put(instrument, "time_zone", start.isoformat()[-6:])
        _beam(instrument)
        _detector(instrument, images)


def _utc(moment: datetime) -> str:
    return (moment - (moment.utcoffset() or timedelta())).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _sample(entry: h5py.Group) -> None:
    sample = group(entry, "sample", "NXsample")
    put(sample, "name", "hen egg-white lysozyme")
    put(sample, "depends_on", "/entry/sample/transformations/omega")
    put(sample, "temperature", 100.0, "K")
    turns = group(sample, "transformations", "NXtransformations")
    axis(turns, "omega", np.arange(FRAMES) * STEP, "deg", "rotation", AXIS, ".")


def _beam(instrument: h5py.Group) -> None:
    beam = group(instrument, "beam", "NXbeam")
    put(beam, "incident_wavelength", WAVELENGTH, "angstrom")
    put(beam, "total_flux", 1e12, "Hz")
    put(beam, "incident_beam_size", np.array([5e-6, 5e-6]), "m")
    put(beam, "profile", "Gaussian")
    put(beam, "incident_polarisation_stokes", np.tile([1.0, 1.0, 0.0, 0.0], (FRAMES, 1)))


def _detector(instrument: h5py.Group, images: np.ndarray) -> None:
    where = "/entry/instrument/detector"
    detector = group(instrument, "detector", "NXdetector")
    detector["data"] = h5py.SoftLink("/entry/data/data")
    put(detector, "description", "JUNGFRAU, 2 × 2 pixels as one (invented)")
    put(detector, "depends_on", f"{where}/transformations/distance")
    put(detector, "sensor_material", "Si")
    put(detector, "sensor_thickness", 320e-6, "m")
    put(detector, "distance", DISTANCE, "m")
    put(detector, "distance_derived", False)
    put(detector, "count_time", EXPOSURE, "s")
    put(detector, "beam_center_x", CENTRE[0], "pixel")
    put(detector, "beam_center_y", CENTRE[1], "pixel")
    put(detector, "x_pixel_size", PIXEL, "m")
    put(detector, "y_pixel_size", PIXEL, "m")
    put(detector, "bit_depth_readout", 16)
    put(detector, "saturation_value", 65_000)
    mask = (images == 0).all(axis=0).astype("u4")
    detector.create_dataset("pixel_mask", data=mask, compression="gzip")
    chain = group(detector, "transformations", "NXtransformations")
    axis(chain, "distance", DISTANCE, "m", "translation", BEAM, ".")
    module = group(detector, "module", "NXdetector_module")
    put(module, "data_origin", np.array([0, 0]))
    put(module, "data_size", np.array(images.shape[1:]))
    corner = -(CENTRE[0] * FAST + CENTRE[1] * SLOW) * PIXEL
    length = float(np.linalg.norm(corner))
    base = f"{where}/transformations/distance"
    axis(module, "module_offset", length, "m", "translation", corner / length, base)
    axis(module, "fast_pixel_direction", PIXEL, "m", "translation", FAST, f"{where}/module/module_offset")
    axis(module, "slow_pixel_direction", PIXEL, "m", "translation", SLOW, f"{where}/module/module_offset")
    _groups(instrument)


def _groups(instrument: h5py.Group) -> None:
    names = group(instrument, "detector_group", "NXdetector_group")
    put(names, "group_names", np.array(["detector"], dtype=h5py.string_dtype()))
    put(names, "group_index", np.array([1]))
    put(names, "group_parent", np.array([-1]))


def make(task: dict[str, Any]) -> str:
    """Write beside its place and rename when whole: a run is there or it is not."""
    folder = Path(task["folder"])
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        path = partial / f"p{task['proposal']}_r{task['run']:04}.nxs"
        write(path, task)
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
    print(json.dumps({task["folder"]: make(task) for task in json.load(sys.stdin)}))


if __name__ == "__main__":
    main()
