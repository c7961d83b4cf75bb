"""What we send to the API server: pure functions from a Spec to objects, compared whole by the tests.

A pod that they make passes Pod Security "restricted". Text of people goes into annotations, never into labels or names.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instances.providers.base import FlavourSpec, Home, ImageMissing, Mount, MountKind, PosixId, Rejected, Service, Spec
from instances.providers.kubernetes import agent
from instances.providers.kubernetes.options import IMAGE
from instances.providers.kubernetes.site import Site

Object = dict[str, Any]

MANAGED = "app.kubernetes.io/managed-by"
DEPLOYMENT, INSTANCE = "beamport/deployment", "beamport/instance"
#: of one attempt: two attempts of an instance may be there at a time, and a selector must not take in the other's pod
MACHINE = "beamport/machine"
HOME = "beamport/home"
#: of what `manage.py check_provider` makes and removes: no instance's
TRIAL = "beamport/trial"
#: annotations of the StatefulSet
EPOCH, SERVICES, WELCOME = "beamport/secret-epoch", "beamport/services", "beamport/welcome"
STARTED, DISK_UID, HOME_UID = "beamport/started", "beamport/disk-uid", "beamport/home-uid"
#: since when it is about to take a home that goes to one machine at a time
WANTS_HOME = "beamport/wants-home"

MAIN, SCRATCH = "main", "scratch"
WORK, HOME_TARGET, WELCOME_TARGET = "/work", "/work/home", "/opt/welcome"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?")


def labels(site: Site, *, instance: str = "", machine: str = "", home: str = "") -> dict[str, str]:
    """Return the labels of what is ours; only what is given."""
    more = {INSTANCE: instance, MACHINE: machine, HOME: home}
    return {MANAGED: "beamport", DEPLOYMENT: site.tag} | {name: value for name, value in more.items() if value}


def selector(site: Site, **more: str) -> str:
    """Return the selector of all that is this deployment's and has these labels, and of no trial."""
    wanted = {DEPLOYMENT: site.tag} | {name: value for name, value in more.items() if value}
    return ",".join([*(f"{name}={value}" for name, value in wanted.items()), f"!{TRIAL}"])


# ---- names ----
def machine(name: str) -> str:
    """Return a name that a StatefulSet, its pod and its Secret may have."""
    if not _NAME.fullmatch(name):
        raise Rejected(f"{name!r} cannot be the name of a machine")
    return name


def pod(name: str) -> str:
    return f"{name}-0"


def disk(name: str) -> str:
    """Return the claim that the StatefulSet makes from its template."""
    return f"{SCRATCH}-{name}-0"


def home(key: str) -> str:
    if not _NAME.fullmatch(key.lower()) or key != key.lower():
        raise Rejected(f"{key!r} cannot be the name of a claim")
    return f"bp-home-{key}"


# ---- objects ----
def claim(given: Home, site: Site) -> Object:
    """Return the claim of a home: nobody owns it, so it outlives every machine."""
    spec: Object = {
        "accessModes": [site.home_access],
        "resources": {"requests": {"storage": str(given.limit)}},
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": home(given.key), "labels": labels(site, home=given.key)},
        "spec": spec | _class(site.home_class),
    }


def secret(name: str, uid: str, tokens: Mapping[str, str], welcome: Mapping[str, str], site: Site) -> Object:
    """Return the Secret of a machine, which goes with the StatefulSet of this uid."""
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": uid, "blockOwnerDeletion": True}
    program = {agent.FILE: agent.source()} if agent.NAME in tokens else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels(site, machine=name), "ownerReferences": [owner]},
        "type": "Opaque",
        "immutable": True,
        "stringData": {
            **tokens,
            **program,
            **{f"welcome-{n}": text for n, (_, text) in enumerate(sorted(welcome.items()))},
        },
    }


def statefulset(spec: Spec, site: Site) -> Object:
    """Return the instance itself, not yet started."""
    name, tags = machine(spec.name), labels(site, instance=spec.instance, machine=spec.name)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": name,
            "labels": tags | ({HOME: spec.home.key} if spec.home else {}),
            "annotations": {
                EPOCH: str(spec.secret_epoch),
                SERVICES: json.dumps([[service.name, service.port] for service in agent.services(spec)]),
                WELCOME: pack(spec.welcome),
            },
        },
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {MACHINE: name}},
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 1,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
            "template": {"metadata": {"labels": tags}, "spec": pod_spec(spec, site)},
            "volumeClaimTemplates": [_scratch(spec.flavour, tags, site)],
        },
    }


