"""Nodes that are only claimed, by kwok: their pods are ready at once, or fail in a way that a test asks for.

The image `lab/WORD:1` or the annotation `lab/fault: WORD` of a pod names a fault of FAULTS; `none` repairs it.
The image `lab/slow:1` is ready after two seconds; the annotation `lab/delete-delay` ("3s") makes its end slow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_FAULT = (
    '((.metadata.annotations // {})["lab/fault"])'
    ' // (.spec.containers[0].image | capture("^lab/(?<f>[a-z]+)") | .f) // "none"'
)
_ANNOTATION = '(.metadata.annotations // {{}})["{0}"]'
_AT = '((.metadata.annotations // {})["lab/at"]) // ""'

Object = dict[str, Any]


def _delay(name: str) -> Object:
    expression = f'({_ANNOTATION.format(name)}) // "0s"'
    return {"durationMilliseconds": 0, "durationFrom": {"expressionFrom": expression}}


def _is(key: str, operator: str, *values: str) -> Object:
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


def _stage(name: str, kind: str, match: list[Object], next_: Object, delay: Object | None = None) -> Object:
    spec: Object = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": match},
        "next": next_,
    }
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": spec | ({"delay": delay} if delay else {}),
    }


_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_NODE = """
{{ $now := Now }}
phase: Running
addresses:
- {address: {{ NodeIP | Quote }}, type: InternalIP}
conditions:
{{ range NodeConditions }}
- lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
  message: {{ .message | Quote }}
  reason: {{ .reason | Quote }}
  status: {{ .status | Quote }}
  type: {{ .type | Quote }}
{{ end }}
"""
_CONDITIONS = """
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "READY", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "READY", lastTransitionTime: {{ $now | Quote }}}
"""
_ALIVE = """
{{ $now := Now }}
{{ $root := . }}
phase: Running
startTime: {{ or .status.startTime $now | Quote }}
CONDITIONS
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ printf "lab@%s" .image | Quote }}
  containerID: {{ printf "kwok://%s" $root.metadata.uid | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
{{ $ip := PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace }}
podIP: {{ $ip | Quote }}
podIPs: [{ip: {{ $ip | Quote }}}]
""".replace("CONDITIONS", _CONDITIONS.replace("READY", "True").strip())

_FAILING = """
{{ $now := Now }}
phase: PHASE
REASON
CONDITIONS
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  started: RUNNING
  restartCount: RESTARTS
  state:
    STATE
  LAST
{{ end }}
""".replace("CONDITIONS", _CONDITIONS.replace("READY", "False").strip())
_AROUND = "startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}"


def _fault(
    name: str,
    word: str,
    event: tuple[str, str],
    phase: str,
    state: str,
    *,
    after: int = 100,
    restarts: int = 0,
    last: str = "",
    reason: str = "",
    follows: str = "",
) -> Object:
    """Return the stage that a pod with this fault goes into; `state` and `last` name a reason and an exit code."""
    text = _FAILING.replace("PHASE", phase).replace("STATE", state).replace("RESTARTS", str(restarts))
    text = text.replace("RUNNING", "true" if state.startswith("running") else "false")
    text = text.replace("REASON", f"reason: {reason}\nmessage: {json.dumps(event[1])}" if reason else "")
    text = text.replace("LAST", f"lastState: {{terminated: {{{last}, {_AROUND}}}}}" if last else "")
    match = [
        _is(".metadata.deletionTimestamp", "DoesNotExist"),
        _is(_FAULT, "In", word),
        _is(".status.phase", "In", "Pending", "Running"),
        _is(_AT, "In", follows) if follows else _is(_AT, "NotIn", name, f"{name}-later"),
    ]
    mark = {"type": "merge", "root": "metadata", "template": f"annotations: {{lab/at: {name}}}"}
    status = {"subresource": "status", "root": "status", "type": "strategic", "template": text}
    told = {"type": "Warning", "reason": event[0], "message": event[1]}
    return _stage(name, "Pod", match, {"event": told, "patches": [mark, status]}, {"durationMilliseconds": after})


def _waiting(reason: str, message: str) -> str:
    return f"waiting: {{reason: {reason}, message: {json.dumps(message)}}}"


_BACK_OFF = ("BackOff", "Back-off restarting failed container")
FAULTS = {
    "pull": [
        _fault("pull", "pull", ("Failed", "Failed to pull image"), "Pending", _waiting("ErrImagePull", "not found")),
        _fault(
            "pull-later",
            "pull",
            ("BackOff", "Back-off pulling image"),
            "Pending",
            _waiting("ImagePullBackOff", "Back-off pulling image"),
            after=1000,
            follows="pull",
        ),
    ],
    "config": [
        _fault(
            "config",
            "config",
            ("Failed", "couldn't find key jupyter in Secret"),
            "Pending",
            _waiting("CreateContainerConfigError", "couldn't find key jupyter in Secret"),
        )
    ],
    "creating": [
        _fault(
            "creating",
            "creating",
            ("FailedMount", "MountVolume.SetUp failed for volume home: timed out"),
            "Pending",
            _waiting("ContainerCreating", ""),
        )
    ],
    "unready": [
        _fault("unready", "unready", ("Unhealthy", "refused"), "Running", "running: {startedAt: {{ $now | Quote }}}")
    ],
    "crash": [
        _fault(
            "crash",
            "crash",
            _BACK_OFF,
            "Running",
            _waiting("CrashLoopBackOff", ""),
            restarts=5,
            last="reason: Error, exitCode: 1",
        )
    ],
    "oom": [
        _fault(
            "oom",
            "oom",
            _BACK_OFF,
            "Running",
            _waiting("CrashLoopBackOff", ""),
            restarts=1,
            last="reason: OOMKilled, exitCode: 137",
        )
    ],
    "done": [
        _fault(
            "done",
            "done",
            _BACK_OFF,
            "Running",
            _waiting("CrashLoopBackOff", ""),
            restarts=1,
            last="reason: Completed, exitCode: 0",
        )
    ],
    "evict": [
        _fault(
            "evict",
            "evict",
            ("Evicted", "The node was low on resource: memory."),
            "Failed",
            f"terminated: {{reason: Error, exitCode: 137, {_AROUND}}}",
            reason="Evicted",
            after=300,
        )
    ],
    #: never ends
    "stuck": [],
}


def config(pool: str, port: int) -> str:
    """Return kwok's configuration for the nodes of a pool."""
    options: Object = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "cidr": "10.225.0.1/16",
            "nodeIP": "127.0.0.1",
            "manageAllNodes": False,
            "manageNodesWithAnnotationSelector": f"lab/kwok={pool}",
            "nodeLeaseDurationSeconds": 20,
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 4,
            "nodeLeaseParallelism": 4,
            "podsOnNodeSyncParallelism": 4,
            "enableDebuggingHandlers": False,
            "serverAddress": f"127.0.0.1:{port}",
        },
    }
    return "\n---\n".join(json.dumps(one) for one in (options, *_stages()))


