"""What a row of this kind may say, and an image of it: read when a provider is made, and from an operator's file."""

from __future__ import annotations

from typing import Any

from instances.providers.base import Options
from portal.lib import readers
from portal.lib.readers import GIB, MIB, each, flag, mapping, one_of, plain, size, table, text, whole, wrong

#: a registry's path with a tag or, better, a digest: what has neither would be whatever is newest on that day
IMAGE = r"[\w.-]+(:\d+)?(/[\w.-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64}|:[\w.-]+@sha256:[0-9a-f]{64})"
_TIB = 1024 * GIB
_HIGHEST_ID = 2**31 - 2

_name = text(253, r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a name as Kubernetes has them: a-z, 0-9, - and .", least=0)
_path = text(1000, r"/.*", "an absolute path")
_size = size(MIB, 64 * _TIB)
_command = each(text(10_000, least=0, lines=True), most=200)
_root = table(
    {
        "prefix": _path,
        "path": text(1000, r"(?!/)(?!(.*/)?\.\.(/|$)).*", "a path inside the volume", least=0),
        "claim": _name,
        "csi": mapping(plain),
    },
    needed=("prefix",),
)


def _data(value: Any) -> Any:
    root = _root(value)
    if bool(root.get("claim")) == bool(root.get("csi")):
        raise wrong("must name either a claim or a csi volume.")
    return root


_toleration = table(
    {
        "key": text(317),
        "operator": one_of("Exists", "Equal"),
        "value": text(63, least=0),
        "effect": one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        "tolerationSeconds": whole(0, 2**31),
    }
)

#: which nodes; an image's go on top of the provider's
_PLACING: dict[str, readers.Reader] = {
    "node_selector": mapping(text(63, least=0)),
    "tolerations": each(_toleration),
    "priority_class": _name,
}

READERS: dict[str, readers.Reader] = {
    "kubeconfig": _path,
    "context": text(253, least=0),
    "namespace": text(63, r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", "the name of a namespace: a-z, 0-9 and -"),
    "namespace_uid": text(64, least=0),
    "scratch_class": _name,
    "scratch_size": _size,
    "home_class": _name,
    "home_access": one_of("ReadWriteMany", "ReadWriteOncePod", "ReadWriteOnce"),
    "temporary_size": _size,
    "ephemeral_size": _size,
    **_PLACING,
    "pull_secrets": each(_name),
    "user_namespaces": flag,
    "uid": whole(1, _HIGHEST_ID),
    "gid": whole(0, _HIGHEST_ID),
    "gpu_resources": mapping(text(317), keys=text(50, least=0)),
    "data": each(_data),
    "isolation": one_of("", "seen", "assured"),
}

OPTIONS = Options(
    provider=table(READERS, needed=("namespace",)),
    image=table(
        {
            "command": _command,
            "args": _command,
            "environment": mapping(text(10_000, least=0, lines=True)),
            "agent": flag,
            "python": text(1000),
            **_PLACING,
        }
    ),
    reference=text(200, IMAGE, "an image of a registry with its tag or digest, like registry.example.org/jupyter:1.0"),
    place=("kubeconfig", "context", "namespace"),
    kept=("namespace_uid", "isolation"),
)
