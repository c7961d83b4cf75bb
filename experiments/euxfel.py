"""European XFEL runs: make EXtra-data's file map once, so that a run opens fast from a read-only folder.

`RunDirectory` keeps `karabo_data_map.json` in the run's folder, with a temporary file's mode (0600). It is written here
by the interpreter that instances use (setting EXTRA_DATA_PYTHON), in its own process: HDF5 files are foreign input and
are never opened by the portal.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings

MAP = "karabo_data_map.json"
SCRIPT = Path(__file__).resolve().parent / "euxfel_open.py"
#: a run of thousands of files on a busy file system
TIMEOUT_PER_RUN = 120


def has_map(folder: Path) -> bool:
    """Tell whether a map that everybody may read stands for the files as they are now."""
    path = folder / MAP
    try:
        if not path.stat().st_mode & 0o004:
            return False
        known = {entry["filename"]: (entry["mtime"], entry["size"]) for entry in json.loads(path.read_bytes())}
        return all(known.get(file.name) == (file.stat().st_mtime, file.stat().st_size) for file in _files(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.h5"))


def interpreter() -> Path:
    return Path(settings.EXTRA_DATA_PYTHON)


def missing_interpreter() -> str:
    """Say what to do when there is no interpreter with EXtra-data; empty when there is one."""
    path = interpreter()
    if os.access(path, os.X_OK) and path.is_file():
        return ""
    return (
        f"{path} does not exist, and European XFEL runs are opened with it once. Build the analysis image first, "
        "or set EXTRA_DATA_PYTHON to a Python that has EXtra-data."
    )


def make_maps(folders: Iterable[Path]) -> dict[Path, str]:
    """Open the runs that have no good map; return what was wrong, by folder. Nothing to do costs no process."""
    wanted = [folder for folder in dict.fromkeys(folders) if not has_map(folder)]
    if not wanted:
        return {}
    reason = missing_interpreter()
    if reason:
        return dict.fromkeys(wanted, reason)
    answers = run_script(SCRIPT, [str(folder) for folder in wanted], TIMEOUT_PER_RUN * len(wanted))
    return {folder: answers.get(str(folder), "EXtra-data gave no answer") or _open_up(folder) for folder in wanted}


def _open_up(folder: Path) -> str:
    """Let every uid read the map."""
    path = folder / MAP
    try:
        path.chmod(0o644)
    except OSError as error:
        return f"{path} could not be written: {error.strerror}"
    return ""


def run_script(script: Path, task: object, timeout: float) -> dict[str, str]:
    """Run one of our scripts by the image's interpreter; it answers with a JSON object on its standard output."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(interpreter()), "-I", str(script)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(task),
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        answers = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        raise RuntimeError(f"{script.name}: {last[0]}") from error
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        raise RuntimeError(f"{script.name}: {error or type(error).__name__}") from error
    return dict(answers)
