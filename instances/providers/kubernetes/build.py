"""Build an image for pods without a registry: `make pod-image`, or this file as a program, as root.

The recipe is deploy/images/<reference>: its `install` makes a plain Debian (debootstrap) into the image, as its
Containerfile does with one from a registry. The result is an OCI archive below ~/.cache/beamport, named after the
digest of all that the recipe says; `ctr images import`, `podman load` and `skopeo copy oci-archive:` read it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

RECIPES = Path(__file__).resolve().parents[3] / "deploy" / "images"
CACHE = Path.home() / ".cache" / "beamport"
RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
#: what the Containerfile says of the same image
PATH = "/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin"
CONFIG = {
    "User": "1000:100",
    "WorkingDir": "/work",
    "Env": [f"PATH={PATH}", "LANG=C.UTF-8"],
    "ExposedPorts": {"8888/tcp": {}},
    "Cmd": ["/opt/jupyter/bin/start-pod"],
}
#: how this host reaches registries, which the recipe's own downloads need too
_REGISTRIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

#: $1 the image's root, $2 the recipe, $3 the mirror; what is mounted goes with this shell
_MAKE = f"""
debootstrap --variant=minbase {RELEASE} "$1" "$3"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mkdir "$1/recipe" "$1/recipe.etc"
mount --bind "$2" "$1/recipe"
mount -t tmpfs recipe "$1/recipe.etc"
cp -L {_CERTIFICATES} "$1/recipe.etc/certificates.crt" 2>/dev/null || true
cp -L /etc/resolv.conf "$1/etc/resolv.conf"
chroot "$1" /recipe/install
"""


class CannotBuild(Exception):
    """The image cannot be built; the text says why."""


def digest(reference: str) -> str:
    """Return what tells two builds apart: each file of the recipe, and how it is carried out."""
    folder = RECIPES / reference
    laid = sorted(path for path in (folder / "files").rglob("*") if path.is_file())
    total = hashlib.sha256(repr((_MAKE, CONFIG, platform.machine())).encode())
    for path in (folder / "requirements.txt", folder / "install", folder / "start-pod", *laid):
        total.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def name(reference: str) -> str:
    """Return the image's name, as a plan's image says it."""
    return f"localhost/beamport/{reference}:{digest(reference)}"


def archive(reference: str) -> Path:
    """Return where the image lies, or would lie."""
    return CACHE / f"pod-{reference}-{digest(reference)}.tar"


def build(reference: str) -> Path:
    """Return the image's archive; it is built if need be, by one process at a time."""
    if not (RECIPES / reference / "install").is_file():
        raise CannotBuild(f"deploy/images/{reference} has no recipe for pods.")
    target = archive(reference)
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f".pod-{reference}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            _make(reference, target)
            for old in sorted(CACHE.glob(f"pod-{reference}-*.tar"), key=lambda path: path.stat().st_mtime)[:-2]:
                old.unlink()
    return target


def _make(reference: str, target: Path) -> None:
    if os.geteuid() != 0:
        raise CannotBuild("Only root can make a Debian system in a folder.")
    if shutil.which("debootstrap") is None:
        raise CannotBuild("debootstrap is missing: apt-get install debootstrap")
    with tempfile.TemporaryDirectory(prefix=".pod-", dir=CACHE) as temporary:
        root = Path(temporary) / "root"
        root.mkdir(mode=0o755)
        mirror = os.environ.get("BEAMPORT_DEBIAN_MIRROR", MIRROR)
        _run("sh", "-euc", _MAKE, "make", str(root), str(RECIPES / reference), mirror)
        for leftover in ("recipe", "recipe.etc"):
            (root / leftover).rmdir()
        (root / "etc" / "resolv.conf").unlink()
        packed = Path(temporary) / "image.tar"
        pack(root, packed, name(reference), CONFIG)
        packed.rename(target)


def _run(*argv: str) -> None:
    """Run in a mount and a process namespace of its own: whatever happens, nothing stays mounted or running."""
    kept = {key: os.environ[key] for key in _REGISTRIES if key in os.environ}
    inside = "/recipe.etc/certificates.crt"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = kept | {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
    if _CERTIFICATES.is_file():
        environment |= {"PIP_CERT": inside, "SSL_CERT_FILE": inside}
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
    done = subprocess.run([*apart, *argv], env=environment, capture_output=True, text=True, umask=0o022, timeout=1800)
    if done.returncode:
        raise CannotBuild((done.stderr.strip() + "\n" + done.stdout.strip())[-2000:])


# ---- an OCI archive (image-spec 1.1: image layout, manifest, configuration) ----
def pack(tree: Path, target: Path, reference: str, config: dict[str, Any]) -> None:
    """Write a folder as an image of one layer."""
    with tempfile.TemporaryFile(dir=target.parent) as layer, tarfile.open(target, "w") as out:
        layer_digest, size = _layer(tree, layer)
        blobs: dict[str, bytes] = {}
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]}
        about = {"architecture": machine, "os": "linux", "config": config, "rootfs": rootfs}
        layers = [_descriptor("application/vnd.oci.image.layer.v1.tar", layer_digest, size)]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _blob(blobs, "application/vnd.oci.image.config.v1+json", about),
            "layers": layers,
        }
        named = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference}
        entry = _blob(blobs, "application/vnd.oci.image.manifest.v1+json", manifest) | {"annotations": named}
        _add(out, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for found, data in blobs.items():
            _add(out, f"blobs/sha256/{found}", data)
        layer.seek(0)
        described = tarfile.TarInfo(f"blobs/sha256/{layer_digest}")
        described.size = size
        out.addfile(described, layer)


class _Counted(io.RawIOBase):
    """Passes what is written on, and knows its digest and size."""

    def __init__(self, target: IO[bytes]) -> None:
        self.target, self.digest, self.size = target, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.target.write(data)


def _layer(tree: Path, target: IO[bytes]) -> tuple[str, int]:
    counted = _Counted(target)
    with tarfile.open(fileobj=counted, mode="w|") as out:
        # a runtime brings its own devices
        out.add(tree, arcname=".", filter=lambda member: None if member.isdev() else member)
    return counted.digest.hexdigest(), counted.size


def _descriptor(media: str, found: str, size: int) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{found}", "size": size}


def _blob(blobs: dict[str, bytes], media: str, content: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(content, sort_keys=True).encode()
    found = hashlib.sha256(data).hexdigest()
    blobs[found] = data
    return _descriptor(media, found, len(data))


def _add(out: tarfile.TarFile, path: str, data: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size = len(data)
    out.addfile(member, io.BytesIO(data))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build an image for pods, once.")
    parser.add_argument("reference", nargs="?", default="jupyter", help="a folder of deploy/images")
    given = parser.parse_args(argv)
    try:
        print(f"{name(given.reference)}\n{build(given.reference)}")
    except (CannotBuild, OSError, subprocess.TimeoutExpired) as error:
        print(f"The image {given.reference} was not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
