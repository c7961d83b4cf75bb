"""A Provider row's options as one frozen value, checked when the provider is made."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instances.providers.base import MountMissing, ProviderError
from instances.providers.kubernetes.options import OPTIONS, READERS
from portal.lib import readers
from portal.lib.readers import GIB

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class BadOptions(ProviderError):
    """The row's options cannot be used; the text says which."""

    code = "bad-options"


@dataclass(frozen=True)
class DataRoot:
    """Sources below `prefix` lie in a volume, below `path` of it: an operator's claim, or an inline CSI volume."""

    prefix: str
    path: str = ""
    claim: str = ""
    csi: Mapping[str, Any] = field(default_factory=dict)

    def volume(self) -> dict[str, Any]:
        """Return the pod's volume source: read-only, whatever the options say."""
        if self.claim:
            return {"persistentVolumeClaim": {"claimName": self.claim, "readOnly": True}}
        return {"csi": {**self.csi, "readOnly": True}}


@dataclass(frozen=True)
class Site:
    """Where a provider's instances live, and what every pod of theirs is given."""

    deployment: str
    namespace: str
    #: as it was at set-up; another one is another cluster, or a namespace made anew
    namespace_uid: str = ""
    #: a file; none: the account of the pod that the portal itself runs in
    kubeconfig: str = ""
    context: str = ""
    scratch_class: str = ""
    scratch_size: int = 10 * GIB
    home_class: str = ""
    home_access: str = "ReadWriteMany"
    temporary_size: int = GIB
    ephemeral_size: int = 2 * GIB
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priority_class: str = ""
    pull_secrets: tuple[str, ...] = ()
    user_namespaces: bool = False
    uid: int = 1000
    gid: int = 100
    #: a flavour's kind of GPU → the resource that nodes offer; "" for every other kind
    gpu_resources: Mapping[str, str] = field(default_factory=lambda: {"": "nvidia.com/gpu"})
    data: tuple[DataRoot, ...] = ()
    #: that pods are kept from each other: "seen" by a trial, or "assured" by an operator
    isolation: str = ""
    #: whether people work here who must be kept from each other
    production: bool = False
    #: where the key of the instances' secrets lies when no variable says so
    secrets: Path | None = None

    @property
    def tag(self) -> str:
        """The deployment as a label's value: the id itself where it can be one."""
        if _LABEL.fullmatch(self.deployment):
            return self.deployment
        return hashlib.sha256(self.deployment.encode()).hexdigest()[:40]

    def gpu(self, kind: str) -> str:
        return self.gpu_resources.get(kind) or self.gpu_resources.get("", "nvidia.com/gpu")

    def locate(self, source: str) -> tuple[int, str]:
        """Return the number of the data root that holds a source, and the path within its volume."""
        if posixpath.normpath(source) != source.rstrip("/") or not source.startswith("/"):
            raise MountMissing(f"{source} is no plain absolute path")
        for number, root in enumerate(self.data):
            prefix = root.prefix.rstrip("/")
            if source == prefix or source.startswith(f"{prefix}/"):
                return number, posixpath.join(root.path, source[len(prefix) + 1 :].rstrip("/")).rstrip("/")
        raise MountMissing(f"{source} lies below no data root of this cluster")


def site_of(options: Mapping[str, Any]) -> Site:
    """Return the options as a Site; BadOptions names what is wrong with them."""
    try:
        known = OPTIONS.provider({name: options[name] for name in READERS if name in options})
    except readers.Faults as faults:
        raise BadOptions(f"the provider's options: {faults}") from faults
    for name in ("tolerations", "pull_secrets"):
        known[name] = tuple(known.get(name, ()))
    if not options.get("deployment"):
        raise BadOptions("the provider's options name no deployment")
    return Site(
        **known | {"data": tuple(DataRoot(**root) for root in known.get("data", ()))},
        deployment=options["deployment"],
        production=bool(options.get("production", False)),
        secrets=Path(options["state_dir"]) / "secrets" if options.get("state_dir") else None,
    )
