"""The provider against a real node: what a session finds in its pod, and whom it reaches; no portal, no browser."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from instances.lifecycle import Phase
from instances.providers.base import FlavourSpec, Home, ImageSpec, Mount, MountKind, Service, Spec
from instances.providers.kubernetes import KubernetesProvider
from instances.providers.kubernetes import build as images
from tests.labs.kubernetes import node
from tests.labs.kubernetes.cluster import SHARED, Account
from tests.labs.kubernetes.real import RealLab
from tests.pods.ask import GATEWAY, Door, Targets, from_exec, from_pod, make_namespace
from tests.pods.cluster import GID, UID, lay_data

pytestmark = [pytest.mark.pods, pytest.mark.root, pytest.mark.timeout(1800)]

TRY_JUPYTER = (
    "import os, urllib.request as u; r = u.Request('http://127.0.0.1:8888/api/status');"
    " r.add_header('Authorization', 'token ' + os.environ['JUPYTER_TOKEN']); print(u.urlopen(r).status)"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open")
    (folder / "p1" / "r0001").mkdir(parents=True)
    (folder / "p1" / "r0001" / "run.txt").write_text("trains")
    for path in (folder, folder / "p1", folder / "p1" / "r0001", *folder.parents[:2]):
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def cloud(lab: RealLab, account: Account, data: Path) -> Iterator[KubernetesProvider]:
    lay_data(lab, account.namespace, data, "some-data")
    options = {
        "deployment": str(uuid.uuid4()),
        "kubeconfig": str(account.kubeconfig),
        "namespace": account.namespace,
        "namespace_uid": account.namespace_uid,
        "home_class": SHARED,
        "scratch_class": "lab-disk",
        "data": [{"prefix": str(data), "claim": "some-data"}],
        "uid": UID,
        "gid": GID,
    }
    provider = KubernetesProvider(options)
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def spec(cloud: KubernetesProvider, data: Path) -> Spec:
    home = Home(f"h{uuid.uuid4().hex[:8]}", 2**30)
    return Spec(
        name=f"bp-{uuid.uuid4().hex}-1",
        deployment=cloud.site.deployment,
        instance=str(uuid.uuid4()),
        attempt=1,
        image=ImageSpec("JupyterLab", images.name("jupyter"), {"command": images.CONFIG["Cmd"]}),
        flavour=FlavourSpec("small", 0.5, 2**29, 2**30),
        services=(Service("jupyter", 8888, "/api/status", True),),
        mounts=(
            Mount(MountKind.DATA, f"{data}/p1/r0001", "/work/data/p1/r0001", read_only=True),
            Mount(MountKind.HOME, home.key, "/work/home", read_only=False),
        ),
        home=home,
        identity=None,
        network="none",
        secret_epoch=1,
        host="x.apps.localhost",
        welcome={"Welcome.ipynb": "{}"},
    )


def until(what: Callable[[], object], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def answers(lab: RealLab, spec: Spec) -> bool:
    return "200" in lab.run(spec, "python3", "-c", TRY_JUPYTER)


class TestAPod:
    """The steps build on one another, in this order."""

    def test_jupyterlab_answers_with_the_instances_token(
        self, lab: RealLab, cloud: KubernetesProvider, spec: Spec
    ) -> None:
        cloud.create(spec)
        until(lambda: cloud.look(spec.name).phase is Phase.RUNNING)
        until(lambda: answers(lab, spec))

    def test_it_is_any_uid_on_a_root_that_takes_no_write(self, lab: RealLab, spec: Spec) -> None:
        assert f"{UID}:{GID}" in lab.run(spec, "sh", "-c", "echo $(id -u):$(id -g)")
        assert "Read-only file system" in lab.run(spec, "sh", "-c", "touch /x /opt/jupyter/x 2>&1 || true")
        assert "CapEff:\t0000000000000000" in lab.run(spec, "grep", "CapEff", "/proc/1/status")
        assert "No such file" in lab.run(spec, "sh", "-c", "ls /var/run/secrets/kubernetes.io 2>&1 || true")
        assert "Welcome.ipynb" in lab.run(spec, "ls", "/work")

    def test_data_are_read_only(self, lab: RealLab, spec: Spec) -> None:
        seen = lab.run(spec, "sh", "-c", "cd /work/data/p1/r0001; cat run.txt; touch x 2>&1 || true")
        assert "trains" in seen
        assert "Read-only file system" in seen

    def test_it_reaches_nothing_and_is_reached_by_the_gateways_pods(
        self, lab: RealLab, cloud: KubernetesProvider, spec: Spec
    ) -> None:
        neighbour = replace(spec, name=f"bp-{uuid.uuid4().hex}-1", instance=str(uuid.uuid4()))
        cloud.create(neighbour)
        until(lambda: answers(lab, neighbour))
        door = Door(("127.0.0.1", lab.ports["api"]))
        outside: Targets = {"API server": door.address, "kubelet": (node.ADDRESS, lab.ports["kubelet"])}
        jupyter = {"jupyter": (lab.address(neighbour), 8888)}
        assert set(from_exec(lab, spec, outside | jupyter).values()) == {"TimeoutError"}
        image, (namespace, labels) = images.name("jupyter"), GATEWAY
        for name in (namespace, "elsewhere"):
            make_namespace(lab, name)
        assert from_pod(lab, "elsewhere", {}, image, outside) == dict.fromkeys(outside, "open")
        assert from_pod(lab, namespace, labels, image, jupyter) == {"jupyter": "open"}
        assert from_pod(lab, "elsewhere", labels, image, jupyter) == {"jupyter": "TimeoutError"}
        door.close()
        cloud.delete(neighbour.name)

    def test_a_home_is_kept_over_delete_and_create(self, lab: RealLab, cloud: KubernetesProvider, spec: Spec) -> None:
        lab.run(spec, "sh", "-c", "echo home-mark >/work/home/mark; echo scratch-mark >/work/mark")
        cloud.delete(spec.name)
        until(lambda: cloud.look(spec.name).phase is Phase.MISSING)
        again = replace(spec, name=f"{spec.name[:-1]}2", attempt=2)
        cloud.create(again)
        until(lambda: answers(lab, again))
        assert "home-mark" in lab.run(again, "cat", "/work/home/mark")
        assert "No such file" in lab.run(again, "sh", "-c", "cat /work/mark 2>&1 || true")
        cloud.delete(again.name)
