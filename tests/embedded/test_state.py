"""The state folder: modes, owners, secrets, and what is refused before anything starts."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded import state as layout
from portal.embedded.people import CannotStart, Person, gateway_person, make_folder, portal_person
from portal.embedded.state import SECRETS, State


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that everybody may cross; pytest's own is too long for sockets."""
    made = Path(tempfile.mkdtemp(prefix="bps-", dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def laid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    for name in SECRETS:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)
    made = State(folder / "s", portal_person(), gateway_person())
    made.lay()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_folder_has_its_mode(laid: State) -> None:
    expected = {
        "run/back": 0o700,
        "run/front": 0o2710,
        "secrets": 0o711,
        "secrets/gateway": 0o700,
        "log": 0o711,
        "homes": 0o711,
        "local": 0o711,
    }
    assert {name: mode(laid.folder / name) for name in expected} == expected


@pytest.mark.root
def test_the_portal_and_the_gateway_own_what_is_theirs(laid: State) -> None:
    owners = {
        name: (laid.folder / name).stat().st_uid for name in ("run/back", "run/front", "secrets/gateway", "homes")
    }
    assert owners == {
        "run/back": laid.portal.uid,
        "run/front": laid.portal.uid,
        "secrets/gateway": laid.gateway.uid,
        "homes": 0,
    }
    assert (laid.run / "front").stat().st_gid == laid.gateway.gid
    assert laid.portal.uid != laid.gateway.uid
    assert 0 not in (laid.portal.uid, laid.gateway.uid)


def test_a_mode_that_somebody_changed_is_put_back(laid: State) -> None:
    (laid.run / "back").chmod(0o777)
    laid.lay()
    assert mode(laid.run / "back") == 0o700


def test_secrets_are_made_once_and_only_their_owner_reads_them(laid: State) -> None:
    first = {name: laid.secret(name) for name in SECRETS}
    laid.lay()
    assert {name: laid.secret(name) for name in SECRETS} == first
    assert len(set(first.values())) == len(SECRETS)
    assert all(len(text) >= 60 for text in first.values())
    assert {mode(laid.secrets / name) for name in SECRETS} == {0o600}


@pytest.mark.parametrize(
    ("reader", "names"),
    [
        ("gateway", ["gateway_token", "instance_key"]),
        ("supervisor", ["instance_key"]),
        ("identity", ["oidc_client_secret"]),
    ],
)
def test_each_reader_gets_a_copy_of_its_secrets_and_no_other(laid: State, reader: str, names: list[str]) -> None:
    copies = sorted((laid.secrets / reader).iterdir())
    assert [path.name for path in copies] == names
    assert [path.read_text() for path in copies] == [(laid.secrets / path.name).read_text() for path in copies]
    assert {mode(path) for path in copies} == {0o600}
    assert mode(laid.secrets / reader) == 0o700


def test_a_secret_of_the_operator_goes_first(laid: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "of-the-operator")
    laid.lay()
    assert (laid.secrets / "gateway" / "gateway_token").read_text().strip() == "of-the-operator"


def test_a_link_in_the_place_of_a_folder_is_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir(mode=0o755)
    (folder / "run").symlink_to("elsewhere")
    with pytest.raises(CannotStart, match="symbolic link"):
        make_folder(folder / "run", 0o700)
    assert mode(folder / "elsewhere") == 0o755


def test_a_full_disk_is_named_with_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)._replace(free=2**30)
    monkeypatch.setattr(layout.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(CannotStart, match=r"Only 1\.0 GB free.*at least 2 GB.*BEAMPORT_STATE"):
        layout.prepare(folder)


def test_a_path_too_long_for_sockets_is_refused_before_anything_is_made(folder: Path) -> None:
    long = folder / ("x" * 60)
    with pytest.raises(CannotStart, match="too long for unix sockets"):
        layout.prepare(long)
    assert not long.exists()


@pytest.mark.root
def test_a_state_folder_that_the_portals_user_cannot_reach_is_refused(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    with pytest.raises(CannotStart, match=r"cannot cross .*/closed.*chmod o\+x"):
        State(folder / "closed" / "s", portal_person(), gateway_person()).lay()


def test_a_folder_of_somebody_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout.os, "access", lambda _path, _mode: False)
    with pytest.raises(CannotStart, match="Cannot write to the state folder"):
        layout.prepare(folder)


def test_a_plain_user_needs_no_other_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert portal_person() == gateway_person() == Person(4711, os.getegid(), "uid 4711")
    assert portal_person().ids() == {}
