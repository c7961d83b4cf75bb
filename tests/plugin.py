"""Start PostgreSQL and Redis for the suite, before Django's settings are read, in a short folder of their own."""

from __future__ import annotations

import atexit
import gc
import os
import secrets
import shutil
import tempfile
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests import canary
from tests.labs.kubernetes import build as kubernetes
from tests.labs.kubernetes import room

canary.arm()
# the collector looks at everything again and again, and next to nothing here is for it: an eighth of the suite's time
gc.set_threshold(10_000, 20, 20)

#: what starts whole portals or real JupyterLabs
_LONG = ("tests/embedded/", "tests/browser/", "tests/kills/", "tests/stores/", "tests/mixed/", "tests/providers/local/")
#: whose files share a portal, so that one worker runs them all
_SHARED = ("tests/browser/", "tests/kills/", "tests/stores/")


def _start() -> None:
    from portal.embedded.servers import Postgres, Redis

    state = Path(tempfile.mkdtemp(prefix="bp-", dir=os.environ.get(room.FOLDER, "/var/tmp")))
    state.chmod(0o711)
    (state / "run").mkdir()
    os.environ["BEAMPORT_STATE"] = str(state)
    os.environ.setdefault("BEAMPORT_DEMO", "1")
    for name in ("SECRET_KEY", "INSTANCE_KEY", "GATEWAY_TOKEN"):
        os.environ[name] = secrets.token_urlsafe(48)
    os.environ["DEPLOYMENT_ID"] = urlsafe_b64encode(os.urandom(48)).decode()  # no secret: log lines name it
    postgres, redis = Postgres(state), Redis(state)
    owner = os.getpid()

    def stop() -> None:
        if os.getpid() == owner:
            redis.stop()
            postgres.stop("immediate")
            shutil.rmtree(state, ignore_errors=True)

    atexit.register(stop)
    postgres.start("-c fsync=off", "-c max_connections=300", "-c full_page_writes=off")
    redis.start()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ and not {"--help", "-h", "--version"} & set(args):
        _start()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--promises", action="store_true", help="check docs/develop/promises.toml at the end")
    parser.addoption("--slow", action="store_true", help="run the long proofs too")
    parser.addoption("--layout", action="store_true", help="run what installs the portal on an empty machine")
    parser.addoption("--labs", action="store_true", help="run the journeys at real identity providers")
    parser.addoption("--pods", action="store_true", help="run the story in real pods (only in a room)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--promises") and not hasattr(config, "workerinput"):
        from tests.promises import Promises

        config.pluginmanager.register(Promises(), "promises")


def _cannot_run(item: pytest.Item) -> str:
    if (root := item.get_closest_marker("root")) and os.geteuid() != 0:
        return ": ".join(["needs root", *root.args])
    if item.get_closest_marker("browser") and not shutil.which("chromium"):
        return "needs Chromium: apt-get install chromium"
    if item.get_closest_marker("kubernetes") and not kubernetes.is_built():
        return "needs the Kubernetes lab: make kubernetes-lab"
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for mark in ("slow", "layout", "labs", "pods"):
        if not config.getoption(f"--{mark}"):
            left_out = [item for item in items if item.get_closest_marker(mark)]
            if left_out:
                config.hook.pytest_deselected(items=left_out)
                items[:] = [item for item in items if not item.get_closest_marker(mark)]
    for item in items:
        reason = _cannot_run(item)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
    places = _places([item.nodeid.partition("::")[0] for item in items])
    items.sort(key=lambda item: places[item.nodeid.partition("::")[0]])


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there now stays for the whole run."""
    gc.collect()
    gc.freeze()


def _places(files: list[str]) -> dict[str, float]:
    """Return where each file comes: long ones spread among short ones, so that they meet little and none is last."""
    files = list(dict.fromkeys(files))
    long, short = [[file for file in files if file.startswith(_LONG) is which] for which in (True, False)]
    apart = 0.8 * len(short) / max(len(long), 1)
    return {file: n * apart for n, file in enumerate(long)} | {file: n + 0.5 for n, file in enumerate(short)}


class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return next((folder for folder in _SHARED if file.startswith(folder)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)
