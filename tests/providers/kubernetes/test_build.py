"""The image for pods: its recipe and its archive."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest

from instances.providers.kubernetes import build


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o755)
    (root / "bin" / "link").symlink_to("tool")
    os.link(root / "bin" / "tool", root / "bin" / "other")
    os.mkfifo(root / "pipe")
    return root


def test_an_archive_is_an_oci_layout_of_one_layer(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    build.pack(tree, target, "localhost/beamport/x:1", {"Cmd": ["/bin/tool"]})
    with tarfile.open(target) as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    blobs = {name.removeprefix("blobs/sha256/"): data for name, data in files.items() if name.startswith("blobs/")}
    assert [hashlib.sha256(data).hexdigest() for data in blobs.values()] == list(blobs)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/beamport/x:1"
    manifest = json.loads(blobs[entry["digest"].removeprefix("sha256:")])
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    (layer,) = manifest["layers"]
    data = blobs[layer["digest"].removeprefix("sha256:")]
    assert layer["size"] == len(data)
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"] == {"Cmd": ["/bin/tool"]}
    with tarfile.open(fileobj=io.BytesIO(data)) as inside:
        members = {member.name: member for member in inside.getmembers()}
    assert members["./bin/tool"].mode == 0o755
    assert members["./bin/link"].linkname == "tool"
    assert sum(member.islnk() for member in members.values()) == 1
    assert "./pipe" not in members


def test_the_containerfile_makes_the_same_image() -> None:
    text = (build.RECIPES / "jupyter" / "Containerfile").read_text()
    config = build.CONFIG
    assert f"debian:{build.RELEASE}-slim" in text
    assert "RUN /recipe/install" in text
    assert f"USER {config['User']}" in text
    assert f"WORKDIR {config['WorkingDir']}" in text
    assert "ENV " + " ".join(config["Env"]) in text  # type: ignore[arg-type]
    assert "CMD " + json.dumps(config["Cmd"]) in text
    copied = set(" ".join(re.findall(r"^COPY (.+) /recipe", text, re.M)).split())
    assert copied == {"requirements.txt", "start-pod", "install", "files"}


def test_each_file_of_the_recipe_makes_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jupyter"
    for name in ("requirements.txt", "install", "start-pod", "files/etc/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.setattr(build, "RECIPES", tmp_path)
    seen = {build.digest("jupyter")}
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_text("changed")
        seen.add(build.digest("jupyter"))
    assert len(seen) == 5


def test_a_name_without_a_recipe_is_a_sentence() -> None:
    with pytest.raises(build.CannotBuild, match="no recipe"):
        build.build("agent-that-is-not")
