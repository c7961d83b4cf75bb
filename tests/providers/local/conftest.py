"""A supervisor for the whole folder, one as a plain user, and one for who breaks it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from instances.providers.local.store import FIRST_UID
from portal.lib.interpreters import choose
from tests.providers.local.host import Host, copied_source, make_state

PLAIN = 61_234


@contextmanager
def running(uid: int | None = None, **variables: str) -> Iterator[Host]:
    state = make_state(choose(FIRST_UID)[0], uid)
    host = Host(state, uid=uid, variables=variables)
    if uid is not None:
        host.source = copied_source(state / "source")
    try:
        host.start()
        yield host
    finally:
        host.stop()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """Started as who runs the tests: root in CI."""
    with running(GATEWAY_GID=str(os.getegid() or 60_001), DISK_COUNT_SECONDS="1") as one:
        yield one


@pytest.fixture(scope="session")
def plain() -> Iterator[Host]:
    """Started as a plain user, also when root runs the tests."""
    with running(PLAIN if os.geteuid() == 0 else None) as one:
        yield one


@pytest.fixture
def fragile() -> Iterator[Host]:
    """One of its own for a test that kills it or fills its disk."""
    with running() as one:
        yield one


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that everybody could even write, were it not mounted read-only."""
    folder = Path(os.path.realpath(f"/var/tmp/bpl-data-{os.getpid()}"))
    folder.mkdir(exist_ok=True)
    (folder / "RAW-R0001.h5").write_text("frames")
    (folder / "RAW-R0001.h5").chmod(0o666)
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)