def _stages() -> Iterator[Object]:
    yield _stage("node", "Node", [_is(_READY, "NotIn", "True")], {"statusTemplate": _NODE})
    leaves = [_is(".metadata.deletionTimestamp", "Exists"), _is(_FAULT, "NotIn", "stuck")]
    yield _stage("pod-delete", "Pod", leaves, {"delete": True}, _delay("lab/delete-delay"))
    comes = [
        _is(".metadata.deletionTimestamp", "DoesNotExist"),
        _is(".status.phase", "In", "Pending", "Running"),
        _is(_READY, "NotIn", "True"),
        _is(_FAULT, "NotIn", *(word for word, stages in FAULTS.items() if stages)),
    ]
    slow, quick = _is(_FAULT, "In", "slow"), _is(_FAULT, "NotIn", "slow")
    yield _stage("pod-ready", "Pod", [*comes, quick], {"statusTemplate": _ALIVE})
    yield _stage("pod-ready-slow", "Pod", [*comes, slow], {"statusTemplate": _ALIVE}, {"durationMilliseconds": 2000})
    for stages in FAULTS.values():
        yield from stages


def node(name: str, pool: str, *, taint: str = "", gpus: int = 0) -> Object:
    room = {"cpu": "256", "memory": "2Ti", "pods": "2000", "ephemeral-storage": "2Ti"}
    room |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"lab/kwok": pool},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "lab/pool": pool},
        },
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]} if taint else {},
        "status": {"allocatable": room, "capacity": room},
    }
