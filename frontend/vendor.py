"""Copy what the pages need from npm packages into frontend/vendor/, as it is: there is no build step.

What only the browser tests need goes to frontend/vendor-tests/, which no server serves.

    python frontend/vendor.py --node <node> --npm-cli <npm-cli.js>

Runs `npm ci` (versions and hashes are in package-lock.json) only when the lock or a copied file has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "pico.min.css": "@picocss/pico/css/pico.min.css",
    "htmx.LICENSE": "htmx.org/LICENSE",
    "pico.LICENSE": "@picocss/pico/LICENSE.md",
    "../vendor-tests/axe.min.js": "axe-core/axe.min.js",
}
STAMP = "vendor.sha256"


def fingerprint(folder: Path) -> str:
    """Return one hash over the lock and the copied files; empty when one of them is missing."""
    seen = hashlib.sha256((HERE / "package-lock.json").read_bytes())
    for name in sorted(FILES):
        path = folder / name
        if not path.is_file():
            return ""
        seen.update(name.encode() + b"\0" + path.read_bytes())
    return seen.hexdigest()


def is_current(folder: Path) -> bool:
    """Tell whether the folder holds exactly what was copied for this lock."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text() != "" and stamp.read_text() == fingerprint(folder)


def install(node: str, npm_cli: str, workplace: Path) -> None:
    """Run `npm ci` in a folder of its own, so that the checkout keeps no node_modules."""
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy2(HERE / name, workplace / name)
    path = os.pathsep.join([str(Path(node).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [node, npm_cli, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=workplace,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            "The front-end packages could not be fetched. Check that npm's registry is reachable and run again.\n"
            + done.stderr[-2000:]
        )


def copy(packages: Path, folder: Path) -> None:
    """Copy each file under a temporary name first, so that a page never gets half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in FILES.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}.new")
        shutil.copyfile(packages / source, fresh)
        fresh.chmod(0o644)
        fresh.replace(place)
    (folder / STAMP).write_text(fingerprint(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--node", default=shutil.which("node"), help="node ≥ 20")
    parser.add_argument("--npm-cli", help="npm-cli.js, as it lies in the same distribution as node")
    parser.add_argument("--to", type=Path, default=HERE / "vendor")
    arguments = parser.parse_args()
    if is_current(arguments.to):
        return
    if not arguments.node or not arguments.npm_cli:
        sys.exit("Give --node and --npm-cli: the paths of node and of npm's npm-cli.js.")
    with tempfile.TemporaryDirectory() as workplace:
        install(arguments.node, arguments.npm_cli, Path(workplace))
        copy(Path(workplace) / "node_modules", arguments.to)


if __name__ == "__main__":
    main()
