"""What one session may use up, and that the others and the supervisor do not feel it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from instances.lifecycle import Phase
from instances.providers.base import FlavourSpec, Home, NoCapacity, Service, Spec
from tests.providers.local.host import MIB, Host, Sandbox, until

pytestmark = pytest.mark.root

HOG = "b = []\nwhile True: b.append(bytearray(b'x' * (8 << 20)))"
#: a process a turn, so that no single one is over the limit of its own
HOGS = """
import os, time
for _ in range(64):
    if os.fork() == 0:
        held = bytearray(b'x' * (24 << 20))
        time.sleep(60)
    time.sleep(0.05)
time.sleep(60)
"""
STORM = """
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    except OSError:
        time.sleep(0.01)
"""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a file system of this size on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_program_that_takes_all_memory_is_ended_and_the_session_says_so(host: Host) -> None:
    alice, bob = host.create(memory=128 * MIB), host.create(home="home-of-bob")
    alice.spawn(HOG)
    seen = until(lambda: (one := host.provider.look(alice.name)).reason and one)
    assert (seen.phase, seen.reason) == (Phase.RUNNING, "out-of-memory")
    assert "0.125 GiB" in seen.detail
    assert alice.alive(), "the server of the session lives on"
    assert bob.alive()
    host.provider.stop(alice.name)
    assert host.provider.look(alice.name).reason == "", "it was stopped by its owner"
    for sandbox in (alice, bob):
        host.provider.delete(sandbox.name)


def test_a_server_that_takes_all_memory_itself_is_stopped_with_the_reason(host: Host) -> None:
    alice = host.create(memory=128 * MIB)
    with pytest.raises((OSError, ValueError)):
        alice.run(HOG)
    seen = until(lambda: (one := host.provider.look(alice.name)).phase is Phase.STOPPED and one)
    assert seen.reason == "out-of-memory"
    assert "0.125 GiB" in seen.detail
    host.provider.start(alice.name)
    alice.wait()
    assert host.provider.look(alice.name).reason == ""
    host.provider.delete(alice.name)


def test_without_cgroups_the_watchdog_ends_who_is_over_the_limit(plain: Host) -> None:
    assert "watchdog" in plain.log()
    alice, bob = plain.create(memory=128 * MIB), plain.create(home="home-of-bob")
    alice.spawn(HOGS)
    seen = until(lambda: (one := plain.provider.look(alice.name)).phase is Phase.STOPPED and one)
    assert seen.reason == "out-of-memory"
    assert bob.alive()
    for sandbox in (alice, bob):
        plain.provider.delete(sandbox.name)


@pytest.mark.parametrize("which", ["host", "plain"])
def test_a_fork_storm_ends_at_the_limit_and_the_next_session_starts(which: str, request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue(which)
    alice = host.create()
    alice.spawn(STORM)
    until(lambda: len(host.processes()) > 100)
    time.sleep(2)
    assert len(host.processes()) < 600
    if which == "host":  # the kernel counts what it refused; in a user namespace nobody does
        assert until(lambda: host.provider.look(alice.name).reason) == "process-limit"
        assert host.phase(alice.name) is Phase.RUNNING
    other = host.create()  # of the same home, so of the same uid
    assert other.alive()
    for sandbox in (alice, other):
        host.provider.delete(sandbox.name)
    until(lambda: len(host.processes()) < 10)


def test_a_full_home_still_starts(host: Host) -> None:
    folder = host.state / "homes" / "full"
    with small_disk(folder, "1m"):
        alice = host.create(home="full")
        assert "Errno 28" in alice.error("open('/work/home/all', 'w').write('x' * (2 << 20))")
        host.provider.stop(alice.name)
        host.provider.start(alice.name)
        alice.wait()
        assert alice.run("open('/run/session/works', 'w').write('x'); print('yes')") == "yes"
        home = Home("full", 2**30)
        usage = until(lambda: (counted := host.provider.home_usage(home)).used and counted)
        assert usage.used >= usage.limit == MIB, "what its own file system holds counts"
        host.provider.delete(alice.name)


def test_who_fills_more_disk_than_the_plan_has_is_stopped_with_the_reason(host: Host) -> None:
    alice = host.create(flavour=FlavourSpec("small", 1, 256 * MIB, 8 * MIB))
    alice.spawn("open('/work/big', 'wb').write(b'x' * (12 << 20))")
    seen = until(lambda: (one := host.provider.look(alice.name)).phase is Phase.STOPPED and one)
    assert seen.reason == "disk-full"
    host.provider.delete(alice.name)


def test_a_full_disk_is_no_capacity_and_leaves_nothing(fragile: Host) -> None:
    with small_disk(fragile.state / "local", "8m"):
        with pytest.raises(NoCapacity) as refused:
            fragile.provider.create(fragile.spec("bp-full"))
        assert refused.value.code == "disk-full"
        assert str(fragile.state) not in str(refused.value)
        assert fragile.phase("bp-full") is Phase.MISSING
        assert not [name for name in os.listdir(fragile.state / "local") if "bp-full" in name]


def test_more_memory_than_the_machine_has_is_no_capacity(host: Host) -> None:
    with pytest.raises(NoCapacity):
        host.provider.create(host.spec("bp-giant", flavour=FlavourSpec("giant", 1, 2**50, 0)))
    assert host.phase("bp-giant") is Phase.MISSING


def test_of_many_that_start_at_once_only_those_that_fit_get_memory(host: Host) -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    specs = [host.spec(flavour=FlavourSpec("large", 1, int(total * 0.3), 0)) for _ in range(6)]
    barrier = threading.Barrier(len(specs))

    def create(spec: Spec) -> bool:
        barrier.wait(20)
        try:
            host.provider.create(spec)
        except NoCapacity:
            return False
        return True

    with ThreadPoolExecutor(len(specs)) as pool:
        made = list(pool.map(create, specs))
    for spec in specs:
        host.provider.delete(spec.name)
    assert sum(made) == 3


def test_of_many_that_start_at_once_as_many_as_the_cores_carry_go_first(fragile: Host) -> None:
    turns = max(4, 2 * (os.cpu_count() or 1))
    silent = (Service("never", 1),)  # its socket does not come
    specs = [fragile.spec(services=silent, memory=64 * MIB) for _ in range(turns + 1)]
    for spec in specs[:-1]:
        fragile.provider.create(spec)
    with pytest.raises(NoCapacity) as refused:
        fragile.provider.create(specs[-1])
    assert refused.value.code == "waiting-for-turn"
    assert fragile.phase(specs[-1].name) is Phase.MISSING
    fragile.provider.stop(specs[0].name)
    fragile.provider.create(specs[-1])


def test_the_log_keeps_its_end_and_never_fills_the_disk(host: Host) -> None:
    alice = host.create()
    alice.run("import os\nfor n in range(40_000): os.write(1, b'%07d said the session\\n' % n)")
    until(lambda: "0039999" in host.provider.console(alice.name))
    assert (host.folder(alice.name) / "log").stat().st_size <= 256 * 1024
    assert len(host.provider.console(alice.name).splitlines()) <= 40
    alice.run("import os; os.write(2, b'\\033[2Jevil\\n')")
    until(lambda: "evil" in host.provider.console(alice.name))
    assert "\033" not in host.provider.console(alice.name)
    host.provider.delete(alice.name)


def test_the_cpu_is_held_to_the_flavours_cores(host: Host) -> None:
    alice = host.create(flavour=FlavourSpec("half", 0.25, 128 * MIB, 0))
    code = "import time; e = time.monotonic() + 1.2; c = time.process_time()\nwhile time.monotonic() < e: pass\n"
    used = float(alice.run(code + "print(time.process_time() - c)"))
    assert used < 0.6
    host.provider.delete(alice.name)


def test_capacity_counts_what_running_machines_may_take(host: Host) -> None:
    before = {one.flavour: one for one in host.provider.capacity()}["small"]
    alice: Sandbox = host.create(memory=2**30)
    after = {one.flavour: one for one in host.provider.capacity()}["small"]
    assert (after.free, after.total) == (before.free - 1, before.total)
    host.provider.delete(alice.name)
