"""What `make test` runs once everything is set up: style, types and layers, then the suite.

When all passed and nothing is uncommitted, the tree's id goes to .git/green, so that anybody can see whether exactly
this tree was ever green.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MANAGE = (sys.executable, "manage.py")
CHECKS: dict[str, tuple[str, ...]] = {
    "types (mypy)": (str(BIN / "mypy"),),
    "style (ruff check)": (str(BIN / "ruff"), "check", "."),
    "format (ruff format)": (str(BIN / "ruff"), "format", "--check", "."),
    "layers (import-linter)": (str(BIN / "lint-imports"),),
    "dependencies (deptry)": (str(BIN / "deptry"), "."),
    "migrations": (*MANAGE, "makemigrations", "--check", "--dry-run"),
    "settings (manage.py check)": (*MANAGE, "check", "--fail-level", "WARNING"),
}
DOCS = ("tests/test_docs.py", "tests/test_promises.py")


def settings_environment(state: str) -> dict[str, str]:
    """Enough for Django's own checks, which reach no server."""
    names = ("SECRET_KEY", "INSTANCE_KEY", "GATEWAY_TOKEN", "DEPLOYMENT_ID")
    made = {name: secrets.token_urlsafe(48) for name in names}
    return {**os.environ, **made, "BEAMPORT_DEMO": "1", "BEAMPORT_STATE": state, "PYTHONWARNINGS": "ignore"}


def check(item: tuple[str, tuple[str, ...]], environment: dict[str, str]) -> bool:
    """Run one check; print its outcome, and all it said when it failed."""
    name, argv = item
    began = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    passed = done.returncode == 0
    said = "" if passed else "\n" + (done.stdout + done.stderr).rstrip()
    print(f"{'passed' if passed else 'FAILED'}  {name}  {time.monotonic() - began:.1f} s{said}", flush=True)
    return passed


def checks() -> bool:
    with tempfile.TemporaryDirectory() as state, ThreadPoolExecutor(2) as pool:
        environment = settings_environment(state)
        return all(list(pool.map(lambda item: check(item, environment), CHECKS.items())))


def suite(
    *arguments: str, workers: str = "", run: Callable[[list[str], dict[str, str], Path], int] | None = None
) -> bool:
    workers = workers or os.environ.get("TEST_WORKERS") or str(min(4, (os.cpu_count() or 1) + 1))
    argv = [sys.executable, "-m", "pytest", "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder", *arguments]
    # the portal's own variables would reach the tests' settings and the portals that they start
    ours = ("BEAMPORT_STATE", "BEAMPORT_DEMO", "PORT", "PORTAL_URL")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    # pytest's own folder is named after the user, and several uids without a name would share it
    with tempfile.TemporaryDirectory(prefix="bpt-", dir="/var/tmp", ignore_cleanup_errors=True) as temporary:
        environment["PYTEST_DEBUG_TEMPROOT"] = temporary
        return (run or _run)(argv, environment, ROOT) == 0


def _run(argv: list[str], environment: dict[str, str], cwd: Path) -> int:
    return subprocess.run(argv, cwd=cwd, env=environment).returncode


def bench() -> bool:
    """Measure on a portal of its own; the figures belong in docs/reference/performance.md."""
    from tests.browser.conftest import start, stop
    from tests.portals import free_port

    with tempfile.TemporaryDirectory(prefix="bpm-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        state.chmod(0o711)
        began = time.monotonic()
        portal = start(state, free_port())
        print(f"first start on an empty state folder to Ready: {time.monotonic() - began:.1f} s", flush=True)
        try:
            argv = [sys.executable, "-m", "tests.bench.story", "--state", str(state), "--url", portal.url]
            environment = {**os.environ, "PORT": str(portal.port), "PORTAL_URL": portal.url}
            return subprocess.run(argv, cwd=ROOT, env=environment).returncode == 0
        finally:
            stop(portal)


def labs() -> bool:
    """Journeys at real identity providers; CI does not repeat them for files that have passed on this machine."""
    from portal.embedded import steps
    from portal.embedded.people import CannotStart
    from tests.labs import green, setup

    try:
        setup.set_up()
    except CannotStart as error:
        return not steps.give_up(error)
    return once(green.marker(), lambda: suite("--labs", "-m", "labs", "--durations=6", workers="0"))


def pods() -> bool:
    """The story in real pods, in a room of its own; CI does not repeat it for what has passed on this machine."""
    from portal.embedded import steps
    from portal.embedded.people import CannotStart
    from tests.labs.kubernetes import room
    from tests.pods import setup

    try:
        setup.set_up()
    except CannotStart as error:
        return not steps.give_up(error)
    return once(
        setup.marker(), lambda: suite("tests/pods", "--pods", "-m", "pods", "--durations=6", workers="0", run=room.run)
    )


def once(mark: Path, act: Callable[[], bool]) -> bool:
    """Run what `mark` stands for and remember that it passed; under CI only if it has not."""
    from tests.labs import green

    if os.environ.get("CI") == "true" and mark.is_file():
        print(f"These very files passed at {mark.read_text().strip()}: they are not run again.")
        return True
    passed = act()
    if passed:
        green.record(mark)
    return passed


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def record_green() -> None:
    """Remember the tree that passed, when it is exactly what is committed."""
    tree, path = git("rev-parse", "HEAD^{tree}"), git("rev-parse", "--git-path", "green")
    if not tree or not path:
        return
    if git("status", "--porcelain"):
        print("All passed; not recorded as green, because something is not committed.")
        return
    (ROOT / path).write_text(tree + "\n")
    print(f"All passed; {tree[:12]} is green.")


#: what is run instead of checks and suite, by option
INSTEAD: dict[str, Callable[[], bool]] = {
    "bench": bench,
    "only_docs": lambda: suite(*DOCS),
    "slow": lambda: suite("--slow", "-m", "slow"),
    "layout": lambda: suite("--layout", "-m", "layout", "-s", workers="0"),
    "labs": labs,
    "pods": pods,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make test", description="Check style, types, layers; run the suite.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--only-checks", action="store_true", help="no tests")
    only.add_argument("--only-docs", action="store_true", help="only what keeps the documentation true")
    only.add_argument("--slow", action="store_true", help="the long proofs instead of the suite")
    only.add_argument(
        "--layout", action="store_true", help="production's layout by the install page, instead of the suite"
    )
    only.add_argument("--labs", action="store_true", help="sign in at real identity providers, instead of the suite")
    only.add_argument("--pods", action="store_true", help="the story in real pods of a cluster, instead of the suite")
    only.add_argument("--bench", action="store_true", help="measure the main job instead")
    only.add_argument("--mutants", action="store_true", help="make modules wrong and see that tests notice")
    parser.add_argument("--peers", action="store_true", help="with --bench: beside JupyterHub and other proxies")
    given, rest = parser.parse_known_args(argv)
    if given.peers:
        return subprocess.run([sys.executable, "-m", "tests.bench.peers.run", *rest], cwd=ROOT).returncode
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    if given.mutants:
        return subprocess.run([sys.executable, "-m", "tests.mutation"], cwd=ROOT).returncode
    for name, act in INSTEAD.items():
        if getattr(given, name):
            return 0 if act() else 1
    checked = checks()
    if given.only_checks:
        return 0 if checked else 1
    tested = suite("--promises")
    if checked and tested:
        record_green()
        return 0
    print("Failed: " + " and ".join(name for name, good in (("checks", checked), ("tests", tested)) if not good))
    return 1


if __name__ == "__main__":
    sys.exit(main())
