"""Build the lab's programs from their Go modules, once: `python -m tests.labs.kubernetes build`.

They lie in ~/.cache/beamport/kubernetes-<digest>, the digest being that of go.mod, go.sum and the recipe below. From
nothing it takes minutes, 2 GB of memory and 6 GB of disk for Go's own caches; with them a quarter of a minute.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "beamport"
VERSION = "v1.36.3"

_COMMANDS = "k8s.io/kubernetes/cmd"
#: program → the package that it is made from
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": f"{_COMMANDS}/kube-apiserver",
    "kube-controller-manager": f"{_COMMANDS}/kube-controller-manager",
    "kube-scheduler": f"{_COMMANDS}/kube-scheduler",
    "kubectl": f"{_COMMANDS}/kubectl",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
}
_STAMPS = {
    "gitVersion": VERSION,
    "gitMajor": "1",
    "gitMinor": "36",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
}
_LINK = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in _STAMPS.items())])
_BUILD = ("go", "build", "-trimpath", "-tags", "providerless", "-ldflags", _LINK)
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly -p=2"}


class CannotBuild(Exception):
    """The programs were not built; the text says why."""


def digest() -> str:
    """Return what tells two builds apart."""
    total = hashlib.sha256(repr((PROGRAMS, _BUILD, _ENVIRONMENT)).encode())
    for name in ("go.mod", "go.sum"):
        total.update((HERE / name).read_bytes())
    return total.hexdigest()[:12]


def folder() -> Path:
    """Return where the programs lie, or would lie."""
    return CACHE / f"kubernetes-{digest()}"


def is_built() -> bool:
    return all((folder() / name).is_file() for name in PROGRAMS)


def build() -> Path:
    """Return the folder of the programs; they are built if need be, by one process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".kubernetes.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_built():
            _make(folder())
    return folder()


def _make(target: Path) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".kubernetes-", dir=CACHE))
    try:
        for name, package in PROGRAMS.items():
            argv = [*_BUILD, "-o", str(temporary / name), package]
            done = subprocess.run(argv, cwd=HERE, env=os.environ | _ENVIRONMENT, capture_output=True, text=True)
            if done.returncode:
                raise CannotBuild(f"{name}: {done.stderr.strip()[-2000:]}")
        temporary.chmod(0o755)
        temporary.rename(target)
    except FileNotFoundError as error:
        raise CannotBuild("Go 1.26 or newer is needed: https://go.dev/dl") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
