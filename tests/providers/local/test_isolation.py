"""What a session sees of the machine that carries it, and what it cannot reach: asked from inside."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.providers.local.host import KEY, Host, Sandbox


@pytest.fixture(params=["host", "plain"])
def where(request: pytest.FixtureRequest) -> Host:
    """Each fact holds for a supervisor of root and for one of a plain user."""
    found: Host = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def alice(where: Host, data: Path) -> Iterator[Sandbox]:
    sandbox = where.create(data={"p700000/r0001": data})
    yield sandbox
    where.provider.delete(sandbox.name)


@pytest.fixture
def bob(where: Host) -> Iterator[Sandbox]:
    sandbox = where.create(home="home-of-bob")
    yield sandbox
    where.provider.delete(sandbox.name)


def exists(sandbox: Sandbox, path: str | Path) -> bool:
    return sandbox.run(f"import os; print(os.path.lexists({str(path)!r}))") == "True"


def test_data_are_there_and_read_only(alice: Sandbox) -> None:
    assert alice.run("print(open('/work/data/p700000/r0001/RAW-R0001.h5').read())") == "frames"
    for deed in ("open('/work/data/p700000/r0001/new', 'w')", "open('/work/data/p700000/r0001/RAW-R0001.h5', 'a')"):
        assert "[Errno 30]" in alice.error(deed)
    assert "[Errno 30]" in alice.error("import os; os.mkdir('/work/data/other')")


def test_data_stay_where_they_are_whatever_a_session_does_to_the_folders_above(alice: Sandbox) -> None:
    for deed in ("os.rename('/work/data', '/work/mine')", "os.rename('/work/home', '/work/mine')"):
        assert "Errno" in alice.error(f"import os; {deed}")


def test_home_and_scratch_are_writable_and_survive_a_stop(alice: Sandbox) -> None:
    alice.run("open('/work/home/kept', 'w').write('home'); open('/work/note', 'w').write('disk')")
    alice.host.provider.stop(alice.name)
    alice.host.provider.start(alice.name)
    alice.wait()
    assert alice.run("print(open('/work/home/kept').read(), open('/work/note').read())") == "home disk"


def test_nothing_else_of_the_system_can_be_written(alice: Sandbox) -> None:
    for folder in ("/", "/usr", "/etc", "/opt", "/opt/image", "/run", "/dev", "/bin", "/work/data"):
        assert "Errno" in alice.error(f"open({folder!r} + '/x', 'w')"), folder


def test_the_portals_state_settings_and_sockets_are_not_there(alice: Sandbox) -> None:
    state = alice.host.state
    for path in (state, state / "run", state / "secrets", state / "local", "/var", "/root", "/home", "/sys", "/tmp/x"):
        assert not exists(alice, path), path
    assert alice.run("import os; print(sorted(os.listdir('/run')))") == "['session', 'sockets']"
    assert alice.run("import os; print(sorted(os.listdir('/run/sockets')))") == "['jupyter.sock']"


def test_the_environment_holds_nothing_of_the_portals(alice: Sandbox) -> None:
    names = set(alice.run("import os; print(*os.environ)").split())
    assert not {name for name in names if "KEY" in name or "SECRET" in name or name.startswith(("BEAMPORT", "PYTHON"))}
    assert {"JUPYTER_TOKEN", "HOME", "PATH"} <= names


def test_no_descriptor_of_the_supervisor_comes_along(alice: Sandbox) -> None:
    code = """
        import os, contextlib
        for number in os.listdir('/proc/self/fd'):
            with contextlib.suppress(FileNotFoundError):
                print(os.readlink(f'/proc/self/fd/{number}'))
    """
    seen = alice.run("if True:" + code).splitlines()
    assert [line.split(":")[0] for line in seen if line.startswith(("pipe", "/memfd"))] == ["pipe", "pipe"], seen
    assert not [line for line in seen if str(alice.host.state) in line]


def test_the_token_shows_in_no_list_of_processes(alice: Sandbox) -> None:
    token = alice.run("import os; print(os.environ['JUPYTER_TOKEN'])")
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text())
    assert len(token) > 40
    assert not [line for line in lines if token in line or KEY in line]


def test_other_peoples_homes_and_sessions_are_not_there(alice: Sandbox, bob: Sandbox) -> None:
    bob.run("open('/work/home/secret', 'w').write('x')")
    state = alice.host.state
    for path in (state / "homes" / "home-of-bob" / "secret", bob.socket, state / "local" / bob.name):
        assert Path(path).exists()
        assert not exists(alice, path), path
    assert "secret" not in alice.run("import os; print(os.listdir('/work/home'))")


def test_proc_shows_only_the_sessions_own(alice: Sandbox) -> None:
    pids = alice.run("import os; print(*(p for p in os.listdir('/proc') if p.isdigit()))").split()
    assert len(pids) <= 4
    assert max(int(pid) for pid in pids) < 100
    commands = alice.run("import glob; print(*(open(p).read() for p in glob.glob('/proc/[0-9]*/cmdline')))")
    assert "supervisor" not in commands


def test_the_hosts_loopback_and_every_network_are_out_of_reach(alice: Sandbox) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        assert "ConnectionRefused" in alice.error(code)
    metadata, gateways, hosts_own = "169.254.169.254", ("10.0.2.2", "172.17.0.1"), _addresses()
    for address in (metadata, *gateways, *hosts_own):
        code = f"import socket; socket.create_connection(({address!r}, 80), 2)"
        assert "Network is unreachable" in alice.error(code), address
    assert alice.run("import socket; print([name for _, name in socket.if_nameindex()])") == "['lo']"


def _addresses() -> list[str]:
    """The host's own addresses besides loopback."""
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return [address for address in said if ":" not in address]


