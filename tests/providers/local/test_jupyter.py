"""The real image: JupyterLab in the sandbox, the welcome notebook to its end under the smallest flavour's memory."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from instances.lifecycle import Phase
from instances.providers.base import ImageSpec, Spec
from instances.providers.local.build import CannotBuild, build
from instances.welcome import RunInfo, notebook
from portal.lib.hashing import instance_secret
from tests.providers.local.host import KEY, Host, until
from tests.providers.local.notebook import Jupyter
from tests.providers.local.test_limits import small_disk

pytestmark = pytest.mark.timeout(300)

IMAGES = Path("/var/cache/beamport-tests") if os.geteuid() == 0 else Path.home() / ".cache" / "beamport"
JUPYTER = ImageSpec("JupyterLab", "jupyter")
GIB = 2**30


def uv() -> str:
    found = os.environ.get("BEAMPORT_UV") or shutil.which("uv")
    if not found:
        assert not os.environ.get("CI"), "BEAMPORT_UV is not set"
        pytest.skip("needs uv to build the image: set BEAMPORT_UV, or use make test")
    return found


@pytest.fixture(scope="session")
def image() -> Path:
    """The image as it is built by `make`, or built once and kept by the digest of its recipe."""
    ready = os.environ.get("BEAMPORT_TEST_IMAGES")
    if ready and (Path(ready) / "jupyter").exists():
        return (Path(ready) / "jupyter").resolve()
    IMAGES.mkdir(parents=True, exist_ok=True)
    return build("jupyter", IMAGES, uv=uv()).resolve()


@pytest.fixture(scope="session")
def lab(host: Host, image: Path) -> Host:
    link = host.state / "images" / "jupyter"
    if not link.is_symlink():
        link.symlink_to(image)
    return host


@pytest.fixture(scope="session")
def run(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of EXtra-data's own example writer with rings drawn into the first trains of one module."""
    folder = Path("/var/tmp") / f"bpl-run-{os.getpid()}"
    folder.mkdir()
    python = str(image / "bin" / "python")
    write = "import sys; from extra_data.tests.make_examples import make_spb_run as make; make(sys.argv[1])"
    subprocess.run([python, "-c", write, str(folder)], check=True, timeout=60)
    with h5py.File(next(folder.glob("RAW-*-AGIPD00-S00000.h5")), "r+") as file:
        frames = file["INSTRUMENT/SPB_DET_AGIPD1M-1/DET/0CH0:xtdf/image/data"]
        y, x = np.mgrid[: frames.shape[-2], : frames.shape[-1]]
        rings = (200 * (1 + np.sin(np.hypot(y - 256, x - 64) / 5))).astype(frames.dtype)
        frames[:8, 0] = rings
    opened = "import sys; from extra_data import RunDirectory; print(sum(RunDirectory(sys.argv[1]).train_ids))"
    done = subprocess.run([python, "-c", opened, str(folder)], check=True, timeout=60, capture_output=True, text=True)
    (folder / "sum").write_text(done.stdout.strip())
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def opened(host: Host, spec: Spec) -> Jupyter:
    """Make the machine and wait for its JupyterLab."""
    host.provider.create(spec)
    return reached(host, spec)


def reached(host: Host, spec: Spec) -> Jupyter:
    token = instance_secret(KEY.encode(), spec.instance, spec.secret_epoch, "jupyter")
    jupyter = Jupyter(host.provider.look(spec.name).endpoints[0].path, token)

    def ready() -> bool:
        assert host.phase(spec.name) is Phase.RUNNING, host.provider.console(spec.name)
        return jupyter.answers()

    until(ready, 60)
    return jupyter


def test_the_welcome_notebook_runs_to_its_end_in_one_gibibyte(lab: Host, run: Path) -> None:
    welcome = notebook("Rings", [RunInfo("p700000", 1, "Run 1", "/work/data/p700000/r0001")])
    spec = lab.spec(
        image=JUPYTER, memory=GIB, data={"p700000/r0001": run}, welcome={"Welcome.ipynb": welcome}, home="home-of-lab"
    )
    jupyter = opened(lab, spec)
    status, found = jupyter.ask("GET", "/api/contents/Welcome.ipynb")
    assert status == 200
    kernel, text, pictures = jupyter.kernel(), "", []
    for cell in found["content"]["cells"]:
        if cell["cell_type"] == "code":
            out, shown, error = kernel.run(cell["source"])
            assert not error
            text += out
            pictures += [data["image/png"] for data in shown if "image/png" in data]
    assert f"Sum of train ids: {(run / 'sum').read_text()}" in text
    assert "Images from SPB_DET_AGIPD1M-1/DET/0CH0:xtdf (image.data)" in text
    assert [base64.b64decode(picture)[:4] for picture in pictures] == [b"\x89PNG"]
    assert float(kernel.run("print(frame.std())")[0]) > 10, "there is something to see"
    _, _, error = kernel.run("open('/work/data/p700000/r0001/mine', 'w')")
    assert "[Errno 30]" in error
    kernel.close()
    assert lab.provider.look(spec.name).reason == ""
    lab.provider.delete(spec.name)


