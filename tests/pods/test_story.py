"""From a DOI link to a notebook in a real pod, by the same walk as on one machine; then what a pod can reach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from instances.providers.kubernetes import build as images
from tests.browser.conftest import Running, terminal
from tests.browser.test_story import DOI, LAB_READY
from tests.browser.test_story import TestStory as Story
from tests.browser.test_story import lab as jupyterlab
from tests.labs.kubernetes import node
from tests.labs.kubernetes.cluster import NAMESPACE
from tests.labs.kubernetes.real import RealLab
from tests.pods.ask import GATEWAY, Door, Targets, from_pod, from_terminal, make_namespace
from tests.pods.cluster import GID, UID
from tests.pods.conftest import settings

pytestmark = [pytest.mark.pods, pytest.mark.root, pytest.mark.browser, pytest.mark.timeout(1800)]

ELSEWHERE = "elsewhere"


class TestPods(Story):
    """The same walk; the instances are pods."""

    def test_they_are_pods_as_any_uid_on_a_root_that_takes_no_write(self, running: Running, page: Page) -> None:
        page.goto(f"{running.url}/instances/new?dois={DOI}")
        page.get_by_role("button", name="Start").click()
        page.wait_for_url(jupyterlab(running), timeout=120_000)
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        assert f"{UID}:{GID}" in terminal(page, "echo $(id -u):$(id -g)")
        assert "Read-only file system" in terminal(page, "touch /x; touch /opt/jupyter/x")
        assert "CapEff:\t0000000000000000" in terminal(page, "grep CapEff /proc/self/status")
        assert "No such file" in terminal(page, "ls /var/run/secrets/kubernetes.io")


class TestTheMachine:
    """What a node changes on its machine."""

    def test_the_kernel_keeps_its_settings(self, lab: RealLab, before: dict[str, str]) -> None:
        wanted = {"kernel/panic": "10", "kernel/panic_on_oops": "1"}
        seen = {name: (lab.folder / "kernel" / name.replace("/", "_")).read_text().strip() for name in wanted}
        assert seen == wanted
        assert settings() == before


class TestReach:
    """What the lab's network enforces; the instance is the one that the walk has left."""

    @pytest.fixture(scope="class")
    def doors(self, lab: RealLab, running: Running) -> Iterator[Targets]:
        """API server, portal and Redis at an address that pods could reach, and the kubelet, which is there anyway."""
        behind = {
            "API server": ("127.0.0.1", lab.ports["api"]),
            "portal": ("127.0.0.1", running.port),
            "Redis": running.state / "run" / "back" / "redis.sock",
        }
        doors = {name: Door(place) for name, place in behind.items()}  # type: ignore[arg-type]
        yield {name: door.address for name, door in doors.items()} | {"kubelet": (node.ADDRESS, lab.ports["kubelet"])}
        for door in doors.values():
            door.close()

    @pytest.fixture(scope="class")
    def instances(self, lab: RealLab, running: Running, page: Page) -> Iterator[list[dict[str, Any]]]:
        """Two pods of instances; the page shows the second one's JupyterLab. The node has no room for a third."""
        page.goto(f"{running.url}/instances/new?dois={DOI}")
        page.get_by_role("button", name="Start").click()
        page.wait_for_url(jupyterlab(running), timeout=120_000)
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        slug = re.search(r"//([a-z0-9]+)\.", page.url)
        assert slug
        found = lab.admin.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        assert len(found) == 2
        yield sorted(found, key=lambda pod: f'"{slug[1]}.' in str(pod["spec"]).replace("'", '"'))
        walk = Story()
        for href in walk.instances(running, page):
            walk.delete(running, page, href)

    def test_an_instance_reaches_nothing_of_the_cluster_and_no_other(
        self, doors: Targets, instances: list[dict[str, Any]], page: Page
    ) -> None:
        neighbour = {"neighbour": (instances[0]["status"]["podIP"], 8888)}
        found = from_terminal(page, doors | neighbour)
        assert found == dict.fromkeys([*doors, "neighbour"], "TimeoutError")

    def test_without_a_policy_the_same_doors_are_open(
        self, lab: RealLab, doors: Targets, instances: list[dict[str, Any]]
    ) -> None:
        """So that it is the policy that refuses, not a network where nothing is to be reached."""
        make_namespace(lab, ELSEWHERE)
        assert from_pod(lab, ELSEWHERE, {}, images.name("jupyter"), doors) == dict.fromkeys(doors, "open")

    def test_an_instance_is_reached_by_the_gateways_pods_alone(
        self, lab: RealLab, instances: list[dict[str, Any]]
    ) -> None:
        targets = {"jupyter": (instances[0]["status"]["podIP"], 8888)}
        namespace, labels = GATEWAY
        make_namespace(lab, namespace)
        make_namespace(lab, ELSEWHERE)
        image = images.name("jupyter")
        assert from_pod(lab, namespace, labels, image, targets) == {"jupyter": "open"}
        assert from_pod(lab, namespace, {}, image, targets) == {"jupyter": "TimeoutError"}
        assert from_pod(lab, ELSEWHERE, labels, image, targets) == {"jupyter": "TimeoutError"}
