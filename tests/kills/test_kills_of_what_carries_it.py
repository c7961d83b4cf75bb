"""PostgreSQL, the parent, the supervisor and the whole machine: what each takes along when it dies, and what not."""

from __future__ import annotations

import pytest

from tests.kills.agreement import agree, sandboxes
from tests.kills.matrix import VERBS, WANTED, Line, expect, power_cut
from tests.kills.site import Site

pytestmark = pytest.mark.timeout(300, func_only=True)


def test_a_killed_database_comes_back_with_every_wish_and_no_open_notebook_notices(line: Line) -> None:
    assert line.round("postgres") == WANTED


def test_after_kill_9_of_the_parent_the_next_one_adopts_every_session(line: Line, portal: Site) -> None:
    before = sandboxes(portal)
    assert line.round("up") == WANTED
    name = f"bp-{line.witness.instance.hex}-1"
    assert before[name] & sandboxes(portal)[name], "another server"
    assert portal.said("supervisor was still running and goes on")


def test_sessions_die_with_a_killed_supervisor_and_their_instances_say_so(line: Line) -> None:
    became = line.round("supervisor")
    expect("supervisor", became)
    assert line.account.seen(line.witness.instance)["reason"] == "supervisor-restarted"
    assert "was restarted. Start brings this one back" in line.account.page(f"/instances/{line.witness.instance}/").text
    line.ready(())
    assert line.witness.answers()


def test_after_a_power_cut_every_instance_is_stopped_and_starts_again(line: Line, portal: Site) -> None:
    line.ready(VERBS)
    line.witness.kernel.run("open('/work/kept', 'w').write('disk'); open('/work/home/kept', 'w').write('home')")
    with power_cut(portal):
        portal.up()
        agree(portal)
        alive = [line.witness.instance, *line.alive]
        assert {line.account.seen(instance)["state"] for instance in alive} == {"stopped"}
        assert line.account.seen(line.witness.instance)["reason"] == "supervisor-restarted"
        line.account.verb("start", line.witness.instance)
        line.witness.open()
        read = "print(open('/work/kept').read(), open('/work/home/kept').read())"
        assert line.witness.kernel.run(read)[0].strip() == "disk home"
        agree(portal)