def pod_spec(spec: Spec, site: Site) -> Object:
    volumes, mounts = data_of(only_data(spec.mounts), site)
    more: Object = {
        **_placing(spec, site),
        "imagePullSecrets": [{"name": name} for name in site.pull_secrets],
        "hostUsers": False if site.user_namespaces else None,
    }
    made = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": _identity(spec.identity, site),
        "containers": [_main(spec, site, mounts)],
        "volumes": [*_own_volumes(spec, site), *volumes],
    } | {name: value for name, value in more.items() if value or value is False}
    return agent.put_into(made, spec, _folders(spec, site))


def _placing(spec: Spec, site: Site) -> Object:
    """Return which nodes: the site's for all, and more by the plan's image: GPUs that are for its pods alone."""
    more = spec.image.options
    return {
        "nodeSelector": {**site.node_selector, **more.get("node_selector", {})},
        "tolerations": [dict(toleration) for toleration in (*site.tolerations, *more.get("tolerations", ()))],
        "priorityClassName": more.get("priority_class", site.priority_class),
    }


def _folders(spec: Spec, site: Site) -> dict[str, tuple[str, int]]:
    """Return the machine's own folders with the sizes that were asked for."""
    home = {"home": (_home_target(spec), spec.home.limit)} if spec.home else {}
    return {SCRATCH: (WORK, spec.flavour.disk or site.scratch_size), **home}


def _home_target(spec: Spec) -> str:
    return next((mount.target for mount in spec.mounts if mount.kind is MountKind.HOME), HOME_TARGET)


def _main(spec: Spec, site: Site, data: list[Object]) -> Object:
    image = spec.image
    if not re.fullmatch(IMAGE, image.reference):
        raise ImageMissing(f"{image.reference!r} names no image of a registry with its digest or tag")
    options = {name: list(image.options[name]) for name in ("command", "args") if name in image.options}
    size = _resources(spec.flavour, site)
    return (
        options
        | {
            "name": MAIN,
            "image": image.reference,
            "imagePullPolicy": "IfNotPresent",
            "workingDir": WORK,
            "env": [*_environment(spec), *_tokens(spec)],
            "ports": [{"name": _port(service.name), "containerPort": service.port} for service in spec.services],
            "resources": {"requests": size, "limits": dict(size)},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            "volumeMounts": [*_own_mounts(spec), *data],
        }
        | _probes(spec.services)
    )


def _probes(services: Sequence[Service]) -> Object:
    """Ask whether the first required port is open: what it answers needs a token, and the gateway asks with one."""
    asked = next((service for service in services if service.required), None)
    if asked is None:
        return {}
    probe = {"tcpSocket": {"port": asked.port}}
    return {
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {**probe, "periodSeconds": 5},
    }


def _identity(identity: PosixId | None, site: Site) -> Object:
    """Run as the person the facility knows, else as the site's plain user; never as root."""
    who = identity or PosixId(site.uid, site.gid)
    if who.uid == 0:
        raise Rejected("a session does not run as root")
    groups = {"supplementalGroups": list(who.groups)} if who.groups else {}
    return {
        "runAsNonRoot": True,
        "runAsUser": who.uid,
        "runAsGroup": who.gid,
        "fsGroup": who.gid,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    } | groups


def _resources(flavour: FlavourSpec, site: Site) -> dict[str, str]:
    """Return requests, which are the limits too: a quota refuses what states only one of them."""
    gpus = {site.gpu(flavour.gpu_kind): str(flavour.gpus)} if flavour.gpus else {}
    return {
        "cpu": f"{round(flavour.cores * 1000)}m",
        "memory": str(flavour.memory),
        "ephemeral-storage": str(site.ephemeral_size),
    } | gpus


def _environment(spec: Spec) -> list[Object]:
    given = {"HOME": HOME_TARGET if spec.home else WORK, "BEAMPORT_HOST": spec.host, "BEAMPORT_INSTANCE": spec.instance}
    variables = {**dict(spec.image.options.get("environment", {})), **given}
    return [{"name": name, "value": str(value)} for name, value in variables.items()]


