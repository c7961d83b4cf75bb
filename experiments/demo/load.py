"""Write the demo's files and import its catalogue; the second time nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from experiments import euxfel, importer
from experiments.demo.catalogue import VERSION, Run, catalogue, runs_with_data
from experiments.errors import ImportRefused

HERE = Path(__file__).resolve().parent
SCRIPTS = {"euxfel-hdf5": HERE / "make_runs.py", "nexus-nxmx": HERE / "make_nxmx.py"}
#: all runs together; they take some ten seconds
TIMEOUT = 600
#: bytes that the files take, with room to spare
NEEDED = 300 * 2**20


def load(root: Path) -> importer.Report:
    """Bring files below `root` and records up to date; raises ImportRefused with what hinders it."""
    try:
        write_runs(root)
    except OSError as error:
        raise ImportRefused([f"{error.filename or root}: {error.strerror}"]) from error
    return importer.load(catalogue(root))


def write_runs(root: Path) -> int:
    """Write the runs that are not there; return how many. A run is renamed into place when it is whole."""
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    marker = root / ".demo-version"
    current = marker.is_file() and marker.read_text().strip() == str(VERSION)
    missing = [run for run in runs_with_data() if not (current and run.folder(root).is_dir())]
    if not missing:
        return 0
    _check_can_write(root)
    for written, script in SCRIPTS.items():
        _write([run.task(root) for run in missing if run.format == written], script)
    for run in missing:
        _open_parents(run, root)
    marker.write_text(f"{VERSION}\n")
    return len(missing)


def _write(tasks: list[dict[str, Any]], script: Path) -> None:
    if not tasks:
        return
    try:
        answers = euxfel.run_script(script, tasks, TIMEOUT)
    except RuntimeError as error:
        raise ImportRefused([f"the demo's runs could not be written: {error}"]) from error
    bad = [f"{folder}: {reason}" for folder, reason in answers.items() if reason]
    if bad:
        raise ImportRefused(bad)


def _check_can_write(root: Path) -> None:
    reason = euxfel.missing_interpreter()
    if reason:
        raise ImportRefused([reason])
    free = shutil.disk_usage(root).free
    if free < NEEDED:
        raise ImportRefused(
            [f"{root} has {free // 2**20} MiB left; the demo's data need {NEEDED // 2**20} MiB. Free some space."]
        )


def _open_parents(run: Run, root: Path) -> None:
    """Instances read the data with uids of their own: every folder down to the run is open to look into."""
    for folder in run.folder(root).parents:
        folder.chmod(0o755)
        if folder == root:
            break