@pytest.mark.root  # by its cgroup; without one the watchdog ends the whole session (test_limits.py)
def test_a_kernel_that_takes_all_memory_dies_and_the_lab_says_why(lab: Host) -> None:
    spec = lab.spec(image=JUPYTER, memory=512 * 2**20, home="home-of-lab")
    jupyter = opened(lab, spec)
    kernel = jupyter.kernel()
    with pytest.raises(TimeoutError):
        kernel.run("held = []\nwhile True: held.append(bytearray(b'x' * (16 << 20)))", seconds=8)
    seen = until(lambda: (one := lab.provider.look(spec.name)).reason and one)
    assert (seen.phase, seen.reason) == (Phase.RUNNING, "out-of-memory")
    assert "0.5 GiB" in seen.detail
    assert jupyter.answers()
    lab.provider.delete(spec.name)


def test_it_is_a_lab_with_terminals_under_its_own_host_and_for_its_token_alone(lab: Host) -> None:
    spec = lab.spec(image=JUPYTER, memory=GIB, home="home-of-lab", welcome={"Welcome.ipynb": notebook("None", [])})
    jupyter = opened(lab, spec)
    status, page = jupyter.ask("GET", "/lab/tree/Welcome.ipynb")
    assert (status, "jupyter-config-data" in page) == (200, True)
    assert "apputils-extension:announcements" in page, "no news are fetched"
    assert jupyter.ask("POST", "/api/terminals")[0] == 200
    jupyter.headers = {"Host": "abc.apps.localhost"}
    assert jupyter.ask("GET", "/api/contents")[0] == 403
    token = instance_secret(KEY.encode(), spec.instance, spec.secret_epoch, "jupyter")
    assert token not in lab.provider.console(spec.name)
    lab.provider.delete(spec.name)


@pytest.mark.root
def test_a_full_home_starts_the_lab_and_a_kernel(lab: Host) -> None:
    with small_disk(lab.state / "homes" / "home-full", "1m"):
        spec = lab.spec(image=JUPYTER, memory=GIB, home="home-full")
        jupyter = opened(lab, spec)
        kernel = jupyter.kernel()
        assert "Errno 28" in kernel.run("open('/work/home/all', 'wb').write(b'x' * (2 << 20))")[2]
        assert kernel.run("import os; print(os.statvfs('/work/home').f_bavail)")[0].strip() == "0"
        kernel.close()
        lab.provider.stop(spec.name)
        lab.provider.start(spec.name)
        jupyter = reached(lab, spec)
        kernel = jupyter.kernel()
        assert kernel.run("print(6 * 7)")[0].strip() == "42"
        assert jupyter.ask("GET", "/lab")[0] == 200
        kernel.close()
        lab.provider.delete(spec.name)


def test_a_build_is_done_once_and_an_unknown_recipe_refused(image: Path, tmp_path: Path) -> None:
    assert (image / "bin" / "start-session").is_file()
    with pytest.raises(CannotBuild, match="known are: jupyter"):
        build("../../etc", tmp_path, uv="/nonexistent")
    if not os.environ.get("BEAMPORT_TEST_IMAGES"):
        assert build("jupyter", IMAGES, uv="/nonexistent").resolve() == image


def test_jupyterlab_starts_without_what_no_session_needs(image: Path, tmp_path: Path) -> None:
    """It would take four times as long: parsers of a format that no schema has, and settings of a build from node."""
    node, asked = tmp_path / "node", tmp_path / "asked"
    node.write_text(f"#!/bin/sh\n: >{asked}\n")
    node.chmod(0o755)

    def imported(*start: str) -> str:
        argv = [str(image / "bin" / "python"), "-X", "importtime", *start, "--version"]
        environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        return subprocess.run(argv, env=environment, check=True, timeout=50, capture_output=True, text=True).stderr

    modules = imported(str(image / "start_jupyterlab.py"))
    assert "jupyterlab.labapp" in modules
    assert "lark" not in modules
    assert not asked.exists()
    imported("-m", "jupyterlab")
    assert asked.exists(), "JupyterLab asks no more by itself: start_jupyterlab.py can go"


def test_the_welcome_notebook_of_nobodys_data_says_so_and_odd_titles_stay_text() -> None:
    empty = json.loads(notebook("None", []))
    assert [cell["cell_type"] for cell in empty["cells"]] == ["markdown", "markdown"]
    assert "No experiment was chosen" in empty["cells"][0]["source"]
    odd = json.loads(notebook("<script>\n# `x`", [RunInfo("p1", None, "a | b\n\n![x](http://x)", "/work/data/p1/x")]))
    first = odd["cells"][0]["source"]
    assert "<script>" not in first
    assert "![x]" not in first
    assert first.startswith("# \\<script\\> \\# \\`x\\`\n")
