"""How long people wait for a pod, beside how long it takes by itself: printed, for docs/reference/kubernetes.md."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
import uuid
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Running, sign_in
from tests.browser.test_story import DOI, LAB_READY
from tests.browser.test_story import TestStory as Story
from tests.browser.test_story import lab as jupyterlab
from tests.labs.kubernetes.cluster import NAMESPACE
from tests.labs.kubernetes.real import RealLab

pytestmark = [pytest.mark.pods, pytest.mark.root, pytest.mark.browser, pytest.mark.timeout(1800)]

ROUNDS = 5
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def until_it_answers(lab: RealLab, name: str) -> None:
    """Wait until the JupyterLab of a pod answers over HTTP, whatever it says."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        address = lab.pod(NAMESPACE, name).get("status", {}).get("podIP")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if address:
                connection = http.client.HTTPConnection(address, 8888, timeout=1)
                connection.request("GET", "/api/status")
                connection.getresponse()
                return
        time.sleep(0.02)
    raise AssertionError(lab.pod(NAMESPACE, name))


def start_alone(lab: RealLab, like: dict[str, Any]) -> float:
    """Return the seconds that a pod like this one takes to answer when nobody but the cluster is asked."""
    kept = ("containers", "securityContext", "automountServiceAccountToken", "enableServiceLinks")
    own = [
        {"name": volume["name"], "emptyDir": {}} if volume["name"] in ("scratch", "home") else volume
        for volume in like["spec"]["volumes"]
    ]
    spec = {name: like["spec"][name] for name in kept if name in like["spec"]} | {"volumes": own}
    name = f"alone-{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}
    lab.admin.ask("POST", PODS, body=body)
    until_it_answers(lab, name)
    took = time.monotonic() - began
    lab.admin.ask("DELETE", f"{PODS}/{name}", body={"gracePeriodSeconds": 0})
    return took


def test_times(lab: RealLab, running: Running, page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    story, alone, answered, seen = Story(), [], [], []
    page.goto(f"{running.url}/doi/{DOI}")
    page.get_by_role("button", name="Analyse").click()
    sign_in(page, "collaborator")
    for _ in range(ROUNDS):
        page.goto(f"{running.url}/instances/new?dois={DOI}")
        button = page.get_by_role("button", name="Start")
        button.wait_for()
        began = time.monotonic()
        button.click()
        page.wait_for_url(jupyterlab(running), timeout=180_000, wait_until="commit")
        answered.append(time.monotonic() - began)
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        seen.append(time.monotonic() - began)
        found = lab.admin.ask("GET", PODS)["items"]
        like = next(pod for pod in found if pod["metadata"]["name"].startswith("bp-"))
        alone.append(start_alone(lab, like))
        for href in story.instances(running, page):
            story.delete(running, page, href)
    with capsys.disabled():
        for what, times in (("pod alone, until it answers", alone), ("click, until JupyterLab's page", answered)):
            print(f"\n{what}: {_median(times)}", end="")
        print(f"\nclick, until JupyterLab can be used: {_median(seen)}")
    assert len(seen) == ROUNDS


def _median(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"
