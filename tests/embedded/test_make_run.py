"""`make run` on a fresh copy of the tree, with empty state: as ourselves and as a plain user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portal.lib.interpreters import choose
from tests.portals import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PLAIN = 65_533
#: what says where packages come from and whom to trust; all else is as on a fresh account
KEPT = ("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "HTTPS_PROXY", "NO_PROXY", "CI")

pytestmark = pytest.mark.timeout(900)


@dataclass
class Checkout:
    """A copy of the tree, and the account that works in it."""

    folder: Path
    uid: int
    port: int
    lines: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key in KEPT}
        return kept | {"PATH": "/usr/bin:/bin", "HOME": str(self.folder / "home"), "PORT": str(self.port)}

    def make_run(self) -> subprocess.Popen[str]:
        self.lines = []
        ids = {} if self.uid == os.geteuid() else {"user": self.uid, "group": self.uid, "extra_groups": []}
        state = {"BEAMPORT_STATE": str(self.folder / "s")} if self.uid == 0 else {}
        process = subprocess.Popen(  # type: ignore[call-overload]
            ["make", "run", f"PYTHON={choose(PLAIN)[0]}"],
            cwd=self.folder / "tree",
            env=self.environment() | state,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **ids,
        )
        threading.Thread(target=self._collect, args=(process,), daemon=True).start()
        return process

    def _collect(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines.extend(line.rstrip() for line in process.stdout)

    def wait_ready(self, process: subprocess.Popen[str], seconds: float) -> None:
        until = time.monotonic() + seconds
        while f"Ready: http://localhost:{self.port}" not in self.lines:
            assert process.poll() is None, "\n".join(self.lines)
            assert time.monotonic() < until, "\n".join(self.lines)
            time.sleep(0.1)

    def stop(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(90)


@pytest.fixture(params=["ourselves", pytest.param("plain", marks=pytest.mark.root)])
def checkout(request: pytest.FixtureRequest) -> Iterator[Checkout]:
    uid = os.geteuid() if request.param == "ourselves" else PLAIN
    folder = Path(tempfile.mkdtemp(prefix="bpc", dir="/var/tmp"))
    folder.chmod(0o755)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    (folder / "home").mkdir()
    if uid != os.geteuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)
    yield Checkout(folder, uid, free_port())
    subprocess.run(["rm", "-rf", folder], check=False)  # some 60 000 files


def test_make_run_sets_everything_up_and_the_second_time_nothing(checkout: Checkout) -> None:
    first = checkout.make_run()
    try:
        checkout.wait_ready(first, 600)
        page = f"http://localhost:{checkout.port}/doi/10.22003/XFEL.EU-DATA-700000-00"
        with urllib.request.urlopen(page, timeout=20) as answer:
            assert b"700000" in answer.read()
    finally:
        checkout.stop(first)
    assert any(line.startswith("Installing the portal's packages") for line in checkout.lines)
    second = checkout.make_run()
    try:
        checkout.wait_ready(second, 120)
    finally:
        checkout.stop(second)
    done = [line for line in checkout.lines if ": done in" in line]
    assert [line.partition(":")[0] for line in done] == ["Preparing the database"]
