"""Objects as the API server returns them, as short as the tests can do with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from instances.providers.kubernetes import manifests
from instances.providers.kubernetes.site import Site, site_of

#: a moment, as the cluster's clock has it
NOW = 1_800_000_000.0
NAME, INSTANCE = "bp-0123456789abcdef0123456789abcdef-1", "01234567-89ab-cdef-0123-456789abcdef"
DEPLOYMENT = "3f0c6d5e-7d0a-4a53-9b7e-0f5a6c1d2e3f"

Object = dict[str, Any]


def site(**more: Any) -> Site:
    return site_of({"deployment": DEPLOYMENT, "namespace": "beamport", "namespace_uid": "n-1", **more})


def ago(seconds: float) -> str:
    return datetime.fromtimestamp(NOW - seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine(replicas: int = 1, *, started: float = 30, **metadata: Any) -> Object:
    return {
        "metadata": {
            "name": NAME,
            "uid": "u-1",
            "labels": manifests.labels(site(), instance=INSTANCE, machine=NAME),
            "annotations": {manifests.STARTED: ago(started), manifests.SERVICES: '[["jupyter", 8888]]'},
            "generation": 2,
            **metadata,
        },
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": 2},
    }


def pod(phase: str = "Running", *, state: Object | None = None, created: float = 30, **more: Any) -> Object:
    """Return the machine's pod. `state` of its main container; `ready`, `last`, `restarts`, `placed`, `status`, …"""
    conditions: list[Object] = []
    if more.get("placed", True):
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(created)})
    if "ready" in more:
        conditions.append({"type": "Ready", "status": "True" if more["ready"] else "False"})
    main: Object = {"name": "main", "ready": more.get("container_ready", bool(more.get("ready")))}
    main |= {"state": state or {}, "lastState": more.get("last", {}), "restartCount": more.get("restarts", 0)}
    statuses = {"containerStatuses": [main]} if state or "ready" in more else {}
    return {
        "metadata": {
            "name": f"{NAME}-0",
            "uid": "p-1",
            "creationTimestamp": ago(created),
            "ownerReferences": [{"uid": "u-1"}],
            **more.get("metadata", {}),
        },
        "status": {"phase": phase, "conditions": conditions, "podIP": "10.0.0.7", **statuses, **more.get("status", {})},
    }


def unscheduled(seconds: float, message: str = "0/3 nodes are available: 3 Insufficient cpu.") -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod("Pending", placed=False, status={"conditions": [condition | {"lastTransitionTime": ago(seconds)}]})


def waits(reason: str, *, created: float = 1, message: str = "", **more: Any) -> Object:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(more.pop("phase", "Pending"), state=state, created=created, ready=False, **more)


def event(reason: str, message: str, seconds: float = 5, count: int = 1) -> Object:
    return {"reason": reason, "message": message, "lastTimestamp": ago(seconds), "count": count, "metadata": {}}
