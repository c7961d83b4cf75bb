"""What the cluster tells about a machine, in words. It keeps events for an hour, so they are asked for in time."""

from __future__ import annotations

from typing import Any

from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.manifests import pod
from instances.providers.kubernetes.sight import when

Object = dict[str, Any]

#: events that say to people why something does not go on
TOLD = {
    "FailedScheduling": "No computer of the cluster has room",
    "FailedCreate": "The cluster refused to make the machine",
    "Failed": "It could not be started",
    "BackOff": "It is tried again after a pause",
    "FailedMount": "A volume could not be mounted",
    "FailedAttachVolume": "A disk is still attached elsewhere",
    "Unhealthy": "It does not answer",
    "Evicted": "Its computer ran short and ended it",
    "NodeNotReady": "Its computer does not answer",
}
_MOST = 20


def told(cluster: Cluster, machine: Object) -> list[Object]:
    """Return the events about a machine and its pods, also of those that were there before, oldest first."""
    name, uid = machine["metadata"]["name"], machine["metadata"]["uid"]
    events: list[Object] = []
    for selector in (f"uid={uid}", f"name={pod(name)}"):
        events += cluster.find("events", fieldSelector=f"involvedObject.{selector}").get("items") or []
    return sorted(events, key=when)


def words(events: list[Object]) -> list[str]:
    """Return the last of the events that matter to people, a line each."""
    known = [event for event in events if event.get("reason") in TOLD]
    return [f"{TOLD[event['reason']]}: {event.get('message', '')}"[:500] for event in known[-_MOST:]]
