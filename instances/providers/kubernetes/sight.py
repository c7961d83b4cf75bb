"""What was seen of one instance, in the words that the table of phases uses; nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from instances.providers.kubernetes.manifests import MAIN, STARTED

Object = dict[str, Any]


def seconds(text: Any) -> float:
    """Return a timestamp of the API as seconds since the epoch; 0 for none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def is_noticed(found: Object) -> bool:
    """Whether the controller has seen a StatefulSet as it is now: until then it makes pods for what it was before."""
    return int(found.get("status", {}).get("observedGeneration", 0)) >= int(found["metadata"]["generation"])


@dataclass(frozen=True)
class Sight:
    """A StatefulSet, its pod, and, where somebody asked, events of both. `now` is the cluster's time."""

    found: Object
    pod: Object | None = None
    events: Sequence[Object] = ()
    now: float = 0.0

    # ---- the StatefulSet ----
    @cached_property
    def wanted(self) -> int:
        return int(self.found["spec"].get("replicas", 1))

    @cached_property
    def deleted_at(self) -> float:
        return seconds(self.found["metadata"].get("deletionTimestamp"))

    @cached_property
    def finalizers(self) -> list[str]:
        return list(self.found["metadata"].get("finalizers", ()))

    @cached_property
    def started_at(self) -> float:
        return seconds(self.found["metadata"].get("annotations", {}).get(STARTED))

    # ---- the pod ----
    @cached_property
    def status(self) -> Mapping[str, Any]:
        return (self.pod or {}).get("status", {})

    @cached_property
    def pod_phase(self) -> str:
        return str(self.status.get("phase", ""))

    @cached_property
    def node(self) -> str:
        return str((self.pod or {}).get("spec", {}).get("nodeName", ""))

    @cached_property
    def pod_leaves_at(self) -> float:
        """When the pod's grace ends; 0 unless it is being deleted."""
        return seconds((self.pod or {"metadata": {}})["metadata"].get("deletionTimestamp"))

    @cached_property
    def conditions(self) -> dict[str, Object]:
        return {one["type"]: one for one in self.status.get("conditions", ())}

    def is_false(self, condition: str) -> bool:
        return self.conditions.get(condition, {}).get("status") == "False"

    def is_true(self, condition: str) -> bool:
        return self.conditions.get(condition, {}).get("status") == "True"

    @cached_property
    def unscheduled_for(self) -> float:
        """How long the scheduler has found no place; 0 when it has, or has not looked yet."""
        if not self.is_false("PodScheduled"):
            return 0.0
        since = self.conditions["PodScheduled"].get("lastTransitionTime") or self._created
        return max(0.001, self.now - seconds(since))

    @cached_property
    def waits_for(self) -> float:
        """How long the main container has waited: since the pod has its node, or since it ended last."""
        placed = self.conditions.get("PodScheduled", {}).get("lastTransitionTime") or self._created
        return self.now - max(seconds(placed), seconds(self.ending.get("finishedAt")))

    @property
    def _created(self) -> str:
        return str((self.pod or {"metadata": {}})["metadata"].get("creationTimestamp", ""))

    # ---- its main container ----
    @cached_property
    def containers(self) -> list[Object]:
        return list(self.status.get("containerStatuses", ()))

    @cached_property
    def main(self) -> Object:
        return next((one for one in self.containers if one["name"] == MAIN), {})

    @cached_property
    def waiting(self) -> str:
        return str(self.main.get("state", {}).get("waiting", {}).get("reason", ""))

    @cached_property
    def waits_because(self) -> str:
        return str(self.main.get("state", {}).get("waiting", {}).get("message", ""))

    @cached_property
    def restarts(self) -> int:
        return int(self.main.get("restartCount", 0))

    @cached_property
    def ending(self) -> Object:
        """How the container ended last: reason, exitCode, startedAt, finishedAt."""
        states = (self.main.get("state", {}), self.main.get("lastState", {}))
        return next((state["terminated"] for state in states if "terminated" in state), {})

    @cached_property
    def ran_for(self) -> float:
        """How long the container lived before it ended last."""
        return seconds(self.ending.get("finishedAt")) - seconds(self.ending.get("startedAt"))

    @cached_property
    def node_is_silent(self) -> bool:
        """Not ready although its containers are: nobody has heard of the node; no right on nodes is needed for that."""
        return self.is_false("Ready") and bool(self.containers) and all(one.get("ready") for one in self.containers)

    # ---- events ----
    def told(self, *reasons: str) -> str:
        """Return the newest message of these events about this pod, or since the last start; empty for none."""
        told = [event for event in self.events if event.get("reason") in reasons and self._is_new(event)]
        return str(max(told, key=when)["message"]) if told else ""

    def _is_new(self, event: Object) -> bool:
        """Events say whole seconds, so those of the second of the start count by whom they are about."""
        about = event.get("involvedObject", {}).get("uid")
        return when(event) >= self.started_at or (self.pod is not None and about == self.pod["metadata"].get("uid"))

    def count(self, reason: str, within: float) -> int:
        """Return how often an event was told in the last seconds, since the machine was last started."""
        since = max(self.now - within, self.started_at)
        told = [event for event in self.events if event.get("reason") == reason and when(event) >= since]
        return sum(int(event.get("count") or (event.get("series") or {}).get("count") or 1) for event in told)


def when(event: Object) -> float:
    """Return when an event was last told."""
    series = event.get("series") or {}
    last = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return seconds(last or event.get("metadata", {}).get("creationTimestamp"))
