"""PostgreSQL and Redis out of their wheels."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded.people import CannotStart, portal_person
from portal.embedded.processes import started_at
from portal.embedded.servers import Postgres
from tests.portals import until

ROOT = Path(__file__).resolve().parent.parent.parent
NAMELESS = 65_533


@pytest.fixture
def state() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="bpp-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.root
def test_a_uid_without_a_name_gets_a_database_too(state: Path) -> None:
    shutil.copytree(ROOT / "portal", state / "code" / "portal")
    for path in (state, *(state / "code").rglob("*")):
        shutil.chown(path, NAMELESS, NAMELESS)
    script = (
        "import sys; from pathlib import Path; from portal.embedded.servers import Postgres\n"
        f"server = Postgres(Path({str(state)!r}))\n"
        "server.sockets.parent.mkdir()\n"
        "server.start()\n"
        "server.ensure_database()\n"
        "server.ensure_database()\n"
        "print(server.data.stat().st_uid, (server.data / 'PG_VERSION').stat().st_uid)\n"
        "server.stop()\n"
        "print(server.pid())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(state / "code"), "PATH": "/usr/bin:/bin"},
        cwd="/",
        user=NAMELESS,
        group=NAMELESS,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(NAMELESS), str(NAMELESS), "None"], done.stderr


def test_a_folder_of_another_major_version_is_refused_with_what_to_do(state: Path) -> None:
    (state / "postgres").mkdir()
    (state / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(CannotStart, match=r"written by PostgreSQL 14, this is 16\. Dump it with the old version"):
        Postgres(state).initialise()


def test_a_pid_file_left_by_a_crash_names_nobody(state: Path) -> None:
    (state / "postgres").mkdir()
    (state / "postgres" / "postmaster.pid").write_text("1\n")
    assert Postgres(state).pid() is None


def test_a_number_that_another_program_has_by_now_is_in_nobodys_way(state: Path) -> None:
    """After a power cut the pid files are there, and what has their number may be of the same uid."""
    (state / "run").mkdir()
    server = Postgres(state)
    server.start()
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: started_at(pid) is None)
    with subprocess.Popen(["sleep", "60"], **portal_person().ids()) as stranger:
        for path in (server.data / "postmaster.pid", server.sockets / ".s.PGSQL.5432.lock"):
            path.write_text(path.read_text().replace(str(pid), str(stranger.pid), 1))
        try:
            server.start()
            assert server.pid() not in (None, stranger.pid)
            assert stranger.poll() is None
        finally:
            server.stop("immediate")
            stranger.kill()
