"""How long people wait for a pod, beside how long it takes by itself: printed, for docs/reference/kubernetes.md."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import statistics
import time
import uuid
from collections import defaultdict
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Running, sign_in
from tests.browser.test_story import DOI, LAB_READY
from tests.browser.test_story import TestStory as Story
from tests.browser.test_story import lab as jupyterlab
from tests.labs.kubernetes.cluster import NAMESPACE
from tests.labs.kubernetes.real import RealLab
from tests.pods.cluster import manage

pytestmark = [pytest.mark.pods, pytest.mark.root, pytest.mark.browser, pytest.mark.timeout(1800)]

ROUNDS = 5
#: of a pod's own, made anew as an instance's is
DISK = {
    "storageClassName": "lab-disk",
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
}
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def until_it_answers(lab: RealLab, name: str) -> str:
    """Wait until the JupyterLab of a pod answers over HTTP, whatever it says; return the pod's address."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        address = lab.pod(NAMESPACE, name).get("status", {}).get("podIP")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if address:
                ask(address, "/api/status")
                return str(address)
        time.sleep(0.02)
    raise AssertionError(lab.pod(NAMESPACE, name))


def ask(address: str, path: str, token: str = "") -> int:
    """Return the status of a whole answer."""
    connection = http.client.HTTPConnection(address, 8888, timeout=10)
    connection.request("GET", path, headers={"Authorization": f"token {token}"} if token else {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def token_of(lab: RealLab, pod: dict[str, Any]) -> str:
    name = pod["metadata"]["name"].removesuffix("-0")
    secret = lab.admin.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    return base64.b64decode(secret["data"]["jupyter"]).decode()


def start_alone(lab: RealLab, like: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds that a pod like this one takes, when nobody but the cluster is asked, until it answers, and
    until it has answered with its page."""
    kept = ("containers", "securityContext", "automountServiceAccountToken", "enableServiceLinks")
    own = {"home": {"emptyDir": {}}, "scratch": {"ephemeral": {"volumeClaimTemplate": {"spec": DISK}}}}
    volumes = [
        {"name": one["name"]} | own[one["name"]] if one["name"] in own else one for one in like["spec"]["volumes"]
    ]
    spec = {name: like["spec"][name] for name in kept if name in like["spec"]} | {"volumes": volumes}
    name = f"alone-{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}
    lab.admin.ask("POST", PODS, body=body)
    address = until_it_answers(lab, name)
    answered = time.monotonic() - began
    assert ask(address, "/lab", token_of(lab, like)) == 200
    shown = time.monotonic() - began
    lab.admin.ask("DELETE", f"{PODS}/{name}", body={"gracePeriodSeconds": 0})
    return answered, shown


#: seconds from the request on at which each of our instances changed, the newest ones, one line each
_STEPS = f"""
from django.db.models import F
from instances.models import Instance
for instance in Instance.objects.order_by("-pk")[:{ROUNDS}]:
    for step in instance.transitions.filter(new__in=("building", "starting", "active")).exclude(old=F("new")):
        print("step", step.new, (step.at - instance.created_at).total_seconds())
"""


def test_times(lab: RealLab, running: Running, page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    story, times = Story(), defaultdict[str, list[float]](list)
    page.goto(f"{running.url}/doi/{DOI}")
    page.get_by_role("button", name="Analyse").click()
    sign_in(page, "collaborator")
    for _ in range(ROUNDS):
        page.goto(f"{running.url}/instances/new?dois={DOI}")
        button = page.get_by_role("button", name="Start")
        button.wait_for()
        began = time.monotonic()

        def note(what: str, began: float = began) -> None:
            times[what].append(time.monotonic() - began)

        with page.expect_request(re.compile("/enter")) as entry:
            button.click()
            page.wait_for_url(re.compile(r"/instances/[0-9a-f-]{36}/"), wait_until="commit")
            note("click, until the instance's page")
            assert entry.value
            note("click, until the way in")
        page.wait_for_url(jupyterlab(running), timeout=180_000, wait_until="commit")
        note("click, until JupyterLab's page")
        expect(page.get_by_role("menuitem", name="Run", exact=True)).to_be_visible(timeout=LAB_READY)
        note("click, until JupyterLab can be used")
        found = lab.admin.ask("GET", PODS)["items"]
        like = next(pod for pod in found if pod["metadata"]["name"].startswith("bp-"))
        answered, shown = start_alone(lab, like)
        times["pod alone, until it answers"].append(answered)
        times["pod alone, until JupyterLab's page"].append(shown)
        for href in story.instances(running, page):
            story.delete(running, page, href)
    for state, seconds in re.findall(r"^step (\w+) ([\d.]+)$", manage(running, "shell", "-c", _STEPS), re.M):
        times[f"request, until {state}"].append(float(seconds))
    with capsys.disabled():
        for what, took in times.items():
            print(f"\n{what}: {_median(took)}", end="")
        print()
    assert len(times["click, until JupyterLab can be used"]) == ROUNDS


def _median(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"
