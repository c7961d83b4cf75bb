"""Virtual environments below the state folder, each made once from hashed requirements (standard library only)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from portal.embedded import steps
from portal.embedded.people import CannotStart
from portal.embedded.state import ROOT

REQUIREMENTS = ROOT / "requirements"
#: written last: an environment without it was interrupted and is made anew
COMPLETE = ".complete"


def fingerprint(*parts: str | bytes) -> str:
    """A short name for these inputs."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one set-up at a time work in a folder; the second waits and finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def forget_older(folder: Path, kind: str, keep: int = 2) -> None:
    """Remove all but the environments of this kind used last: each lock file ever used would stay for good."""
    found = sorted(folder.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def is_complete(environment: Path) -> bool:
    """Whether it was made to the end; one that is used again is the newest."""
    if not (environment / COMPLETE).is_file():
        return False
    with contextlib.suppress(OSError):
        os.utime(environment)
    return True


def _locked_version(requirements: Path, name: str) -> tuple[int, ...]:
    for line in requirements.read_text().splitlines():
        if line.startswith(f"{name}=="):
            return tuple(int(part) for part in line.split()[0].partition("==")[2].split("."))
    raise CannotStart(f"{requirements} does not lock {name}.")


def _uv_on_path() -> str | None:
    """A uv that somebody installed, when it is at least as new as the one we lock."""
    found = shutil.which("uv")
    if found:
        with contextlib.suppress(CannotStart, ValueError, IndexError):
            version = tuple(int(part) for part in steps.run([found, "--version"]).split()[1].split("."))
            if version >= _locked_version(REQUIREMENTS / "uv.txt", "uv"):
                return found
    return None


def _check_venv() -> None:
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise CannotStart(
            f"This Python ({sys.executable}) has no {error.name} module. On Debian and Ubuntu: "
            f"apt-get install python{version}-venv (or python3-venv). Or put uv on the PATH."
        ) from error


def uv(folder: Path) -> str:
    """Return a uv to work with: the one on the PATH, else our locked one, installed once by pip."""
    found = _uv_on_path()
    if found:
        return found
    requirements = REQUIREMENTS / "uv.txt"
    place = folder / f"uv-{fingerprint(requirements.read_bytes(), sys.executable, sys.version)}"
    if not is_complete(place):
        _check_venv()
        with steps.step("Getting uv, which installs the rest", "5 s"):
            shutil.rmtree(place, ignore_errors=True)
            steps.run([sys.executable, "-m", "venv", str(place)])
            steps.run(
                [
                    str(place / "bin" / "python"),
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--require-hashes",
                    "--disable-pip-version-check",
                    "--only-binary=:all:",
                    "-r",
                    str(requirements),
                ]
            )
            (place / COMPLETE).touch()
        forget_older(folder, "uv", keep=1)
    return str(place / "bin" / "uv")


def uv_environment() -> dict[str, str]:
    """The system's certificates, no other Python than ours, nothing of an environment that happens to be active."""
    given = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return given | {"UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}


def make(folder: Path, kind: str, what: str, interpreter: Path, version: str) -> Path:
    """Return the Python of the environment for requirements/<kind>.txt, made on this interpreter if need be."""
    requirements = REQUIREMENTS / f"{kind}.txt"
    place = folder / f"{kind}-{fingerprint(requirements.read_bytes(), str(interpreter), version)}"
    python = place / "bin" / "python"
    if is_complete(place) and python.exists():
        return python
    tool = uv(folder)
    with steps.step(f"Installing {what} for Python {version}", "10 to 60 s"):
        shutil.rmtree(place, ignore_errors=True)
        environment = uv_environment()
        steps.run([tool, "venv", "--quiet", "--python", str(interpreter), str(place)], environment=environment)
        steps.run(
            [
                tool,
                "pip",
                "install",
                "--quiet",
                "--python",
                str(python),
                "--require-hashes",
                "--no-deps",
                "--compile-bytecode",
                "-r",
                str(requirements),
            ],
            environment=environment,
        )
        (place / COMPLETE).touch()
    forget_older(folder, kind)
    return python
