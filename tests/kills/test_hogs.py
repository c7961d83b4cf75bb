"""One session takes all it can get: the portal and another session go on, and the instance says what happened."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kills.agreement import agree
from tests.kills.neighbour import Neighbour
from tests.kills.site import Account, Site, Witness
from tests.portals import until
from tests.providers.local.notebook import Kernel
from tests.providers.local.test_limits import HOG, HOGS, STORM, small_disk

pytestmark = [pytest.mark.root("it is about limits by cgroup"), pytest.mark.timeout(300, func_only=True)]

SPIN = "import os\nfor _ in range(7): os.fork()\nwhile True: pass"
FILES = """
import os
for folder in range(100):
    os.makedirs(f'/work/many/{folder}')
    for number in range(1000):
        open(f'/work/many/{folder}/{number}', 'w').close()
"""
#: the kernel ends the one with the highest score first: here that is the server itself
SERVER_FIRST = """
import glob, os
for path in glob.glob('/proc/[0-9]*'):
    if b'jupyterlab' in open(path + '/cmdline', 'rb').read():
        open(path + '/oom_score_adj', 'w').write('1000')
"""


@dataclass
class Hog:
    """Somebody whose programs know no measure."""

    account: Account
    instance: uuid.UUID

    def kernel(self) -> Kernel:
        self.account.wait(self.instance, "active")
        return self.account.notebook(self.instance).kernel()

    def run(self, code: str) -> None:
        """Start a program beside the kernel."""
        popen = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True)"
        assert self.kernel().run(popen)[2] == ""

    def says(self, reason: str, sentence: str, *states: str) -> dict[str, Any]:
        """Wait until the instance gives this reason, and its page this sentence."""
        until(lambda: self.account.seen(self.instance)["reason"] == reason, 90)
        found = self.account.wait(self.instance, *states)
        assert sentence in self.account.page(f"/instances/{self.instance}/").text
        return found

    def anew(self) -> None:
        """Reboot: nothing of what it ran is left."""
        assert self.account.verb("reboot", self.instance) == 202
        agree(self.account.site)


@pytest.fixture(scope="module")
def neighbour(portal: Site) -> Iterator[Neighbour]:
    account = portal.account("neighbour")
    yield Neighbour(account, Witness(account))
    account.delete_all()


@pytest.fixture(scope="module")
def hog(portal: Site) -> Iterator[Hog]:
    account = portal.account("hog")
    yield Hog(account, account.create("hog"))
    account.delete_all()
    agree(portal)


def test_all_memory(hog: Hog, neighbour: Neighbour) -> None:
    with neighbour.at_work("memory hog"):
        hog.run(HOG)
        hog.says("out-of-memory", "used up the machine&#x27;s memory of 1 GiB", "active")
    assert hog.kernel().run("print('goes on')")[0].strip() == "goes on"


def test_all_processes(hog: Hog, neighbour: Neighbour) -> None:
    hog.anew()
    with neighbour.at_work("fork storm"):
        hog.run(STORM)
        hog.says("process-limit", "as many processes as the machine may have", "active")
    hog.anew()
    assert hog.account.seen(hog.instance)["reason"] == ""


@pytest.mark.slow
def test_all_cores(hog: Hog, neighbour: Neighbour) -> None:
    with neighbour.at_work("CPU spin"):
        hog.run(SPIN)
        time.sleep(5)
    hog.anew()


@pytest.mark.slow
def test_a_hundred_thousand_files(hog: Hog, neighbour: Neighbour, portal: Site) -> None:
    with neighbour.at_work("100 000 files"):
        assert hog.kernel().run(FILES, 120)[2] == ""
        hog.account.verb("stop", hog.instance)
        hog.account.wait(hog.instance, "stopped")
        hog.account.verb("start", hog.instance)
        hog.account.wait(hog.instance, "active")
    second = hog.account.create("second")
    with neighbour.at_work("their removal"):
        hog.account.verb("delete", hog.instance)
        hog.account.wait(hog.instance, "deleted")
        agree(portal)
    hog.instance = second


def test_a_server_that_is_ended_for_memory_stays_stopped_until_its_owner_starts_it(hog: Hog, portal: Site) -> None:
    assert hog.kernel().run(SERVER_FIRST)[2] == ""
    hog.run(HOGS)
    found = hog.says("out-of-memory", "used up the machine&#x27;s memory of 1 GiB", "stopped")
    assert found["target"] == "stopped"
    assert "The next larger plan is" in found["detail"]
    time.sleep(6)  # a sweep and more
    assert hog.account.seen(hog.instance)["state"] == "stopped"
    agree(portal)
    hog.account.verb("start", hog.instance)
    assert hog.kernel().run("print('again')")[0].strip() == "again"
    assert hog.account.seen(hog.instance)["reason"] == ""


@pytest.mark.slow
def test_a_full_home_is_said_and_starts_all_the_same(hog: Hog, neighbour: Neighbour, portal: Site) -> None:
    key = portal.rows(
        f"SELECT h.key FROM instances_home h JOIN instances_instance i ON i.home_id = h.id "
        f"WHERE i.uid = '{hog.instance}'"
    )[0][0]
    hog.account.verb("stop", hog.instance)
    hog.account.wait(hog.instance, "stopped")
    with small_disk(portal.state / "homes" / key, "8m"):
        hog.account.verb("start", hog.instance)
        with neighbour.at_work("full home"):
            error = hog.kernel().run("open('/work/home/all', 'w').write('x' * (16 << 20))")[2]
            assert "No space left on device" in error
            hog.anew()
            assert hog.kernel().run("print('works')")[0].strip() == "works"
        until(lambda: "This home is full" in hog.account.page(f"/instances/{hog.instance}/").text, 150)
        hog.account.verb("stop", hog.instance)
        hog.account.wait(hog.instance, "stopped")
