"""`make mutants`: make a module wrong in every small way, and see that a test fails each time.

A mutant that no test notices is a survivor. survivors.toml lists those that are no loss, each with its reason; any
other one fails the run, and so does a listed one that is gone. Each mutant runs in a fork of a process that has all
but the module loaded, so that a second is enough for most.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.abc
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
SURVIVORS = Path(__file__).with_name("survivors.toml")
#: with a database, and without
PLUGINS = {True: ("pytest_django.plugin", "pytest_asyncio.plugin"), False: ("pytest_asyncio.plugin",)}
#: what the project stands on and what takes long to load
BESIDE = ("factory", "requests", "rest_framework.views", "rest_framework.serializers")
#: a mutant that goes on for longer, and for ten times as long as the module as it is, hangs: a test notices that too
LONGEST = float(os.environ.get("MUTANT_SECONDS", "20"))
#: the module as it is may take longer: its first run makes the database
FIRST = 900.0


@dataclass(frozen=True)
class Target:
    """A module and the tests that must notice: `first` kills nearly all, `then` is asked about what is left."""

    module: str
    first: tuple[str, ...]
    then: tuple[str, ...] = ()
    database: bool = False
    #: Django loads it when it starts, which each mutant therefore does by itself
    early: bool = False

    @property
    def path(self) -> Path:
        return ROOT / (self.module.replace(".", "/") + ".py")


TARGETS = (
    Target("auth.claims", ("tests/auth/test_claims.py", "-k", "not no_shape")),
    Target("auth.entitlements", ("tests/auth/test_entitlements.py", "-k", "not raises and not another")),
    Target("auth.groups", ("tests/auth/test_groups.py",), database=True),
    Target(
        "auth.roles",
        ("tests/auth/test_roles.py", "-k", "not python_and_sql and not lack"),
        ("tests/auth/test_roles.py", "tests/auth/test_groups.py"),
        database=True,
        early=True,
    ),
    Target("instances.lifecycle", ("tests/instances/test_lifecycle.py", "-k", "not history")),
    Target("experiments.pids", ("tests/experiments/test_pids.py", "-k", "not reading_any and not slow and not case")),
    Target("instances.gateway.session", ("tests/gateway/test_session.py",)),
    Target(
        "instances.quotas",
        ("tests/instances/test_quotas.py", "-k", "not hundred"),
        ("tests/instances/test_quotas.py", "-k", "hundred"),
        database=True,
        early=True,
    ),
    Target("instances.transitions", ("tests/instances/test_transitions.py",), database=True),
    Target("auth.oidc.tokens", ("tests/auth/test_tokens.py",)),
    Target("auth.oidc.keys", ("tests/auth/test_tokens.py",)),
    Target("auth.oidc.http", ("tests/auth/test_calls.py",)),
    Target("auth.oidc.discovery", ("tests/auth/test_discovery.py",)),
    Target("auth.providers_file", ("tests/auth/test_providers_file.py",)),
    Target("auth.issuers", ("tests/auth/test_move_issuer.py",), database=True),
    Target("auth.oidc.shelf", ("tests/auth/test_shelf.py",), database=True),
    Target("auth.oidc.states", ("tests/auth/test_states.py",), database=True),
    Target("auth.fresh", ("tests/auth/test_fresh.py",), database=True),
    Target("auth.oidc.logout", ("tests/auth/test_logout.py",), database=True),
    Target(
        "auth.oidc.backchannel",
        ("tests/auth/test_backchannel.py", "-k", "not eight_times"),
        ("tests/auth/test_backchannel.py", "-k", "eight_times"),
        database=True,
    ),
    Target(
        "auth.sessions",
        ("tests/auth/test_sessions.py", "tests/auth/test_new_keys.py"),
        ("tests/auth/test_fresh.py", "tests/auth/test_sign_in.py", "tests/auth/test_logout.py"),
        database=True,
    ),
)


class _Wrong(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module as its mutant."""

    def __init__(self, target: Target, mutant: Mutant) -> None:
        self.target, self.mutant = target, mutant

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.target.module:
            return None
        return importlib.util.spec_from_file_location(name, self.target.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.tree, str(self.target.path), "exec"), module.__dict__)


class _Reach:
    """Writes down which tests reach each function of the module, and how long they took without what they stand on."""

    def __init__(self, target: Target, where: str) -> None:
        self.source, self.where = str(target.path), where
        self.tests: dict[str, list[str]] = {}
        self.seconds = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.seconds += report.duration

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        reached: set[str] = set()

        def note(frame: FrameType, event: str, _arg: object) -> None:
            if event == "call" and frame.f_code.co_filename == self.source:
                reached.add(frame.f_code.co_qualname.replace(".<locals>", ""))

        threading.setprofile(note)
        sys.setprofile(note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            for name in reached:
                self.tests.setdefault(name, []).append(item.nodeid)

    def pytest_sessionfinish(self) -> None:
        Path(self.where).write_text(json.dumps([self.tests, self.seconds]))


class _Only:
    """Leaves out all tests but these."""

    def __init__(self, tests: Collection[str]) -> None:
        self.tests = set(tests)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.tests]


