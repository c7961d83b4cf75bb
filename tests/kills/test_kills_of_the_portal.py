"""Web, worker, gateway and Redis are killed in the middle of every verb; the notebooks go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.embedded.test_up import environment, until
from tests.kills.agreement import disagreements
from tests.kills.matrix import WANTED, Line
from tests.kills.site import Site

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.mark.parametrize("victim", ["web", "worker", "redis"])
def test_every_verb_ends_where_it_should_and_no_open_notebook_notices(line: Line, victim: str) -> None:
    assert line.round(victim) == WANTED
    assert line.witness.answers(), "the socket that was open before the kill"


def test_a_killed_gateway_drops_its_sockets_and_nothing_else(line: Line) -> None:
    assert line.round("gateway") == WANTED
    assert line.witness.dropped()
    line.witness.comes_back()


def test_the_count_itself_sees_what_is_left_over(line: Line, portal: Site) -> None:
    """Each thing that a kill could leave is put there by hand."""
    assert disagreements(portal) == []
    name = f"bp-{line.witness.instance.hex}-1"
    group = next(path for path in Path("/sys/fs/cgroup").rglob(name) if path.is_dir()).with_name("bp-left")
    left = [portal.state / "local" / "bp-left", portal.state / "homes" / ".gone-left", group]
    for path in left:
        path.mkdir()
    command = (sys.executable, "-c", "import time; time.sleep(60)", "instances.gateway")
    with subprocess.Popen(command, env=environment(portal.state, portal.port), start_new_session=True) as second:
        until(lambda: b"instances.gateway" in Path(f"/proc/{second.pid}/cmdline").read_bytes())
        seen = "\n".join(disagreements(portal))
        second.kill()
    for path in left:
        path.rmdir()
    for word in ("a machine without a row: bp-left", ".gone-left", "cgroup and processes disagree", "gateway runs as"):
        assert word in seen
    assert disagreements(portal) == []
