"""What a cluster has that an operator chooses from: storage classes, kinds of nodes, GPUs, images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from instances.providers.base import ImageSpec
from instances.providers.kubernetes.capacity import GPU_LABELS
from instances.providers.kubernetes.rights import Right
from instances.providers.kubernetes.site import Site

Object = dict[str, Any]
_DEFAULT = "storageclass.kubernetes.io/is-default-class"
#: labels that every node has, or that name a single one: nothing to choose by
_COMMON = ("kubernetes.io/hostname", "kubernetes.io/os", "beta.kubernetes.io/", "node.kubernetes.io/instance-id")


def image(reference: str) -> ImageSpec:
    """Return an image under its last name and the beginning of its digest: two of one name are two."""
    path, _, digest = reference.partition("@sha256:")
    return ImageSpec(f"{path.rpartition('/')[2]} {digest[:12]}", reference)


def of_classes(classes: Iterable[Object]) -> list[tuple[str, str]]:
    def words(found: Object) -> str:
        metadata = found["metadata"]
        default = ", the default" if metadata.get("annotations", {}).get(_DEFAULT) == "true" else ""
        keeps = ", keeps what is deleted" if found.get("reclaimPolicy") == "Retain" else ""
        return f"{metadata['name']} ({found.get('provisioner', '?')}{default}{keeps})"

    return [("storage class", words(found)) for found in classes]


def of_nodes(nodes: Iterable[Object], site: Site) -> list[tuple[str, str]]:
    """Return what nodes can be told apart by (`node_selector`), what they do not take, and their GPUs."""
    labels: Counter[str] = Counter()
    taints: Counter[str] = Counter()
    gpus: Counter[str] = Counter()
    for node in nodes:
        own = node["metadata"].get("labels", {})
        labels.update(f"{name}={value}" for name, value in own.items() if not name.startswith(_COMMON))
        taints.update(f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in node["spec"].get("taints", ()))
        kind = next((own[name] for name in GPU_LABELS if name in own), "")
        resource = site.gpu(kind)
        gpus[f"{resource} {kind}".strip()] += int(node["status"].get("allocatable", {}).get(resource, 0))
    found = [("node label", labels), ("taint", taints)]
    lines = [(kind, f"{text} ({count} nodes)") for kind, counted in found for text, count in sorted(counted.items())]
    return lines + [("GPU", f"{kind}: {count}") for kind, count in sorted(gpus.items()) if count]


def unseen(right: Right) -> tuple[str, str]:
    return "not known", f"the account may not {right}: give it that right, or write the options by hand"
