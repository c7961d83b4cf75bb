"""The supervisor: one of each name, nothing left behind, and what its own death means."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from instances.lifecycle import Phase
from instances.providers.base import (
    Home,
    ImageMissing,
    ImageSpec,
    Mount,
    MountKind,
    MountMissing,
    PosixId,
    ProviderUnavailable,
    Rejected,
)
from instances.providers.local import LocalProvider
from instances.providers.local.processes import program
from portal.lib.hashing import instance_secret
from tests.providers.local.host import DEPLOYMENT, KEY, ROOT, Host, Sandbox, until


def running(host: Host) -> list[str]:
    """Return the programs of the sandboxes, without those that count and remove folders."""
    return [name for pid in host.processes() if (name := program(pid)) not in ("", "rm", "du", "nice")]


def test_twenty_creates_of_a_name_make_one_machine(host: Host) -> None:
    spec = host.spec("bp-once")
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(host.provider.create, [spec] * 20)) == {"bp-once"}
    assert len([one for one in host.provider.observe() if one.name == "bp-once"]) == 1
    until(lambda: len(running(host)) == 3)  # bubblewrap outside and inside, and the agent
    host.provider.delete("bp-once")


def test_the_token_inside_is_the_one_the_gateway_will_send(host: Host) -> None:
    spec = host.spec()
    alice = host.create(spec.name, instance=spec.instance, secret_epoch=7)
    inside = alice.run("import os; print(os.environ['JUPYTER_TOKEN'])")
    assert inside == instance_secret(KEY.encode(), spec.instance, 7, "jupyter")
    kept = b"".join(path.read_bytes() for path in host.state.rglob("*") if path.is_file())
    assert inside.encode() not in kept
    host.provider.delete(alice.name)


def test_stop_ends_every_process_and_keeps_the_disk(host: Host) -> None:
    alice = host.create()
    alice.spawn("import time; time.sleep(600)")
    alice.spawn("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    inside = host.processes()
    assert len(inside) >= 5
    host.provider.stop(alice.name)
    assert host.phase(alice.name) is Phase.STOPPED
    until(lambda: not [pid for pid in inside if Path(f"/proc/{pid}").exists()], 2)
    assert not (host.folder(alice.name) / "run").exists()
    assert (host.folder(alice.name) / "scratch").is_dir()
    host.provider.stop(alice.name)
    host.provider.delete(alice.name)


def test_delete_removes_the_disk_but_not_the_home(host: Host) -> None:
    alice = host.create()
    alice.run("open('/work/home/thesis', 'w').write('x')")
    host.provider.delete(alice.name)
    assert host.phase(alice.name) is Phase.MISSING
    until(lambda: not [name for name in os.listdir(host.state / "local") if alice.name in name])
    assert (host.state / "homes" / "home-of-alice" / "thesis").exists()
    host.provider.delete(alice.name)
    again = host.create()
    assert again.run("print(open('/work/home/thesis').read())") == "x"
    host.provider.delete(again.name)


def test_a_home_is_deleted_only_when_no_machine_has_it(host: Host) -> None:
    home = Home("home-of-charlie", 2**30)
    charlie = host.create(home=home.key)
    charlie.run("open('/work/home/x', 'w').write('x' * 100_000)")
    until(lambda: host.provider.home_usage(home).used >= 100_000)  # counted from time to time
    host.provider.stop(charlie.name)
    with pytest.raises(Rejected):
        host.provider.delete_home(home)
    host.provider.delete(charlie.name)
    host.provider.delete_home(home)
    assert not (host.state / "homes" / home.key).exists()
    assert host.provider.home_usage(home).used == 0
    host.provider.delete_home(home)


@pytest.mark.root
def test_a_deleted_homes_uid_is_never_given_again(host: Host) -> None:
    seen = set()
    for _ in range(2):
        dora = host.create(home="home-of-dora")
        seen.add(dora.run("import os; print(os.getuid())"))
        host.provider.delete(dora.name)
        host.provider.delete_home(Home("home-of-dora", 0))
    assert len(seen) == 2


@pytest.mark.root
def test_a_persons_own_uid_wins_and_may_not_take_anothers_home(host: Host) -> None:
    emma = host.create(home="home-of-emma", identity=PosixId(4711, 4712, (4713,)))
    assert emma.run("import os; print(os.getuid(), os.getgid())") == "4711 4712"
    assert (host.state / "homes" / "home-of-emma").stat().st_uid == 4711
    host.provider.delete(emma.name)
    with pytest.raises(Rejected) as refused:
        host.provider.create(host.spec(home="home-of-emma", identity=PosixId(4799, 4799)))
    assert refused.value.code == "home-owner"
    with pytest.raises(Rejected):
        host.provider.create(host.spec(identity=PosixId(0, 0)))


def test_a_missing_folder_of_data_is_named_and_nothing_is_left(host: Host) -> None:
    for _ in range(2):
        with pytest.raises(MountMissing, match="The data of p1/r0007 are not there") as refused:
            host.provider.create(host.spec("bp-nodata", data={"p1/r0007": "/nowhere/proposal/r0007"}))
        assert refused.value.code == "mount-missing"
        assert "/nowhere" not in str(refused.value)
    assert host.phase("bp-nodata") is Phase.MISSING
    until(lambda: not [name for name in os.listdir(host.state / "local") if "bp-nodata" in name])


def test_data_that_vanish_are_missed_at_the_next_start(host: Host, data: Path) -> None:
    run = data / "r0001"
    run.mkdir()
    alice = host.create(data={"p1/r0001": run})
    host.provider.stop(alice.name)
    run.rmdir()
    with pytest.raises(MountMissing, match="p1/r0001"):
        host.provider.start(alice.name)
    assert host.phase(alice.name) is Phase.STOPPED
    run.mkdir()
    host.provider.start(alice.name)
    alice.wait()
    host.provider.delete(alice.name)


def test_a_run_that_a_start_does_not_name_is_gone_from_the_session(host: Host, data: Path) -> None:
    alice = host.create(data={"p1/r0001": data, "p2/r0002": data})
    assert alice.run("import os; print(os.listdir('/work/data/p1/r0001'))") == "['RAW-R0001.h5']"
    for call, left in ((host.provider.reboot, ["p2"]), (host.provider.start, [])):
        host.provider.stop(alice.name)
        call(alice.name, [Mount(MountKind.DATA, str(data), f"/work/data/{name}/r0002") for name in left])
        alice.wait()
        assert alice.run("import os; print(os.listdir('/work/data'))") == str(left)
    host.provider.delete(alice.name)


def test_data_that_a_start_names_must_be_there_and_old_ones_never_come_back(host: Host, data: Path) -> None:
    alice = host.create(data={"p1/r0001": data})
    host.provider.stop(alice.name)
    with pytest.raises(MountMissing, match="The data of p1/r0002 are not there"):
        host.provider.start(alice.name, [Mount(MountKind.DATA, str(data / "gone"), "/work/data/p1/r0002")])
    assert host.phase(alice.name) is Phase.STOPPED
    kept = json.loads((host.folder(alice.name) / "spec.json").read_text())
    assert kept["data"] == [[str(data / "gone"), "/work/data/p1/r0002"]]
    host.provider.delete(alice.name)


@pytest.mark.parametrize("verb", ["start", "reboot"])
@pytest.mark.parametrize(
    "given",
    [
        "all",
        {},
        [1],
        [{}],
        [{"kind": "data", "source": "/etc", "target": "/etc", "read_only": True}],
        [{"kind": "data", "source": "/etc", "target": "/work/data/x", "read_only": False}],
        [{"kind": "home", "source": "home-of-bob", "target": "/work/home", "read_only": False}],
    ],
)
def test_what_is_no_data_is_refused_at_a_start_and_leaves_the_machine_alone(
    host: Host, verb: str, given: object
) -> None:
    name = host.provider.create(host.spec())
    try:
        if verb == "start":
            host.provider.stop(name)
        before, phase = (host.folder(name) / "spec.json").read_text(), host.phase(name)
        with pytest.raises(Rejected):
            host.provider._ask(20, verb, name=name, deployment=DEPLOYMENT, data=given)
        assert (host.folder(name) / "spec.json").read_text() == before
        assert host.phase(name) is phase
    finally:
        host.provider.delete(name)


def test_an_image_that_was_not_built_is_said_to_be_missing(host: Host) -> None:
    for reference in ("julia", "agent.1", "../agent", "/usr"):
        with pytest.raises(Rejected):
            host.provider.create(host.spec(image=ImageSpec("x", reference)))
    with pytest.raises(ImageMissing):
        host.provider.create(host.spec(image=ImageSpec("x", "julia")))


@pytest.mark.parametrize("name", ["../x", "-x", "a/b", "", "A", "x" * 64, "a\0b", "uids.json"])
def test_a_name_that_could_be_a_path_is_refused(host: Host, name: str) -> None:
    for call in (lambda: host.provider.create(replace(host.spec(), name=name)), lambda: host.provider.delete(name)):
        with pytest.raises(Rejected):
            call()


@pytest.mark.parametrize(
    "target", ["/etc", "/work/data", "/work/data/../../etc", "/work/home", "/work/data/a\nb", "/work/data//x"]
)
def test_data_are_mounted_below_their_place_only(host: Host, data: Path, target: str) -> None:
    spec = host.spec(data={"p1/r0001": data})
    mounts = (replace(spec.mounts[0], target=target), *spec.mounts[1:])
    with pytest.raises(Rejected):
        host.provider.create(replace(spec, mounts=mounts))


def test_welcome_files_stay_inside(host: Host) -> None:
    for path in ("../x", "/etc/x", "a/../../x", ""):
        with pytest.raises(Rejected):
            host.provider.create(host.spec(welcome={path: "x"}))
    alice = host.create(welcome={"Welcome.ipynb": "{}", "more/notes.md": "hello"})
    assert alice.run("print(open('/work/Welcome.ipynb').read(), open('/work/more/notes.md').read())") == "{} hello"
    alice.run("import os; os.remove('/work/Welcome.ipynb')")
    host.provider.delete(alice.name)


def test_another_deployments_machines_are_invisible_and_safe(host: Host) -> None:
    alice = host.create()
    other = LocalProvider({"deployment": DEPLOYMENT[:-1], "supervisor_socket": str(host.socket)})
    assert list(other.observe()) == []
    assert other.look(alice.name).phase is Phase.MISSING
    other.delete(alice.name)
    assert other.console(alice.name) == ""
    for call in (other.stop, other.start, other.reboot):
        with pytest.raises(Rejected):
            call(alice.name)
    with pytest.raises(Rejected, match="another deployment"):
        other.create(replace(host.spec(alice.name), deployment=DEPLOYMENT[:-1]))
    assert alice.alive()
    host.provider.delete(alice.name)


def test_reboot_keeps_the_disk_and_changes_the_processes(host: Host) -> None:
    alice = host.create()
    alice.run("open('/work/kept', 'w').write('yes')")
    before = set(host.processes())
    host.provider.reboot(alice.name)
    alice.wait()
    assert not before & set(host.processes())
    assert alice.run("print(open('/work/kept').read())") == "yes"
    host.provider.delete(alice.name)


def test_a_shut_down_from_inside_is_seen_and_told(host: Host) -> None:
    alice, told = host.create(), []
    heard = threading.Event()

    def wake(ref: str) -> None:
        told.append(ref)
        if ref == alice.name:
            heard.set()

    threading.Thread(target=lambda: host.provider.watch(wake), daemon=True).start()
    # late enough for the watch to have begun
    alice.spawn("import os, signal, time; time.sleep(2); os.kill(os.getppid(), signal.SIGTERM)")
    assert heard.wait(10)
    seen = host.provider.look(alice.name)
    assert (seen.phase, seen.reason) == (Phase.STOPPED, "ended")
    host.provider.delete(alice.name)


def test_the_consoles_last_lines_can_be_read(host: Host) -> None:
    alice = host.create()
    assert "agent ready" in host.provider.console(alice.name)
    host.provider.stop(alice.name)
    assert "agent ready" in host.provider.console(alice.name)
    host.provider.delete(alice.name)


def test_a_killed_supervisor_leaves_nothing_running_and_its_folders_mean_stopped(fragile: Host) -> None:
    alice, bob = fragile.create(), fragile.create(home="home-of-bob")
    alice.spawn("import time; time.sleep(600)")
    fragile.provider.stop(bob.name)
    inside = fragile.processes()
    alice.run("open('/work/kept', 'w').write('yes')")
    fragile.kill()
    until(lambda: not [pid for pid in inside if Path(f"/proc/{pid}").exists()], 5)
    with pytest.raises(ProviderUnavailable):
        fragile.provider.look(alice.name)
    fragile.start()
    seen = fragile.provider.look(alice.name)
    assert (seen.phase, seen.reason) == (Phase.STOPPED, "supervisor-restarted")
    assert fragile.provider.look(bob.name).reason == ""
    fragile.provider.start(alice.name)
    alice.wait()
    assert alice.run("print(open('/work/kept').read())") == "yes"


def test_a_supervisor_that_is_told_to_end_stops_all_sessions(fragile: Host) -> None:
    alice = fragile.create()
    inside = fragile.processes()
    fragile.stop()
    assert fragile.process is not None
    assert fragile.process.returncode == 0
    until(lambda: not [pid for pid in inside if Path(f"/proc/{pid}").exists()], 2)
    assert not fragile.socket.exists()
    identity = hashlib.sha256(os.fsencode(fragile.state)).hexdigest()[:8]
    assert not list(Path("/sys/fs/cgroup").glob(f"*/beamport-{identity}"))
    fragile.start()
    assert fragile.phase(alice.name) is Phase.STOPPED


def test_a_second_supervisor_does_not_start_and_disturbs_nothing(host: Host) -> None:
    alice = host.create()
    second = host.begin()
    assert second.wait(20) != 0
    assert "Another supervisor runs" in host.log()
    assert alice.alive()
    host.provider.delete(alice.name)


def test_half_made_and_half_deleted_folders_are_swept_at_the_start(fragile: Host) -> None:
    fragile.stop()
    left = [fragile.state / "local" / ".new-bp-x", fragile.state / "local" / ".gone-bp-y-0011"]
    for folder in left:
        (folder / "scratch").mkdir(parents=True)
    fragile.start()
    until(lambda: not [folder for folder in left if folder.exists()])
    assert list(fragile.provider.observe()) == []


def test_nonsense_on_the_socket_gets_an_answer_and_ends_nothing(host: Host) -> None:
    for line in (b"hello", b"[]", b"null", b'{"op": "create"}', b'{"op": "start", "name": 1, "deployment": 2}'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(host.socket))
            connection.sendall(line + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        assert answer["ok"] is False
        assert answer["kind"] == "rejected"
    for operation in ("publish", "_start", "close", "running", "recover"):
        with pytest.raises(Rejected, match="no operation"):
            host.provider._ask(5, operation)
    assert host.answers()


@pytest.mark.root
def test_only_root_and_the_portals_uid_may_speak(host: Host) -> None:
    assert os.stat(host.socket).st_mode & 0o777 == 0o600
    from tests.providers.local.test_isolation import connects

    assert connects(str(host.socket), uid=60_002, gid=60_002) == "PermissionError"
    host.socket.chmod(0o666)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(60_002)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(host.socket))
            connection.settimeout(5)
            try:
                connection.sendall(b'{"op": "ping"}\n')
                os.write(write, connection.recv(100) or b"hung up")
            except OSError:
                os.write(write, b"hung up")
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        assert answer.read() == "hung up"
    host.socket.chmod(0o600)


def test_without_user_namespaces_it_refuses_with_what_helps(tmp_path: Path) -> None:
    """Inside one of our own sandboxes no namespace can be made: the supervisor must say so, not run bare."""
    from instances.providers.local.bubblewrap import ISOLATION, system_binds
    from portal.lib.interpreters import choose

    interpreter = choose(os.getuid() or 200_000)[0]
    prefix = interpreter.parent.parent
    more = [] if prefix.is_relative_to("/usr") else ["--ro-bind", str(prefix), str(prefix)]
    done = subprocess.run(
        [
            *("bwrap", *ISOLATION, *system_binds(), *more, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/var/tmp"),
            *("--ro-bind", str(ROOT), "/srv", "--setenv", "PYTHONPATH", "/srv"),
            *("--setenv", "BEAMPORT_STATE", "/var/tmp/s", "--uid", "1000"),
            *("--", str(interpreter), "-m", "instances.providers.local.supervisor", "--check"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1, done.stdout
    assert "Sessions cannot be isolated here" in done.stderr
    assert "user.max_user_namespaces" in done.stderr


def test_the_check_says_which_bubblewrap_is_used(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instances.providers.local.supervisor", "--check"],
        env={"PYTHONPATH": str(ROOT), "BEAMPORT_STATE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bubblewrap ")


def test_a_hung_supervisor_is_unavailable_soon(fragile: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from instances.providers.local import provider

    assert fragile.process is not None
    fragile.process.send_signal(signal.SIGSTOP)
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(provider, "_LOOK", 0.3)
            with pytest.raises(ProviderUnavailable):
                list(fragile.provider.observe())
            with pytest.raises(ProviderUnavailable):
                fragile.provider.look("bp-any")
    finally:
        fragile.process.send_signal(signal.SIGCONT)
    assert list(fragile.provider.observe()) == []


def test_the_machine_survives_the_process_that_asked_for_it(host: Host) -> None:
    spec = host.spec()
    child = os.fork()
    if child == 0:
        host.provider.create(spec)
        os._exit(0)
    os.waitpid(child, 0)

    sandbox = Sandbox(host, spec.name)
    sandbox.wait()
    time.sleep(0.5)
    assert sandbox.alive()
    host.provider.delete(spec.name)
