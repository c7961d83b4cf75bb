"""The same kills where nobody is root: no cgroup, no uid but one's own; for who runs the suite as root.

A plain user's own run of this folder does it with the other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills.agreement import groups, sandboxes
from tests.kills.matrix import Line, lined
from tests.kills.site import Site, site
from tests.kills.test_kills_of_the_portal import (  # noqa: F401  (run again, on our portal)
    test_a_killed_gateway_process_drops_its_sockets_and_nothing_else,
    test_every_verb_ends_where_it_should_and_no_open_notebook_notices,
    test_the_count_itself_sees_what_is_left_over,
)
from tests.kills.test_kills_of_what_carries_it import (  # noqa: F401
    test_a_killed_database_comes_back_with_every_wish_and_no_open_notebook_notices,
    test_after_a_power_cut_every_instance_is_stopped_and_starts_again,
    test_after_kill_9_of_the_parent_the_next_one_adopts_every_session,
    test_sessions_die_with_a_killed_supervisor_and_their_instances_say_so,
)
from tests.providers.local.conftest import PLAIN

pytestmark = [
    pytest.mark.root("it starts a portal as somebody else"),
    pytest.mark.slow,
    pytest.mark.timeout(300, func_only=True),
]


@pytest.fixture(scope="module")
def portal() -> Iterator[Site]:
    with site(uid=PLAIN) as made:
        yield made


@pytest.fixture(scope="module")
def line(portal: Site) -> Iterator[Line]:
    with lined(portal) as line:
        yield line


def test_there_is_one_uid_and_no_cgroup(line: Line, portal: Site) -> None:
    inside = [pid for pids in sandboxes(portal).values() for pid in pids]
    assert inside
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in (*inside, *portal.processes())} == {PLAIN}
    assert groups(portal) == []
