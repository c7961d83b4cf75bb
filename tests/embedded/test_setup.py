"""The set-up: which Python, which uv, what is made again, and what people read when it fails."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded import environments, setup, steps
from portal.embedded.people import CannotStart
from portal.lib import interpreters

ROOT = Path(__file__).resolve().parent.parent.parent
PLAIN = 65533


@pytest.fixture
def open_folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bpi-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.root
def test_an_interpreter_below_a_closed_folder_is_passed_over(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    ours = script(closed / "python3", f'exec {sys.executable} "$@"')
    free = script(open_folder / "python3", f'exec {interpreters.choose(PLAIN)[0]} "$@"')
    assert interpreters.choose(PLAIN, [str(ours), str(free)])[0] == free


@pytest.mark.root
def test_an_interpreter_that_is_another_one_for_a_plain_user_is_passed_over(open_folder: Path) -> None:
    fickle = script(
        open_folder / "python3", 'if [ "$(id -u)" = 0 ]; then echo /opt/python 3 12 1; else echo /usr 3 11 2; fi'
    )
    with pytest.raises(interpreters.NoInterpreter, match="make run PYTHON="):
        interpreters.choose(PLAIN, [str(fickle)])


def test_an_interpreter_that_is_too_old_is_passed_over(open_folder: Path) -> None:
    old = script(open_folder / "python3", "echo /usr 3 10 13")
    assert interpreters.usable(old, os.geteuid()) == ""


def test_an_old_python_gets_a_sentence() -> None:
    text = (ROOT / "portal" / "embedded" / "bootstrap.py").read_text()
    pretended = text.replace("sys.version_info < (3, 11)", "sys.version_info < (99, 0)")
    done = subprocess.run([sys.executable, "-c", pretended, "run"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Beamport needs Python 3.11 or newer" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_file_parses_on_the_oldest_python_somebody_may_have() -> None:
    import ast

    ast.parse((ROOT / "portal" / "embedded" / "bootstrap.py").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("complaint", "advice"),
    [
        ("error: No space left on device (os error 28)", "disk is full"),
        ("npm error code ENOSPC", "disk is full"),
        ("dns error: failed to lookup address information", "cannot be reached"),
        ("npm error code EAI_AGAIN", "cannot be reached"),
        ("invalid peer certificate: UnknownIssuer", "certificate is not trusted"),
        ("HTTP status client error (403 Forbidden)", "refused"),
        ("Hash mismatch for `django==5.2`", "not the one that was locked"),
    ],
)
def test_a_tools_complaint_comes_with_what_to_do(complaint: str, advice: str) -> None:
    with pytest.raises(CannotStart) as raised:
        steps.run([sys.executable, "-c", f"import sys; sys.exit({complaint!r})"])
    assert complaint in str(raised.value)
    assert advice in str(raised.value)


def test_a_python_without_venv_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(CannotStart, match=r"apt-get install python3\.\d+-venv"):
        environments._check_venv()


@pytest.mark.parametrize(("version", "taken"), [("0.1.0", False), ("99.0.0", True)])
def test_a_uv_on_the_path_is_taken_when_it_is_new_enough(
    version: str, taken: bool, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = script(open_folder / "uv", f"echo uv {version}")
    monkeypatch.setenv("PATH", f"{open_folder}:/usr/bin:/bin")
    assert environments._uv_on_path() == (str(found) if taken else None)


def fake_uv(folder: Path) -> Path:
    """A uv that makes the environment's folder and counts how often it was called."""
    return script(
        folder / "uv",
        f'echo "$1" >> {folder}/calls\n'
        'case "$1" in --version) echo uv 99.0.0;; venv) for last; do :; done; mkdir -p $last/bin; '
        "touch $last/bin/python;; esac",
    )


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split() if (folder / "calls").exists() else []


def test_an_environment_is_made_once_and_anew_when_it_was_interrupted(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(open_folder)
    monkeypatch.setenv("PATH", f"{open_folder}:/usr/bin:/bin")
    made = environments.make(open_folder / "env", "run", "things", Path(sys.executable), "3.11.2")
    assert calls(open_folder) == ["--version", "venv", "pip"]
    assert environments.make(open_folder / "env", "run", "things", Path(sys.executable), "3.11.2") == made
    assert calls(open_folder) == ["--version", "venv", "pip"]
    (made.parent.parent / environments.COMPLETE).unlink()
    environments.make(open_folder / "env", "run", "things", Path(sys.executable), "3.11.2")
    assert calls(open_folder) == ["--version", "venv", "pip"] * 2


def test_another_python_gets_another_environment_and_the_oldest_go(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(open_folder)
    monkeypatch.setenv("PATH", f"{open_folder}:/usr/bin:/bin")
    made = []
    for age, version in ((300, "3.11.2"), (200, "3.12.1"), (100, "3.13.0")):
        made.append(
            environments.make(open_folder / "env", "run", "things", Path(sys.executable), version).parent.parent
        )
        then = made[-1].stat().st_mtime - age
        os.utime(made[-1], (then, then))
    environments.forget_older(open_folder / "env", "run")
    assert [path.exists() for path in made] == [False, True, True]


def test_too_little_room_to_install_is_said_before_the_download(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(open_folder)._replace(free=3 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    monkeypatch.setenv("BEAMPORT_STATE", str(open_folder))
    assert setup.main(["run"]) == 1
    assert "at least 4 GB are needed" in capsys.readouterr().err


def test_the_locks_name_no_registry_and_hash_everything() -> None:
    for name in ("run", "test", "uv"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        assert not [line for line in lines if "://" in line or line.startswith("-")]
        packages = [line for line in lines if line and line[0].isalnum()]
        assert packages
        assert all(line.endswith("\\") for line in packages)


def pinned(name: str) -> set[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {line.split()[0] for line in lines if line and line[0].isalnum()}


def test_what_runs_is_what_is_tested() -> None:
    assert pinned("run") <= pinned("test")


def test_everything_that_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(texts: list[str]) -> set[str]:
        return {re.split(r"[\[<>=~! ]", text)[0].lower() for text in texts}

    locked = {name: {pin.partition("==")[0] for pin in pinned(name)} for name in ("run", "test")}
    assert names(project["dependencies"]) | names(extras["embedded"]) <= locked["run"]
    assert {name for texts in extras.values() for name in names(texts)} <= locked["test"]


def test_the_providers_own_files_are_refreshed_beside_its_packages(open_folder: Path) -> None:
    source, place = open_folder / "source", open_folder / "place"
    (source / "views").mkdir(parents=True)
    (source / "views" / "login.html").write_text("new")
    (source / "node_modules").mkdir()
    (source / "node_modules" / "x.js").write_text("not ours")
    (place / "views").mkdir(parents=True)
    (place / "views" / "login.html").write_text("old")
    setup._refresh(source, place)
    assert (place / "views" / "login.html").read_text() == "new"
    assert not (place / "node_modules").exists()
    assert not stat.S_IMODE((place / "views" / "login.html").stat().st_mode) & 0o002
