"""The demo's proposals in the import format: two with open data, one under embargo. All people are invented.

Runs, dates, samples and techniques of the first follow the European XFEL's example proposal 700000.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

OPEN = "p700000"
NEXUS = "p700001"
CLOSED = "p700100"
CYCLE = "201750"
BERLIN = ZoneInfo("Europe/Berlin")
#: the detector of runs that are NeXus files
NXMX = "nxmx"
#: rises when the files of the demo change: they are then written anew
VERSION = 1

INSTRUMENTS = {"SPB": "SPB/SFX", "FXE": "FXE", "SCS": "SCS", "MID": "MID", "HED": "HED"}
SFX, SPI = "serial femtosecond crystallography", "single particle imaging"
SAXS, POWDER = "small-angle X-ray scattering", "X-ray powder diffraction"
CRYSTAL = "macromolecular crystallography"
TR_SAXS, XPCS = "time-resolved small-angle X-ray scattering", "X-ray photon correlation spectroscopy"


@dataclass(frozen=True)
class Run:
    """One run; `detector` when it has data; European XFEL files show `pattern` in `filled` trains."""

    number: int
    start: str
    instrument: str
    technique: str
    sample: str
    device: str
    detector: str = ""
    pattern: str = ""
    filled: int = 2
    proposal: str = OPEN

    @property
    def trains(self) -> int:
        return 40 + self.number % 7 * 5

    @property
    def first_train(self) -> int:
        return 1_200_000_000 + int(self.proposal[1:]) % 1000 * 1_000_000 + self.number * 10_000

    @property
    def format(self) -> str:
        return "nexus-nxmx" if self.detector == NXMX else "euxfel-hdf5"

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.start).replace(tzinfo=BERLIN)

    def folder(self, root: Path) -> Path:
        return root / self.instrument / CYCLE / self.proposal / "raw" / f"r{self.number:04}"

    def task(self, root: Path) -> dict[str, Any]:
        """What make_runs.py or make_nxmx.py needs to write it."""
        return {
            "folder": str(self.folder(root)),
            "proposal": int(self.proposal[1:]),
            "run": self.number,
            "start": self.started.isoformat(),
            "detector": self.detector,
            "pattern": self.pattern,
            "filled": self.filled,
            "trains": self.trains,
            "first_train": self.first_train,
        }

    def record(self) -> dict[str, Any]:
        datasets = [{"name": "raw", "format": self.format}] if self.detector else []
        return {
            "id": f"{self.proposal}/r{self.number:04}",
            "title": f"{_short(self.technique)} on {self.sample}, {self.device} detector",
            "run_number": self.number,
            "instrument": self.instrument,
            "cycle": CYCLE,
            "sample": self.sample,
            "technique": self.technique,
            "start_at": self.started.isoformat(),
            "end_at": (self.started + timedelta(seconds=self.trains * 0.1 + 300)).isoformat(),
            "datasets": datasets,
        }


def _short(technique: str) -> str:
    short = {SFX: "SFX", SPI: "SPI", SAXS: "SAXS", POWDER: "Powder diffraction", XPCS: "XPCS", CRYSTAL: "MX"}
    return short.get(technique, "Time-resolved SAXS")


WITH_DATA = (
    Run(26, "2019-08-23T07:08:02", "SCS", TR_SAXS, "Ni75-11", "DSSC", "dssc1m-scs", "rings"),
    Run(27, "2019-09-21T01:12:49", "MID", SAXS, "silica spheres, 50 nm", "AGIPD", "agipd1m-mid", "rings"),
    Run(29, "2020-03-09T01:07:51", "SPB", SFX, "hen egg-white lysozyme", "AGIPD", "agipd1m-spb", "spots"),
    Run(30, "2020-03-09T01:20:02", "SPB", SFX, "hen egg-white lysozyme", "AGIPD", "agipd1m-spb", "spots"),
    Run(31, "2021-04-15T08:48:26", "SPB", SFX, "hen egg-white lysozyme", "AGIPD", "agipd1m-spb", "spots"),
    Run(33, "2021-04-10T14:48:20", "FXE", SAXS, "Vycor glass", "LPD", "lpd1m-fxe", "rings", 3),
    Run(34, "2021-06-01T02:25:08", "SPB", SPI, "sucrose solution 3% v/v", "AGIPD", "agipd1m-spb", "photons"),
    Run(36, "2021-09-14T19:02:11", "HED", POWDER, "lanthanum hexaboride", "AGIPD", "agipd500k-hed", "rings"),
    Run(38, "2022-05-12T22:31:47", "FXE", SAXS, "water jet", "LPD", "lpd1m-fxe", "rings", 3),
    Run(39, "2022-06-18T04:15:30", "FXE", SFX, "thaumatin", "JUNGFRAU", "jungfrau1m-fxe", "spots", 4),
)
#: when the later runs without data were taken; the first 25 came every 26 days
_STARTS = {28: "2019-11-30T16:40:00", 32: "2021-04-09T20:15:00", 35: "2021-07-18T03:30:00", 37: "2022-02-11T12:05:00"}
_KINDS = (
    ("SPB", SFX, "hen egg-white lysozyme", "AGIPD"),
    ("SPB", SPI, "gold nanoparticles", "AGIPD"),
    ("FXE", SAXS, "colloidal silica", "LPD"),
    ("MID", XPCS, "PNIPAM microgel", "AGIPD"),
    ("HED", POWDER, "lanthanum hexaboride", "AGIPD"),
    ("SCS", TR_SAXS, "Ni75-11", "DSSC"),
)


def _record_only(number: int) -> Run:
    start = datetime(2017, 10, 13, 9, 30) + timedelta(days=26 * number, minutes=37 * number)
    instrument, technique, sample, device = _KINDS[number % len(_KINDS)]
    return Run(number, _STARTS.get(number, start.isoformat()), instrument, technique, sample, device)


def open_runs() -> list[Run]:
    """All 39 runs of the open proposal."""
    with_data = {run.number: run for run in WITH_DATA}
    return [with_data.get(number) or _record_only(number) for number in range(1, 40)]


CLOSED_RUNS = tuple(
    Run(number, start, "FXE", technique, "light-switchable protein", "JUNGFRAU", detector, pattern, 4, CLOSED)
    for number, start, technique, detector, pattern in (
        (1, "2026-02-03T18:20:00", SFX, "jungfrau500k-fxe", "spots"),
        (2, "2026-02-03T19:05:40", SFX, "jungfrau500k-fxe", "spots"),
        (3, "2026-02-04T02:44:12", SAXS, "", ""),
    )
)


NEXUS_RUNS = (
    Run(1, "2018-06-14T10:12:00", "SPB", CRYSTAL, "hen egg-white lysozyme", "JUNGFRAU", NXMX, proposal=NEXUS),
)


def runs_with_data() -> list[Run]:
    return [run for run in (*open_runs(), *NEXUS_RUNS, *CLOSED_RUNS) if run.detector]


def catalogue(root: Path) -> dict[str, Any]:
    """Return the demo as an import file whose data lie below `root`."""
    return {
        "facility": {
            "slug": "xfel",
            "name": "European XFEL (demo)",
            "time_zone": "Europe/Berlin",
            "data_path_template": f"{root}/{{instrument}}/{{cycle}}/{{proposal}}/raw/r{{run:04d}}",
            "embargoed_metadata": "none",
            "open_data_enabled": True,
            "contact": "open.data@facility.example",
        },
        "instruments": [{"code": code, "name": name} for code, name in INSTRUMENTS.items()],
        "cycles": [{"name": CYCLE, "start_at": "2017-11-08", "end_at": "2017-12-31T23:59:59"}],
        "persons": [
            {"id": "X-1001", "name": "Ada Lamprecht"},
            {"id": "X-1002", "name": "Ben Okafor"},
            {"id": "X-1003", "name": "Olga Perator"},
        ],
        "proposals": [_open(), _nexus(), _closed()],
    }


def _open() -> dict[str, Any]:
    return {
        "identifier": OPEN,
        "title": "Example data: diffraction and scattering at a free-electron laser",
        "abstract": (
            "Example data for learning and testing, taken with the detectors AGIPD, LPD, DSSC and JUNGFRAU: serial "
            "femtosecond crystallography, single particle imaging, powder diffraction, small-angle scattering and "
            "photon correlation spectroscopy.\n\n"
            "In this demo the files have the structure of real ones, but what they show is invented: rings, spots and "
            "sparse photons in a few trains of each run, zeros in the others."
        ),
        "pid": "10.22003/XFEL.EU-DATA-700000-00",
        "license": "CC-BY-4.0",
        "contact": "open.data@facility.example",
        "creators": [
            {"name": "Marchetti, Livia", "role": "principal investigator", "affiliation": "Demo Facility"},
            {"name": "Thorvaldsen, Nils", "role": "main proposer", "affiliation": "Demo Facility"},
            {"name": "Abara, Chidi", "affiliation": "University of Somewhere"},
        ],
        "start_at": "2017-11-08",
        "end_at": "2017-12-31T23:59:59",
        "embargo_until": "2018-01-01",
        "released_at": "2022-10-27T11:24:32",
        "release_policy": "manual",
        "experiments": [run.record() for run in open_runs()],
    }


def _nexus() -> dict[str, Any]:
    return {
        "identifier": NEXUS,
        "title": "A crystal turned in the beam, in NeXus NXmx",
        "abstract": (
            "Twelve frames of a lysozyme crystal as one NeXus file of the application definition NXmx, with beam, "
            "goniometer and detector geometry. What they show is computed: the spots lie where the geometry puts them."
        ),
        "pid": "10.22003/XFEL.EU-DATA-700001-00",
        "license": "CC-BY-4.0",
        "contact": "open.data@facility.example",
        "creators": [{"name": "Marchetti, Livia", "role": "principal investigator", "affiliation": "Demo Facility"}],
        "start_at": "2018-06-14",
        "end_at": "2018-06-15",
        "embargo_until": "2021-06-15",
        "experiments": [run.record() for run in NEXUS_RUNS],
    }


def _closed() -> dict[str, Any]:
    return {
        "identifier": CLOSED,
        "title": "Nanosecond motion of a light-switchable protein",
        "abstract": "A pump-probe study of an invented protein. Under embargo: only its team sees this page.",
        "pid": "10.22003/XFEL.EU-DATA-700100-00",
        "license": "CC-BY-4.0",
        "creators": [{"name": "Lamprecht, Ada", "role": "principal investigator", "affiliation": "Demo University"}],
        "start_at": "2026-02-03",
        "end_at": "2026-02-05",
        "embargo_until": "2036-02-05",
        "team": ["X-1001"],
        "experiments": [run.record() for run in CLOSED_RUNS],
    }
