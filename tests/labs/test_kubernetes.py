"""What is said where the Kubernetes lab cannot be built."""

from __future__ import annotations

import pytest

from tests.labs.kubernetes import build
from tests.labs.kubernetes.build import CannotBuild, Made


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    (tmp_path / "go.mod").write_text("module x\n\ngo 1.26.0\n")
    (tmp_path / "go.sum").touch()
    return Made("lab", {"program": "./program"}, tmp_path)


def test_without_go_it_is_said_which_is_needed(made, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name, path=None: None)
    with pytest.raises(CannotBuild, match=r"Go 1\.26 or newer is needed: https://go\.dev/dl; there is none"):
        made.build()


def test_an_older_go_is_named_beside_what_it_says(made, tmp_path, monkeypatch):
    """What it says itself is a riddle."""
    go = tmp_path / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = version ] && exec echo "go version go1.19.8 linux/amd64"\n'
        "echo \"invalid go version '1.26.0': must match format 1.23\" >&2\nexit 1\n"
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CannotBuild) as error:
        made.build()
    assert str(error.value).splitlines() == [
        "program: invalid go version '1.26.0': must match format 1.23",
        f"Go 1.26 or newer is needed: https://go.dev/dl; {go} is go1.19.8 linux/amd64.",
    ]
    assert not made.is_built
    assert not list(build.CACHE.glob(".lab-*"))


def test_a_go_beside_the_path_is_found(made, monkeypatch):
    """Where its own installation page has it put: root's path in CI may not lead there."""
    monkeypatch.setattr(build.shutil, "which", lambda name, path=None: f"{path}/go" if path else None)
    assert build._go() == "/usr/local/go/bin/go"
