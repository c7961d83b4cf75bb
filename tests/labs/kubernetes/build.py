"""Build the lab's programs from their Go modules, once: `python -m tests.labs.kubernetes build [node]`.

They lie in ~/.cache/beamport/<kind>-<digest>, the digest being that of go.mod, go.sum and the recipe below. From
nothing it takes minutes, 2 GB of memory and 6 GB of disk for Go's own caches; with them a quarter of a minute.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
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
_BUILD = ("build", "-trimpath", "-tags", "providerless", "-ldflags", _LINK)
_NEEDED = "Go 1.26 or newer is needed: https://go.dev/dl"
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly -p=2"}


class CannotBuild(Exception):
    """The programs were not built; the text says why."""


@dataclass(frozen=True)
class Made:
    """Programs that are built together, from one Go module."""

    kind: str
    programs: dict[str, str]
    module: Path = HERE
    #: our own files among what is built
    sources: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What tells two builds apart."""
        total = hashlib.sha256(repr((self.programs, ("go", *_BUILD), _ENVIRONMENT)).encode())
        for name in ("go.mod", "go.sum", *self.sources):
            total.update((self.module / name).read_bytes())
        return total.hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where the programs lie, or would lie."""
        return CACHE / f"{self.kind}-{self.digest}"

    @property
    def is_built(self) -> bool:
        return all((self.folder / name).is_file() for name in self.programs)

    def build(self) -> Path:
        """Return the folder of the programs; they are built if need be, by one process at a time."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with open(CACHE / f".{self.kind}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.is_built:
                _make(self)
        return self.folder


#: level a
CLUSTER = Made("kubernetes", PROGRAMS)
#: what level b needs besides: a node, and what runs containers on it
_RUNTIME = "github.com/containerd/containerd/v2/cmd"
NODE = (
    Made("kubelet", {"kubelet": f"{_COMMANDS}/kubelet", "pause": "./pause"}, sources=("pause/main.go",)),
    Made(
        "containerd",
        {name: f"{_RUNTIME}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        HERE / "containerd",
    ),
)


def folder() -> Path:
    """Return where level a's programs lie, or would lie."""
    return CLUSTER.folder


def is_built() -> bool:
    return CLUSTER.is_built


def build() -> Path:
    """Return the folder of level a's programs, built if need be."""
    return CLUSTER.build()


def build_node() -> dict[str, Path]:
    """Return each program of level b with its path, built if need be."""
    return {name: made.build() / name for made in (CLUSTER, *NODE) for name in made.programs}


def _make(made: Made) -> None:
    go = _go()
    temporary = Path(tempfile.mkdtemp(prefix=f".{made.kind}-", dir=CACHE))
    try:
        for name, package in made.programs.items():
            argv = [go, *_BUILD, "-o", str(temporary / name), package]
            done = subprocess.run(argv, cwd=made.module, env=os.environ | _ENVIRONMENT, capture_output=True, text=True)
            if done.returncode:
                raise CannotBuild(f"{name}: {done.stderr.strip()[-2000:]}\n{_NEEDED}; {go} is {_version(go)}.")
        temporary.chmod(0o755)
        temporary.rename(made.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _go() -> str:
    """Return the Go that is on the path, else that of the place where go.dev has it installed."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        raise CannotBuild(f"{_NEEDED}; there is none.")
    return found


def _version(go: str) -> str:
    """Return its own version, not that of a newer one that it would fetch."""
    done = subprocess.run([go, "version"], cwd="/", env=os.environ | {"GOTOOLCHAIN": "local"}, capture_output=True)
    return done.stdout.decode(errors="replace").removeprefix("go version ").strip() or "none that answers"
