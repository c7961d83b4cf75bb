"""Each row of the table of phases, with what is just not it."""

from __future__ import annotations

import pytest

from instances.lifecycle import Phase
from instances.providers.kubernetes import phases
from instances.providers.kubernetes.phases import TABLE, judge, wants_events
from instances.providers.kubernetes.sight import Sight
from tests.providers.kubernetes.objects import NOW, ago, event, machine, pod, unscheduled, waits

QUOTA = (
    'create Pod bp-0 in StatefulSet bp failed error: pods "bp-0" is forbidden: exceeded quota: team, '
    "requested: requests.cpu=4, used: requests.cpu=8, limited: requests.cpu=10"
)
SECURITY = 'pods "bp-0" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
POLICY = 'admission webhook "images.example" denied the request: only images of our registry'
NO_ACCOUNT = 'pods "bp-0" is forbidden: error looking up service account beamport/default: not found'
CRASHED = {"terminated": {"reason": "Error", "exitCode": 1, "startedAt": ago(12), "finishedAt": ago(10)}}
LIVED = {"terminated": {"reason": "Error", "exitCode": 1, "startedAt": ago(7000), "finishedAt": ago(10)}}
KILLED = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "startedAt": ago(12), "finishedAt": ago(10)}}
LOOP = "CrashLoopBackOff"
RUNS = {"running": {"startedAt": ago(20)}}
SILENT = pod(state=RUNS, ready=False, container_ready=True)
PLACED = unscheduled(20) | {"spec": {"nodeName": "node-7"}}
PLACED |= {"status": PLACED["status"] | {"phase": "Running"}}

