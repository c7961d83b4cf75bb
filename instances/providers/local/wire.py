"""What goes over the supervisor's socket: one JSON object a line, specs as plain objects, errors by their codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from instances.providers.base import (
    FlavourSpec,
    Home,
    ImageMissing,
    ImageSpec,
    Mount,
    MountKind,
    MountMissing,
    NoCapacity,
    PosixId,
    ProviderError,
    ProviderUnavailable,
    Rejected,
    Service,
    Spec,
)

#: longest line: a spec with its welcome files
LONGEST = 4 * 2**20
_KINDS: dict[str, type[ProviderError]] = {
    kind.code: kind for kind in (ProviderUnavailable, NoCapacity, Rejected, ImageMissing, MountMissing)
}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_FOLDER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def refusal(kind: type[ProviderError], code: str, text: str) -> ProviderError:
    """Return an error of a kind with a code of its own (`disk-full` is a lack of capacity)."""
    error = kind(text)
    error.code = code
    return error


def pack_error(error: ProviderError) -> dict[str, Any]:
    return {"ok": False, "kind": type(error).code, "code": error.code, "text": str(error)}


def unpack_error(answer: dict[str, Any]) -> ProviderError:
    kind = _KINDS.get(str(answer.get("kind")), ProviderUnavailable)
    return refusal(kind, str(answer.get("code") or kind.code), str(answer.get("text", "")))


def pack_spec(spec: Spec) -> dict[str, Any]:
    return asdict(spec) | {"welcome": dict(spec.welcome)}


def pack_data(data: Sequence[Mount] | None) -> list[dict[str, Any]] | None:
    return None if data is None else [asdict(mount) for mount in data]


def unpack_data(given: object) -> tuple[Mount, ...]:
    """Return the data mounts of a start, checked as those of a spec; Rejected for all else."""
    try:
        if not isinstance(given, list):
            raise TypeError("not a list")
        mounts = tuple(_mount(mount) for mount in given)
        for mount in mounts:
            _check_mount(mount, None)  # without a home, only data pass
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Rejected(f"the data cannot be read: {error!r}") from error
    return mounts


def _mount(given: dict[str, Any]) -> Mount:
    return Mount(**given | {"kind": MountKind(given["kind"])})


def name_of(value: object) -> str:
    """Return a machine's name, or refuse what could be a path or an option."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Rejected(f"not a machine's name: {value!r}")
    return value


def home_key(value: object) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value) or ".." in value:
        raise Rejected(f"not a home's key: {value!r}")
    return value


def unpack_spec(given: dict[str, Any]) -> Spec:
    """Return the spec with every name and path checked; Rejected when something is not as it must be."""
    try:
        home, identity = given["home"], given["identity"]
        spec = Spec(
            name=name_of(given["name"]),
            deployment=str(given["deployment"]),
            instance=str(given["instance"]),
            attempt=int(given["attempt"]),
            image=ImageSpec(**given["image"]),
            flavour=FlavourSpec(**given["flavour"]),
            services=tuple(Service(**service) for service in given["services"]),
            mounts=tuple(_mount(mount) for mount in given["mounts"]),
            home=Home(home_key(home["key"]), int(home["limit"])) if home else None,
            identity=PosixId(int(identity["uid"]), int(identity["gid"]), tuple(identity["groups"]))
            if identity
            else None,
            network=str(given["network"]),
            secret_epoch=int(given["secret_epoch"]),
            host=str(given["host"]),
            welcome={str(path): str(text) for path, text in given.get("welcome", {}).items()},
        )
        _check(spec)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Rejected(f"the spec cannot be read: {error!r}") from error
    return spec


def _check(spec: Spec) -> None:
    name_of(spec.image.reference)
    if spec.network != "none":
        raise Rejected(f"the local provider gives no network but 'none', not {spec.network!r}")
    if spec.flavour.memory < 16 * 2**20 or spec.flavour.cores <= 0:
        raise Rejected("a flavour needs memory and cores")
    if spec.flavour.gpus:
        raise Rejected("the local provider has no GPUs to give")
    if spec.identity and min(spec.identity.uid, spec.identity.gid, *spec.identity.groups) < 1:
        raise Rejected("a session is never root")
    for mount in spec.mounts:
        _check_mount(mount, spec.home)
    for path in spec.welcome:
        if not all(_KEY.fullmatch(part) for part in path.split("/")):
            raise Rejected(f"not a name for a welcome file: {path!r}")
    for service in spec.services:
        name_of(service.name)


def _check_mount(mount: Mount, home: Home | None) -> None:
    if mount.kind is MountKind.DATA:
        _check_data(mount)
    elif mount.kind is not MountKind.HOME:
        raise Rejected(f"the local provider mounts data and homes, not {mount.kind}")
    elif home is None or mount.source != home.key or mount.target != "/work/home":
        raise Rejected("the home of the spec is mounted, at /work/home")


def _check_data(mount: Mount) -> None:
    parts = mount.target.split("/")
    inside = parts[:3] == ["", "work", "data"] and len(parts) > 3 and all(_FOLDER.fullmatch(part) for part in parts[3:])
    if not inside:
        raise Rejected(f"data are mounted below /work/data, not at {mount.target!r}")
    if not mount.read_only or not mount.source.startswith("/") or b"\0" in mount.source.encode():
        raise Rejected(f"data are mounted read-only from an absolute path: {mount.target!r}")
