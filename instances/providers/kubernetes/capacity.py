"""What there is room for, and where that is known from: the nodes, else the namespace's quota."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from instances.providers.base import Capacity, FlavourSpec
from instances.providers.kubernetes.site import Site
from portal.lib.readers import GIB

Object = dict[str, Any]

#: offered to the admin's import where a node has as much: name, cores, GiB
_SIZES = (("small", 1, 2), ("medium", 2, 8), ("large", 4, 16), ("huge", 16, 64))
_UNITS = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_UNITS |= {letter: Decimal(1000) ** (n + 1) for n, letter in enumerate("kMGTPE")}
_UNITS |= {f"{letter}i": Decimal(1024) ** (n + 1) for n, letter in enumerate("KMGTPE")}
#: labels that say what a node's GPUs are
GPU_LABELS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name")


def quantity(text: str) -> Decimal:
    """Return an amount as the API writes it: 500m, 2Gi, 1e3."""
    number = text.rstrip("niumkKMGTPE") or "0"
    unit = text[len(number) :]
    return Decimal(number) * _UNITS[unit] if unit in _UNITS else Decimal(text)


Room = dict[str, Decimal]


@dataclass(frozen=True)
class Place:
    """A node, or a quota: how much it has of each resource and how much of that is left."""

    total: Room
    free: Room
    gpu_kind: str = ""


def needs(flavour: FlavourSpec, site: Site) -> Room:
    need = {"cpu": Decimal(str(flavour.cores)), "memory": Decimal(flavour.memory), "pods": Decimal(1)}
    return need | ({site.gpu(flavour.gpu_kind): Decimal(flavour.gpus)} if flavour.gpus else {})


def fits(need: Room, room: Room, *, unlimited: bool = False) -> int:
    """Return how many fit; a resource that is not named has no limit in a quota, and is not there on a node."""
    counts = [int(room[name] // amount) for name, amount in need.items() if amount and name in room]
    absent = [name for name, amount in need.items() if amount and name not in room]
    return 0 if (absent and not unlimited) or not counts else max(0, min(counts))


# ---- nodes ----
def places_of(nodes: Iterable[Object], pods: Iterable[Object], site: Site) -> list[Place]:
    """Return the nodes that take our pods. Only our own pods are known, so what is free is an upper bound."""
    taken: dict[str, Room] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            _add(taken.setdefault(pod["spec"].get("nodeName", ""), {}), _requests(pod))
    return [_place(node, taken.get(node["metadata"]["name"], {})) for node in nodes if _takes_ours(node, site)]


def _place(node: Object, taken: Room) -> Place:
    total = {name: quantity(amount) for name, amount in node["status"].get("allocatable", {}).items()}
    free = {name: amount - taken.get(name, Decimal(0)) for name, amount in total.items()}
    labels = node["metadata"].get("labels", {})
    return Place(total, free, next((labels[name] for name in GPU_LABELS if name in labels), ""))


def _takes_ours(node: Object, site: Site) -> bool:
    labels = node["metadata"].get("labels", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))
    selected = all(labels.get(name) == value for name, value in site.node_selector.items())
    taints = [t for t in node["spec"].get("taints", ()) if t.get("effect") in ("NoSchedule", "NoExecute")]
    tolerated = all(any(_tolerates(one, taint) for one in site.tolerations) for taint in taints)
    return ready and selected and tolerated and not node["spec"].get("unschedulable")


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def _requests(pod: Object) -> Room:
    room: Room = {"pods": Decimal(1)}
    for container in pod["spec"].get("containers", ()):
        asked = container.get("resources", {}).get("requests", {})
        _add(room, {name: quantity(amount) for name, amount in asked.items()})
    return room


def _add(room: Room, more: Room) -> None:
    for name, amount in more.items():
        room[name] = room.get(name, Decimal(0)) + amount


# ---- quotas ----
def quota_place(quotas: Iterable[Object]) -> Place | None:
    """Return what the namespace's quotas leave together: of each resource the least; None where they limit nothing."""
    total: Room = {}
    free: Room = {}
    for quota in quotas:
        hard, used = quota["status"].get("hard", {}), quota["status"].get("used", {})
        for name, amount in hard.items():
            ours, limit = name.removeprefix("requests."), quantity(amount)
            left = limit - quantity(used.get(name, "0"))
            total[ours] = min(limit, total.get(ours, limit))
            free[ours] = min(left, free.get(ours, left))
    return Place(total, free) if total else None


# ---- what follows ----
def flavours_of(places: Iterable[Place], site: Site) -> list[FlavourSpec]:
    """Return the usual sizes that the largest place could carry one of, with a GPU where a place has some."""
    places = list(places)
    plain = [FlavourSpec(name, cores, memory * GIB, 0) for name, cores, memory in _SIZES]
    kinds = sorted({place.gpu_kind for place in places if place.total.get(site.gpu(place.gpu_kind))})
    named = [(f"gpu-{kind}".rstrip("-").lower(), kind) for kind in kinds]
    gpus = [FlavourSpec(name, 4, 16 * GIB, 0, gpus=1, gpu_kind=kind) for name, kind in named]
    return [one for one in (*plain, *gpus) if any(fits(needs(one, site), place.total) for place in places)]


def of_places(places: Iterable[Place], site: Site, source: str) -> list[Capacity]:
    places = list(places)

    def count(flavour: FlavourSpec) -> Capacity:
        need = needs(flavour, site)
        left = sum((place.free.get(site.gpu(flavour.gpu_kind), Decimal(0)) for place in places), Decimal(0))
        return Capacity(
            flavour.name,
            free=sum(fits(need, place.free) for place in places),
            total=sum(fits(need, place.total) for place in places),
            gpus_free=int(left) if flavour.gpus else 0,
            source=source,
        )

    return [count(flavour) for flavour in flavours_of(places, site)]


def of_quota(place: Place, site: Site) -> list[Capacity]:
    """Return what a quota leaves; of a resource that it does not limit it says nothing."""
    plain = [FlavourSpec(name, cores, memory * GIB, 0) for name, cores, memory in _SIZES]
    rows = [(one, needs(one, site)) for one in plain]
    return [
        Capacity(
            one.name,
            free=fits(need, place.free, unlimited=True),
            total=fits(need, place.total, unlimited=True),
            source="quota",
        )
        for one, need in rows
    ]