def _tokens(spec: Spec) -> list[Object]:
    def entry(service: Service) -> Object:
        source = {"secretKeyRef": {"name": spec.name, "key": service.name}}
        return {"name": f"{service.name.upper().replace('-', '_')}_TOKEN", "valueFrom": source}

    return [entry(service) for service in spec.services]


def _own_volumes(spec: Spec, site: Site) -> list[Object]:
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": str(site.temporary_size)}}]
    if spec.home:
        volumes.append({"name": "home", "persistentVolumeClaim": {"claimName": home(spec.home.key)}})
    if spec.welcome:
        items = [{"key": f"welcome-{n}", "path": path} for n, path in enumerate(sorted(spec.welcome))]
        volumes.append({"name": "welcome", "secret": {"secretName": spec.name, "items": items, "optional": True}})
    return volumes


def _own_mounts(spec: Spec) -> list[Object]:
    mounts: list[Object] = [{"name": SCRATCH, "mountPath": WORK}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if spec.home:
        mounts.append({"name": "home", "mountPath": _home_target(spec)})
    if spec.welcome:
        mounts.append({"name": "welcome", "mountPath": WELCOME_TARGET, "readOnly": True})
    return mounts


def _scratch(flavour: FlavourSpec, tags: dict[str, str], site: Site) -> Object:
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(flavour.disk or site.scratch_size)}},
    }
    return {"metadata": {"name": SCRATCH, "labels": tags}, "spec": spec | _class(site.scratch_class)}


def _class(name: str) -> Object:
    return {"storageClassName": name} if name else {}


def _port(name: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", name.lower())[:15].strip("-")


def services_of(found: Object) -> list[tuple[str, int]]:
    """Return name and port of each service that a machine was made with."""
    return [(str(name), int(port)) for name, port in json.loads(found["metadata"]["annotations"].get(SERVICES, "[]"))]


# ---- data ----
def only_data(mounts: Iterable[Mount]) -> list[Mount]:
    strange = [mount.kind for mount in mounts if mount.kind not in (MountKind.DATA, MountKind.HOME)]
    if strange:
        raise Rejected(f"a cluster has no mounts of kind {strange[0]}")
    return [mount for mount in mounts if mount.kind is MountKind.DATA]


def data_of(data: Iterable[Mount], site: Site) -> tuple[list[Object], list[Object]]:
    """Return the volumes and mounts of these data: one volume a data root, read-only each and everywhere."""
    volumes: dict[int, Object] = {}
    mounts: list[Object] = []
    for mount in data:
        number, path = site.locate(mount.source)
        volumes.setdefault(number, {"name": f"data-{number}", **site.data[number].volume()})
        within = {"subPath": path} if path else {}
        mounts.append({"name": f"data-{number}", "mountPath": mount.target, "readOnly": True} | within)
    return list(volumes.values()), mounts


def with_data(found: Object, data: Iterable[Mount], site: Site) -> Object:
    """Return the part of a patch that gives a machine exactly these data; empty when it has them."""
    volumes, mounts = data_of(data, site)
    spec = found["spec"]["template"]["spec"]
    main = next(container for container in spec["containers"] if container["name"] == MAIN)
    others = [container for container in spec["containers"] if container["name"] != MAIN]
    had = [one for one in spec.get("volumes", ()) if _is_data(one)], [m for m in main["volumeMounts"] if _is_data(m)]
    if had == (volumes, mounts):
        return {}
    kept = [one for one in spec.get("volumes", ()) if not _is_data(one)]
    kept_mounts = [one for one in main["volumeMounts"] if not _is_data(one)]
    containers = [{**main, "volumeMounts": [*kept_mounts, *mounts]}, *others]
    return {"template": {"spec": {"volumes": [*kept, *volumes], "containers": containers}}}


def _is_data(entry: Object) -> bool:
    return str(entry["name"]).startswith("data-")


# ---- patches ----
def patch(found: Object, spec: Object, **annotations: str | None) -> Object:
    """Return a patch of this incarnation of an object; an annotation that is None is taken off."""
    metadata: Object = {"uid": found["metadata"]["uid"]}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


# ---- the welcome, kept small where every watch carries it ----
def pack(files: Mapping[str, str]) -> str:
    return base64.b85encode(zlib.compress(json.dumps(dict(files)).encode(), 9)).decode()


def unpack(text: str) -> dict[str, str]:
    return dict(json.loads(zlib.decompress(base64.b85decode(text)))) if text else {}