def _prepare(target: Target) -> None:
    """Load what every mutant needs, and nothing that has the module in it."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for plugin in PLUGINS[target.database]:
        importlib.import_module(plugin)
    if target.database:
        from tests.plugin import _start

        _start()
        os.environ["PYTEST_XDIST_WORKER"] = "mutation"  # says that the servers run
        os.environ["DJANGO_SETTINGS_MODULE"] = "portal.settings"
        if not target.early:
            import django

            django.setup()
            for name in BESIDE:
                importlib.import_module(name)
    gc.freeze()
    if target.module in sys.modules:
        raise RuntimeError(f"{target.module} was loaded too early to be made wrong")


def _run(
    target: Target, mutant: Mutant | None, tests: tuple[str, ...], seconds: float, plugin: object | None = None
) -> bool:
    """Return whether the tests pass in a child, and within that time."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _child(target, mutant, tests, plugin)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _child(target: Target, mutant: Mutant | None, tests: tuple[str, ...], plugin: object | None) -> None:
    """Run pytest in this process and end it."""
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        if mutant is not None:
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            sys.meta_path.insert(0, _Wrong(target, mutant))
            if target.database:
                _keep_database()
        options = ["-x", "-q", "--tb=no", "--disable-warnings", "--assert=plain"]
        # the collections of garbage that look for unraisable exceptions would take longer than the tests
        options += [word for name in ("cacheprovider", "unraisableexception") for word in ("-p", f"no:{name}")]
        options += [word for plugin in PLUGINS[target.database] for word in ("-p", plugin)]
        options += ["--reuse-db"] if target.database else ["-o", "addopts=", "--noconftest"]
        code = int(pytest.main([*options, *tests], plugins=[plugin] if plugin else []))
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _keep_database() -> None:
    """Take the database that the first run has made as it is, without a look at its tables."""
    from django.db import connection
    from django.test import utils

    def kept(*_given: object, **_options: object) -> None:
        connection.settings_dict["NAME"] = connection.creation._get_test_db_name()

    utils.setup_databases = kept


def _run_unchanged(target: Target) -> tuple[dict[str, list[str]], float, float]:
    """See that the tests pass on the module as it is; return which tests reach each function, and the seconds of
    `first` (without the making of the database) and of `then`."""
    with tempfile.NamedTemporaryFile() as file:
        for tests, plugin in ((target.first, _Reach(target, file.name)), (target.then, None)):
            began = time.monotonic()
            if tests and not _run(target, None, tests, FIRST, plugin):
                raise SystemExit(f"{target.module}: the tests fail on the module as it is: {' '.join(tests)}")
        reach, seconds = json.load(file)
        return reach, seconds, time.monotonic() - began


def survivors_of(target: Target, like: str = "") -> list[Mutant]:
    """Return the mutants that no test notices, of those whose name the pattern finds."""
    reach, first, then = _run_unchanged(target)
    longest = {target.first: max(LONGEST, 10 * first), target.then: max(LONGEST, 10 * then)}
    found = [mutant for mutant in mutants(target.path.read_text()) if re.search(like, mutant.name)]
    alive, began = [], time.monotonic()

    def survives(mutant: Mutant) -> bool:
        near = reach.get(mutant.name.partition(":")[0])
        if near and not _run(target, mutant, target.first, longest[target.first], _Only(near)):
            return False
        return all(_run(target, mutant, tests, longest[tests]) for tests in (target.first, target.then) if tests)

    # those with a database share one
    with ThreadPoolExecutor(1 if target.database else os.cpu_count()) as pool:
        for number, (mutant, survived) in enumerate(zip(found, pool.map(survives, found), strict=True), 1):
            if survived:
                alive.append(mutant)
                print(f"  alive  {target.path.name}:{mutant.line}  {mutant.name}", flush=True)
            if number % 25 == 0:
                print(f"  {number} of {len(found)} in {time.monotonic() - began:.0f} s", flush=True)
    _run_unchanged(target)  # else something that a mutant left behind made the tests fail
    print(
        f"{target.module}: {len(found)} mutants, {len(found) - len(alive)} noticed, {len(alive)} alive, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    return alive


def judge(target: Target, alive: list[Mutant]) -> bool:
    """Compare with the list of survivors that are no loss; say what differs."""
    listed = {row["mutant"] for row in tomllib.loads(SURVIVORS.read_text()).get(target.module, [])}
    names = {mutant.name for mutant in alive}
    for name in sorted(names - listed):
        print(f"NEW SURVIVOR  {target.module}  {name}")
    for name in sorted(listed - names):
        print(f"NO SURVIVOR ANY MORE, take it off the list  {target.module}  {name}")
    return names == listed


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="all of them when none is named")
    parser.add_argument("--like", default="", help="only mutants whose name this pattern finds; nothing is compared")
    given = parser.parse_args()
    good = True
    for target in TARGETS:
        if given.modules and target.module not in given.modules:
            continue
        child = os.fork()  # one process a module: none has another's loaded
        if child == 0:
            _prepare(target)
            alive = survivors_of(target, given.like)
            sys.exit(0 if given.like or judge(target, alive) else 1)
        good &= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
