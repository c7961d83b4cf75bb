"""Check docs/develop/promises.toml against what this run of the suite really did (option --promises).

A promise holds when every test it names ran and passed (a name without [..] stands for all its parameters). Tests
marked root or browser that could not run here are listed by name, and count as broken under CI=true. A slow promise
names the dated page of docs/reference that holds its figures; what a run of its own proves names that `stage`. Their
tests need not run here, but must be there.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "develop" / "promises.toml"
_DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")

Outcomes = dict[str, set[str]]


def load() -> list[dict[str, object]]:
    """Return the promises: issue, text, tests, and for slow ones `page`."""
    return list(tomllib.loads(FILE.read_text()).get("promise", []))


def broken(promise: dict[str, object], outcomes: Outcomes, *, strict: bool) -> list[str]:
    """Return why a promise does not hold, empty when it does; `strict` takes no skipped test."""
    if "page" in promise:
        page = ROOT / str(promise["page"])
        if not page.is_file() or not _DATE.search(page.read_text()):
            return [f"{promise['page']} is missing or has no dated figures"]
        if not promise.get("tests"):
            return []
    tests = promise.get("tests")
    if not isinstance(tests, list) or not tests:
        return ["names no test"]
    why = []
    for test in tests:
        seen = outcomes.get(str(test), set())
        if not seen and ("page" in promise or "stage" in promise) and _is_there(str(test)):
            continue
        if not seen:
            why.append(f"{test} did not run")
        elif "failed" in seen or (strict and seen != {"passed"}):
            why.append(f"{test} {'/'.join(sorted(seen))}")
    return why


def _is_there(test: str) -> bool:
    """Tell whether the file makes this test, or takes it from another file to run it again."""
    path, _, names = test.partition("::")
    name = names.rpartition("::")[2].partition("[")[0]
    file = ROOT / path
    return file.is_file() and re.search(rf"\bdef {name}\b|^    {name},", file.read_text(), re.MULTILINE) is not None


class Promises:
    """Collect outcomes on the controller and judge at the end."""

    def __init__(self) -> None:
        self.outcomes: Outcomes = defaultdict(set)
        self.unrun: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        for name in (report.nodeid, report.nodeid.split("[", 1)[0]):
            self.outcomes[name].add(report.outcome)
        if report.outcome == "skipped":
            self.unrun[report.nodeid] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        if self.unrun:
            write("could not run here:")
            for name, reason in sorted(self.unrun.items()):
                write(f"  {name} ({reason})")
        for line in self.verdict:
            write(line, red=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        strict = os.environ.get("CI") == "true"
        self.verdict = [
            f"promise broken: {promise.get('text')}: {reason}"
            for promise in load()
            for reason in broken(promise, self.outcomes, strict=strict)
        ]
        if strict:
            self.verdict += [f"did not run under CI: {name}" for name in sorted(self.unrun)]
        if self.verdict:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
