"""How much room there is, from nodes or from a quota."""

from __future__ import annotations

from decimal import Decimal

import pytest

from instances.providers.kubernetes.capacity import flavours_of, of_places, of_quota, places_of, quantity, quota_place
from tests.providers.kubernetes.objects import site


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2", 2),
        ("500m", "0.5"),
        ("1Gi", 2**30),
        ("1G", 10**9),
        ("1.5Ti", 1.5 * 2**40),
        ("100u", "0.0001"),
        ("1e3", 1000),
    ],
)
def test_an_amount_is_read(text, amount):
    assert quantity(text) == Decimal(str(amount))


def node(name="n", cpu="4", memory="16Gi", gpus="", **more):
    room = {"cpu": cpu, "memory": memory, "pods": "110"} | ({"nvidia.com/gpu": gpus} if gpus else {})
    return {
        "metadata": {"name": name, "labels": more.get("labels", {})},
        "spec": {"taints": more.get("taints", [])} | ({"unschedulable": True} if more.get("cordoned") else {}),
        "status": {
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": more.get("ready", "True")}],
        },
    }


def pod(node, cpu="2", memory="8Gi", phase="Running"):
    resources = {"requests": {"cpu": cpu, "memory": memory}}
    return {
        "spec": {"nodeName": node, "containers": [{"resources": resources}]},
        "status": {"phase": phase},
    }


def room(nodes, pods=(), **options):
    where = site(**options)
    return {c.flavour: (c.free, c.total) for c in of_places(places_of(nodes, pods, where), where, "nodes")}


def test_a_machine_must_fit_on_one_node():
    assert room([node(cpu="2", memory="8Gi"), node(cpu="2", memory="8Gi")]) == {"small": (4, 4), "medium": (2, 2)}


def test_what_our_pods_ask_for_is_taken_and_what_has_ended_is_not():
    pods = [pod("n"), pod("n", phase="Succeeded"), pod("elsewhere")]
    assert room([node()], pods) == {"small": (2, 4), "medium": (1, 2), "large": (0, 1)}


@pytest.mark.parametrize(
    "out",
    [
        node(ready="Unknown"),
        node(cordoned=True),
        node(taints=[{"key": "k", "effect": "NoSchedule"}]),
        node(labels={"pool": "other"}),
    ],
)
def test_a_node_that_takes_none_of_ours_has_no_room(out):
    assert room([out], node_selector={"pool": "ours"} if out["metadata"]["labels"] else {}) == {}


@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": "k", "operator": "Exists"},
        {"key": "k", "value": "v", "effect": "NoSchedule"},
    ],
)
def test_what_is_tolerated_has_room(toleration):
    tainted = node(taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    assert room([tainted], tolerations=[toleration])


@pytest.mark.parametrize(
    "toleration", [{"key": "k", "value": "w"}, {"key": "k", "operator": "Exists", "effect": "NoExecute"}, {"key": "j"}]
)
def test_what_is_not_tolerated_has_none(toleration):
    tainted = node(taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    assert room([tainted], tolerations=[toleration]) == {}


def test_a_gpu_is_offered_where_there_is_one():
    where = site()
    places = places_of([node(gpus="2", labels={"nvidia.com/gpu.product": "A100"})], [], where)
    (gpu,) = [one for one in flavours_of(places, where) if one.gpus]
    assert (gpu.name, gpu.gpu_kind) == ("gpu-a100", "A100")
    (row,) = [one for one in of_places(places, where, "nodes") if one.gpus_free]
    assert (row.free, row.gpus_free, row.source) == (1, 2, "nodes")


def quota(hard, used):
    return {"status": {"hard": hard, "used": used}}


def test_of_several_quotas_the_tightest_counts():
    quotas = [
        quota({"requests.cpu": "10", "requests.memory": "64Gi"}, {"requests.cpu": "2"}),
        quota({"requests.cpu": "4"}, {"requests.cpu": "3"}),
    ]
    rows = {one.flavour: (one.free, one.total) for one in of_quota(quota_place(quotas), site())}
    assert rows == {"small": (1, 4), "medium": (0, 2), "large": (0, 1), "huge": (0, 0)}


def test_without_a_quota_nothing_is_said():
    assert quota_place([]) is None