def test_abstract_sockets_of_the_host_are_out_of_reach(alice: Sandbox) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0beamport-test-abstract")
        listener.listen()
        code = "import socket; socket.socket(socket.AF_UNIX).connect('\\0beamport-test-abstract')"
        assert "ConnectionRefused" in alice.error(code)


def test_no_privilege_can_be_had(alice: Sandbox) -> None:
    status = dict(
        line.split(":\t") for line in alice.run("print(open('/proc/self/status').read())").splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert alice.run("import os; print(os.getuid())") != "0"
    assert "Errno" in alice.error("import os; os.setuid(0)")


def test_no_namespace_of_ones_own_can_be_made(alice: Sandbox) -> None:
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
    """
    assert "OSError" in alice.error("if True:" + code)


def test_the_machine_below_ours_is_out_of_reach(alice: Sandbox) -> None:
    """AF_VSOCK is in no network namespace; AF_ALG and the like only widen what of the kernel can be asked."""
    for family in (40, 38, 17, 31):
        assert "Errno 97" in alice.error(f"import socket; socket.socket({family}, socket.SOCK_STREAM)"), family
    for family in ("AF_UNIX", "AF_INET", "AF_INET6"):
        alice.run(f"import socket; socket.socket(socket.{family}, socket.SOCK_STREAM).close()")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
@pytest.mark.parametrize(
    "number", [248, 249, 250, 298, 321, 323, 425, 426, 427, 0x40000000 + 39], ids=lambda number: f"syscall-{number}"
)
def test_calls_that_no_namespace_holds_back_are_refused(alice: Sandbox, number: int) -> None:
    code = (
        f"import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({number}, 0, 0, 0), ctypes.get_errno())"
    )
    assert alice.run(code) == "-1 38"


def test_nothing_outside_can_be_signalled_or_traced(alice: Sandbox) -> None:
    assert alice.host.process is not None
    pid = alice.host.process.pid
    assert "ProcessLookupError" in alice.error(f"import os; os.kill({pid}, 0)")


def test_temporary_folders_are_bounded(alice: Sandbox) -> None:
    for folder in ("/tmp", "/dev/shm", "/run/session"):
        size = int(alice.run(f"import os; s = os.statvfs({folder!r}); print(s.f_blocks * s.f_frsize)"))
        assert 0 < size <= 64 * 2**20, folder


@pytest.mark.root
def test_each_home_has_a_uid_of_its_own_and_the_gateway_alone_may_connect(host: Host) -> None:
    alice, bob = host.create(), host.create(home="home-of-bob")
    uids = {sandbox.run("import os; print(os.getuid())") for sandbox in (alice, bob)}
    assert len(uids) == 2
    assert min(int(uid) for uid in uids) >= 200_000
    run = Path(alice.socket).parent
    assert stat.S_IMODE(run.stat().st_mode) == 0o2710
    assert run.stat().st_gid == Path(alice.socket).stat().st_gid == 60_001
    assert connects(alice.socket, uid=60_002, gid=60_001) == "connected"
    assert connects(alice.socket, uid=60_002, gid=60_002) == "PermissionError"
    for sandbox in (alice, bob):
        host.provider.delete(sandbox.name)


PTRACE_ATTACH = 16


def deeds(pid: int) -> dict[str, Callable[[], object]]:
    """What somebody could try on a process of a session."""
    libc = ctypes.CDLL(None, use_errno=True)

    def trace() -> None:
        if libc.ptrace(PTRACE_ATTACH, pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    return {
        "environment": lambda: Path(f"/proc/{pid}/environ").read_bytes(),
        "memory": lambda: open(f"/proc/{pid}/mem", "rb"),
        "files": lambda: os.listdir(f"/proc/{pid}/fd"),
        "disk": lambda: os.listdir(f"/proc/{pid}/root/work"),
        "namespace": lambda: os.readlink(f"/proc/{pid}/ns/mnt"),
        "signal": lambda: os.kill(pid, signal.SIGTERM),
        "trace": trace,
    }


@pytest.mark.root
@pytest.mark.parametrize("who", ["the gateway", "another session's uid"])
def test_nobody_else_of_the_machine_looks_into_a_session_or_disturbs_it(host: Host, who: str) -> None:
    alice, bob = host.create(), host.create(home="home-of-bob")
    uid = 64_101 if who == "the gateway" else int(bob.run("import os; print(os.getuid())"))
    pid = next(pid for pid in host.processes() if Path(f"/proc/{pid}").stat().st_uid == _uid_of(alice))
    for name, deed in deeds(pid).items():
        assert as_other(deed, uid=uid, gid=60_001) in ("PermissionError", "ProcessLookupError"), name
    assert alice.alive()
    for sandbox in (alice, bob):
        host.provider.delete(sandbox.name)


def _uid_of(sandbox: Sandbox) -> int:
    return int(sandbox.run("import os; print(os.getuid())"))


def test_two_sessions_of_one_home_are_apart_although_they_have_one_uid(where: Host) -> None:
    alice, other = where.create(), where.create()
    assert _uid_of(alice) == _uid_of(other)
    pids = other.run("import os; print(*(p for p in os.listdir('/proc') if p.isdigit()))").split()
    seen = alice.run("import glob; print([open(p).read() for p in glob.glob('/proc/[0-9]*/environ')])")
    token = other.run("import os; print(os.environ['JUPYTER_TOKEN'])")
    assert len(pids) <= 4
    assert token not in seen
    alice.run("import os; open('/work/home/from-alice', 'w').close()")
    assert exists(other, "/work/home/from-alice"), "the home is one"
    assert not exists(alice, other.socket)
    for sandbox in (alice, other):
        where.provider.delete(sandbox.name)


def connects(path: str, uid: int, gid: int) -> str:
    """Connect as somebody else of this machine."""
    outcome = as_other(lambda: socket.socket(socket.AF_UNIX).connect(path), uid, gid)
    return outcome or "connected"


def as_other(deed: Callable[[], object], uid: int, gid: int) -> str:
    """Do something as somebody else of this machine; return the name of the error, empty when it was done."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            deed()
        except OSError as error:
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return answer.read()


@pytest.mark.root
def test_data_that_the_person_may_not_read_are_refused_by_the_runs_name(host: Host, data: Path) -> None:
    data.chmod(0o700)
    with pytest.raises(Exception, match="The data of p700000/r0001 cannot be read") as refused:
        host.provider.create(host.spec("bp-denied", data={"p700000/r0001": data}))
    assert getattr(refused.value, "code", "") == "mount-missing"
    assert str(data) not in str(refused.value)
    data.chmod(0o755)
