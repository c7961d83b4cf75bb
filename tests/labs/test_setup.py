"""What the labs fetch is what was meant, and their mark of having passed stands for the very files that passed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from portal.embedded.people import CannotStart
from tests.labs import green, setup

CONTENT = b"a program"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "program.zip"
    path.write_bytes(CONTENT)
    return path


def test_a_download_is_kept_by_its_hash(source: Path, tmp_path: Path) -> None:
    kept = setup.fetch(source.as_uri(), SHA256, tmp_path / "kept")
    assert (kept.name, kept.read_bytes()) == (SHA256, CONTENT)
    source.unlink()
    assert setup.fetch(source.as_uri(), SHA256, tmp_path / "kept") == kept


def test_another_content_is_refused_and_not_kept(source: Path, tmp_path: Path) -> None:
    source.write_bytes(b"another program")
    with pytest.raises(CannotStart, match=SHA256):
        setup.fetch(source.as_uri(), SHA256, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_cannot_be_fetched_is_a_sentence(source: Path, tmp_path: Path) -> None:
    source.unlink()
    with pytest.raises(CannotStart, match="cannot be fetched"):
        setup.fetch(source.as_uri(), SHA256, tmp_path / "kept")


def test_a_damaged_copy_is_fetched_again(source: Path, tmp_path: Path) -> None:
    setup.fetch(source.as_uri(), SHA256, tmp_path / "kept").write_bytes(b"cut sh")
    assert setup.fetch(source.as_uri(), SHA256, tmp_path / "kept").read_bytes() == CONTENT


@pytest.mark.parametrize("said", ["", 'openjdk version "11.0.2" 2019-01-15'])
def test_an_old_java_or_none_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    (tmp_path / "bin").mkdir()
    if said:
        java = tmp_path / "bin" / "java"
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(CannotStart, match="Java 17 or newer"):
        setup.java()


def test_a_mark_stands_for_these_files_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "ROOT", tmp_path)
    monkeypatch.setattr(green, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(green, "java", lambda: "true")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "auth").mkdir()
    (tmp_path / "auth" / "new.py").write_text("1")
    passed = green.marker()
    (tmp_path / "README.md").write_text("words")
    assert green.marker() == passed
    green.record(passed)
    assert passed.is_file()
    (tmp_path / "auth" / "new.py").write_text("2")
    assert not green.marker().exists()


def test_a_mark_forgets_no_path() -> None:
    assert [path for path in green.DEPENDS_ON if not list(green.ROOT.glob(path))] == []
