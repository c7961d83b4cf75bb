"""Homes: a claim of (user, facility) that no machine owns; made with the first one, deleted by an act of its own."""

from __future__ import annotations

from typing import Any

from instances.providers.base import Home, ProviderUnavailable, Rejected
from instances.providers.kubernetes import manifests
from instances.providers.kubernetes.capacity import quantity
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.errors import DiskHeld, Exists, HomeHeld, NotThere
from instances.providers.kubernetes.sight import is_noticed, seconds

#: seconds for which a machine's word counts that it is about to take a home; who gave it may have died
TAKING = 60.0
SETS, CLAIMS = "statefulsets", "persistentvolumeclaims"

Object = dict[str, Any]


def ensure(cluster: Cluster, home: Home) -> Object:
    """Return the claim of a home; made if need be."""
    name = manifests.home(home.key)
    found = _find(cluster, name)
    if found is None:
        try:
            return cluster.post(CLAIMS, manifests.claim(home, cluster.site))
        except Exists:
            found = cluster.get(CLAIMS, name)
    _mine(cluster, found)
    if found["metadata"].get("deletionTimestamp"):
        raise ProviderUnavailable(f"home {home.key} is still being deleted")
    return found


def check(cluster: Cluster, machine: Object) -> None:
    """Raise unless a machine's home is the one it was made with, and free."""
    metadata = machine["metadata"]
    key, known = metadata["labels"].get(manifests.HOME), metadata["annotations"].get(manifests.HOME_UID)
    if not key:
        return
    found = _find(cluster, manifests.home(key))
    if found is None or found["metadata"]["uid"] != known:
        raise DiskHeld(f"home {key} is not the one that {metadata['name']} was made with")
    if found["metadata"].get("deletionTimestamp"):
        raise DiskHeld(f"home {key} is marked for deletion")
    see_that_it_is_free(cluster, key, metadata["name"])


def is_shared(cluster: Cluster) -> bool:
    """Whether many machines may mount a home at a time."""
    return cluster.site.home_access == "ReadWriteMany"


def see_that_it_is_free(cluster: Cluster, key: str, machine: str) -> None:
    """Raise when the storage can be mounted by one pod at a time and another machine has it; the cluster sees to it."""
    if is_shared(cluster):
        return
    others = (one for one in _users(cluster, key) if one["metadata"]["name"] != machine)
    holder = next((one for one in others if _has(one, cluster.now())), None)
    if holder is not None:
        raise HomeHeld(f"home {key} is mounted by {holder['metadata']['name']}")


def delete(cluster: Cluster, home: Home) -> None:
    """Delete a home's claim, and with it the files, as its storage class says."""
    users = _users(cluster, home.key)
    if users:
        raise Rejected(f"home {home.key} is used by {users[0]['metadata']['name']}")
    found = _find(cluster, manifests.home(home.key))
    if found is None or found["metadata"].get("deletionTimestamp"):
        return
    _mine(cluster, found)
    cluster.delete(CLAIMS, found["metadata"]["name"], found["metadata"]["uid"])


def size(cluster: Cluster, home: Home) -> int:
    """Return how many bytes a home's claim has; 0 for none."""
    found = _find(cluster, manifests.home(home.key))
    return int(quantity(found.get("status", {}).get("capacity", {}).get("storage", "0"))) if found else 0


def _find(cluster: Cluster, name: str) -> Object | None:
    try:
        return cluster.get(CLAIMS, name)
    except NotThere as error:
        if error.kind != CLAIMS:
            raise
        return None


def _users(cluster: Cluster, key: str) -> list[Object]:
    selector = manifests.selector(cluster.site, **{manifests.HOME: key})
    return list(cluster.find(SETS, labelSelector=selector).get("items", ()))


def _has(machine: Object, now: float) -> bool:
    """Whether a machine mounts its home now, is still letting go of it, or is about to take it."""
    if machine["spec"]["replicas"] or machine.get("status", {}).get("replicas"):
        return True
    notes = machine["metadata"].get("annotations", {})
    if manifests.STARTED in notes and not is_noticed(machine):
        return True  # the pod of its start may be still to come
    wants = notes.get(manifests.WANTS_HOME, "")
    return bool(wants) and now - seconds(wants) < TAKING


def _mine(cluster: Cluster, claim: Object) -> None:
    if claim["metadata"].get("labels", {}).get(manifests.DEPLOYMENT) != cluster.site.tag:
        raise Rejected(f"{claim['metadata']['name']} belongs to another deployment")
