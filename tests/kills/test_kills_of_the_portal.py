"""Web, link, worker, gateway and Redis are killed in the middle of every verb; the notebooks go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills.agreement import disagreements, groups
from tests.kills.matrix import WANTED, Line
from tests.kills.site import Site
from tests.portals import environment, until

pytestmark = pytest.mark.timeout(300, func_only=True)


@pytest.mark.parametrize("victim", ["web", "link", "worker", "redis", "gateway"])
def test_every_verb_ends_where_it_should_and_no_open_notebook_notices(line: Line, victim: str) -> None:
    assert line.round(victim) == WANTED


def test_a_killed_gateway_process_drops_its_sockets_and_nothing_else(line: Line) -> None:
    assert line.round("gateway-process") == WANTED


def test_the_count_itself_sees_what_is_left_over(line: Line, portal: Site) -> None:
    """Each thing that a kill could leave is put there by hand."""
    assert disagreements(portal) == []
    left = [portal.state / "local" / "bp-left", portal.state / "homes" / ".gone-left"]
    left += [parent / "bp-left" for parent in groups(portal)[:1]]
    for path in left:
        path.mkdir()
    command = (sys.executable, "-c", "import time; time.sleep(60)", "instances.gateway")
    with subprocess.Popen(command, env=environment(portal.state, portal.port), start_new_session=True) as second:
        until(lambda: b"instances.gateway" in Path(f"/proc/{second.pid}/cmdline").read_bytes())
        seen = "\n".join(disagreements(portal))
        second.kill()
    for path in left:
        path.rmdir()
    words = [
        "a machine without a row: bp-left",
        "half removed: .gone-left",
        "gateway runs as",
        f"left over: {second.pid}",
    ]
    for word in [*words, *["cgroup and processes disagree"] * len(groups(portal))]:
        assert word in seen
    assert disagreements(portal) == []
