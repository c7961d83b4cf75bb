"""Build the environment of a local image once: `python -m instances.providers.local.build jupyter --state DIR`.

The recipe is deploy/images/<reference>: requirements.txt (locked), start (what runs in a session) and files/ (laid
over the environment). What is built lies in DIR/images/<reference>.<digest>, the digest being that of recipe and
interpreter; DIR/images/<reference> is a link to the newest. A session that runs on an older one is not disturbed,
therefore the one before is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instances.providers.local.store import FIRST_UID
from portal.lib.interpreters import NoInterpreter, choose

RECIPES = Path(__file__).resolve().parents[3] / "deploy" / "images"


class CannotBuild(Exception):
    """The image cannot be built; the text says why."""


def recipes() -> list[str]:
    return sorted(path.parent.name for path in RECIPES.glob("*/requirements.txt"))


def recipe(reference: str) -> Path:
    """Return the folder of an image's recipe."""
    if reference not in recipes():
        raise CannotBuild(f"There is no recipe for the image {reference!r}; known are: {', '.join(recipes())}.")
    return RECIPES / reference


def digest(folder: Path, interpreter: str) -> str:
    """Return what tells two builds apart: each file that is built in, and the interpreter."""
    total = hashlib.sha256(interpreter.encode())
    laid = sorted(path for path in (folder / "files").rglob("*") if path.is_file())
    for path in (folder / "requirements.txt", folder / "start", *laid):
        total.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def build(reference: str, state: Path, *, python: str = "", uv: str = "uv") -> Path:
    """Return the folder of the built image; nothing is done when recipe and interpreter are as they were."""
    source = recipe(reference)
    interpreter, version = choose(FIRST_UID, [python] if python else None)
    images = state / "images"
    images.mkdir(mode=0o755, parents=True, exist_ok=True)
    built, link = images / f"{reference}.{digest(source, f'{interpreter} {version}')}", images / reference
    with _alone(images, reference):
        if not built.is_dir():
            _make(built, source, interpreter, uv)
        if not link.is_symlink() or os.readlink(link) != built.name:
            temporary = images / f".{reference}.link"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(built.name)
            temporary.replace(link)
        _prune(images, reference, built)
    return link


def _make(built: Path, source: Path, interpreter: Path, uv: str) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".build-", dir=built.parent))
    environment = temporary / "env"
    python = environment / "bin" / "python"
    requirements = source / "requirements.txt"
    try:
        # relocatable: it is renamed when it is whole, and lies elsewhere inside the sandbox
        _run(uv, "venv", "--quiet", "--relocatable", "--python", interpreter, environment)
        install = ("pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "--no-deps")
        _run(uv, *install, "--python", python, "--requirements", requirements)
        shutil.copytree(source / "files", environment, dirs_exist_ok=True)
        shutil.copy(source / "start", environment / "bin" / "start-session")
        _open_to_all(environment)
        environment.rename(built)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _run(*argv: str | Path) -> None:
    environment = os.environ | {"UV_LINK_MODE": "copy", "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("VIRTUAL_ENV", None)
    command = [str(part) for part in argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, umask=0o022, timeout=1800)
    if done.returncode:
        raise CannotBuild(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-1500:]}")


def _open_to_all(folder: Path) -> None:
    """Make everything readable: wheels may carry, and a cache may keep, modes of their own."""
    for parent, _, names in os.walk(folder):
        os.chmod(parent, 0o755)  # noqa: S103  (sessions of every uid read it)
        for name in names:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode & 0o777
            wanted = 0o755 if mode & 0o100 else 0o644
            if mode != wanted and not os.path.islink(path):
                os.chmod(path, wanted)


@contextmanager
def _alone(images: Path, reference: str) -> Iterator[None]:
    """Let one build of a reference run at a time."""
    with open(images / f".{reference}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prune(images: Path, reference: str, newest: Path) -> None:
    """Keep the newest and the one before."""
    old = [path for path in images.glob(f"{reference}.*") if path.is_dir() and path != newest]
    for path in sorted(old, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the environment of a local image, once.")
    parser.add_argument("reference", help=f"one of: {', '.join(recipes())}")
    parser.add_argument("--state", type=Path, required=True, help="the portal's state folder")
    parser.add_argument("--python", default="", help="the interpreter (default: the first that a session can run)")
    parser.add_argument("--uv", default="uv", help="path of uv")
    given = parser.parse_args(argv)
    try:
        print(build(given.reference, given.state.resolve(), python=given.python, uv=given.uv))
    except (CannotBuild, NoInterpreter, OSError, subprocess.TimeoutExpired) as error:
        print(f"The image {given.reference} was not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