P = Phase
# what is seen → phase, reason
CASES = {
    "being deleted": (machine(deletionTimestamp=ago(5)), pod(ready=True), (), P.STOPPING, ""),
    "deletion hangs": (machine(deletionTimestamp=ago(601)), None, (), P.STOPPING, "delete-hangs"),
    "stopped": (machine(0), None, (), P.STOPPED, ""),
    "stopped, old refusal": (machine(0), None, (event("FailedCreate", QUOTA),), P.STOPPED, ""),
    "stopped before it came": (machine(0, generation=3), None, (), P.STOPPING, ""),
    "stopping": (machine(0), pod(metadata={"deletionTimestamp": ago(-20)}), (), P.STOPPING, ""),
    "stop hangs": (machine(0), pod(metadata={"deletionTimestamp": ago(61)}), (), P.STOPPING, "node-lost"),
    "quota": (machine(), None, (event("FailedCreate", QUOTA),), P.FAILED, "no-capacity"),
    "pod security": (machine(), None, (event("FailedCreate", SECURITY),), P.FAILED, "rejected"),
    "policy": (machine(), None, (event("FailedCreate", POLICY),), P.FAILED, "rejected"),
    "no account yet": (machine(), None, (event("FailedCreate", NO_ACCOUNT),), P.PENDING, ""),
    "quota before this start": (machine(), None, (event("FailedCreate", QUOTA, 40),), P.PENDING, ""),
    "no pod yet": (machine(), None, (), P.PENDING, ""),
    "replaced": (machine(), pod(metadata={"deletionTimestamp": ago(-20)}), (), P.RUNNING, "being-replaced"),
    "replaced, node lost": (
        machine(),
        SILENT | {"metadata": SILENT["metadata"] | {"deletionTimestamp": ago(1)}},
        (),
        P.RUNNING,
        "node-lost",
    ),
    "evicted": (machine(), pod("Failed", status={"reason": "Evicted"}), (), P.PENDING, "evicted"),
    "node off": (
        machine(),
        pod("Failed", status={"reason": "NodeShutdown"}),
        (),
        P.PENDING,
        "host-failed",
    ),
    "evicted again and again": (
        machine(),
        pod("Failed", status={"reason": "Evicted"}),
        (event("Evicted", "", count=3),),
        P.FAILED,
        "evicted",
    ),
    "evicted, no pod": (machine(), None, (event("Evicted", ""),) * 3, P.FAILED, "evicted"),
    "evicted before this start": (machine(), None, (event("Evicted", "", 40),) * 3, P.PENDING, ""),
    "no node for a moment": (machine(), unscheduled(9), (), P.PENDING, ""),
    "no node": (machine(), unscheduled(10), (), P.PENDING, "no-capacity"),
    "a late word on the pod before": (machine(), PLACED, (), P.RUNNING, ""),
    "image not there": (machine(), waits("ErrImagePull", created=59), (), P.PENDING, "image-missing"),
    "image not there at all": (machine(), waits("ImagePullBackOff", created=60), (), P.FAILED, "image-missing"),
    "no image's name": (machine(), waits("InvalidImageName"), (), P.FAILED, "image-missing"),
    "image never pulled": (machine(), waits("ErrImageNeverPull"), (), P.FAILED, "image-missing"),
    "config": (machine(), waits("CreateContainerConfigError", created=29), (), P.PENDING, "pod-refused"),
    "config for long": (machine(), waits("CreateContainerConfigError", created=30), (), P.FAILED, "pod-refused"),
    "bad command": (machine(), waits("RunContainerError", created=60), (), P.FAILED, "pod-refused"),
    "not created": (machine(), waits("CreateContainerError", created=59), (), P.PENDING, "pod-refused"),
    "not created again yet": (
        machine(),
        waits("CreateContainerError", phase="Running", created=7000, last=CRASHED, restarts=1),
        (),
        P.PENDING,
        "pod-refused",
    ),
    "being created": (machine(), waits("ContainerCreating", created=300), (), P.PENDING, ""),
    "volume stuck": (
        machine(),
        waits("ContainerCreating", created=20),
        (event("FailedMount", "timed out"),),
        P.PENDING,
        "mount-missing",
    ),
    "out of memory": (machine(), waits(LOOP, phase="Running", last=KILLED), (), P.RUNNING, "out-of-memory"),
    "ended": (machine(), waits(LOOP, phase="Running", last=CRASHED, restarts=2), (), P.RUNNING, "ended"),
    "crashes": (machine(), waits(LOOP, phase="Running", last=CRASHED, restarts=3), (), P.FAILED, "ended"),
    "crashed now and then": (
        machine(),
        waits(LOOP, phase="Running", last=LIVED, restarts=9),
        (),
        P.RUNNING,
        "ended",
    ),
    "node silent": (machine(), SILENT, (), P.UNKNOWN, "node-lost"),
    "not ready": (machine(), pod(state=RUNS, ready=False), (), P.RUNNING, ""),
    "ready": (machine(), pod(state=RUNS, ready=True), (), P.RUNNING, ""),
    "nobody has looked": (machine(), pod("Pending", placed=False), (), P.PENDING, ""),
    "a phase that there is not": (machine(), pod("Dancing"), (), P.UNKNOWN, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_seen_is_a_phase_with_a_reason(case):
    found, seen_pod, events, phase, reason = CASES[case]
    verdict = judge(Sight(found, seen_pod, events, NOW))
    assert (verdict.phase, verdict.reason) == (phase, reason)


def test_every_row_of_the_table_is_reached():
    reached = set()
    for found, seen_pod, events, *_ in CASES.values():
        seen = Sight(found, seen_pod, events, NOW)
        reached.add(next(row.name for row in TABLE if row.fits(seen)))
    assert reached == {row.name for row in TABLE}


def test_every_reason_to_wait_is_tried():
    tried = {Sight(found, seen_pod).waiting for found, seen_pod, *_ in CASES.values()}
    assert set(phases.WAITING) - tried == {"PodInitializing"}


@pytest.mark.parametrize(("about", "reason"), [("p-1", "mount-missing"), ("of-an-earlier-pod", "")])
def test_an_event_of_the_second_of_the_start_counts_by_its_pod(about, reason):
    told = event("FailedMount", "timed out", 31) | {"involvedObject": {"uid": about}}
    verdict = judge(Sight(machine(started=30), waits("ContainerCreating", created=20), (told,), NOW))
    assert verdict.reason == reason


def test_a_silent_node_is_named():
    lost = SILENT | {"spec": {"nodeName": "node-7"}}
    assert "node-7" in judge(Sight(machine(), lost, (), NOW)).detail


def test_a_quota_says_which_resource_is_short():
    verdict = judge(Sight(machine(), None, (event("FailedCreate", QUOTA),), NOW))
    assert verdict.detail == "quota team has no room for requests.cpu 4 (used 8 of 10)"


def test_the_scheduler_says_what_is_missing():
    assert "Insufficient cpu" in judge(Sight(machine(), unscheduled(60), (), NOW)).detail


def test_events_are_asked_for_only_where_they_decide():
    asked = {name for name, (found, seen_pod, *_) in CASES.items() if wants_events(Sight(found, seen_pod, (), NOW))}
    assert asked == {
        *("quota", "pod security", "policy", "no account yet", "quota before this start", "no pod yet"),
        *("evicted, no pod", "evicted before this start"),
        *("evicted", "node off", "evicted again and again", "being created", "volume stuck", "not created"),
    }
