"""Many instances, one after another, on a real portal: nothing may stay behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.portals import ROOT, Portal, environment, running

ROUNDS = 40

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def portal() -> Iterator[Portal]:
    with running("bpu-") as made:
        yield made


def sandboxes(portal: Portal) -> list[int]:
    found = []
    for pid in portal.processes():
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"jupyter" in words or b"bwrap" in words:
            found.append(pid)
    return found


def test_forty_instances_come_and_go_without_a_trace(portal: Portal) -> None:
    url = f"http://localhost:{portal.port}"
    argv = [sys.executable, "-m", "tests.bench.story", "--state", str(portal.state), "--url", url]
    done = subprocess.run(
        [*argv, "--rounds", str(ROUNDS)],
        cwd=ROOT,
        env=environment(portal.state, portal.port),
        capture_output=True,
        text=True,
        timeout=1000,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"n {ROUNDS}" in done.stdout
    assert list((portal.state / "local").glob("bp-*")) == []
    assert sandboxes(portal) == []
    groups = [path for path in Path("/sys/fs/cgroup").rglob("bp-*") if path.is_dir()]
    assert [path for path in groups if portal.state.name in str(path)] == []
