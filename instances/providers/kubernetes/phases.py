"""From what was seen to a phase: a table from top to bottom, the first row that fits counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from instances.lifecycle import Phase
from instances.providers.kubernetes.errors import quota_text
from instances.providers.kubernetes.sight import Sight, is_noticed

#: seconds: a healthy start may show "unscheduled" for a moment; a deletion or an end that takes longer hangs
FLASH, DELETING, ENDING = 10.0, 600.0, 60.0
#: a container that lived for as long is not in a loop; so many ends within it are
LOOP, TIMES = 600.0, 3
#: what the controller is told for good; other refusals (no default account yet) pass
_REFUSALS = ("exceeded quota", "violates PodSecurity", "denied", "is invalid")


@dataclass(frozen=True)
class Verdict:
    """Of what failed the cluster goes on trying, and may succeed when nobody waits any more: reconcile stops it."""

    phase: Phase
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Row:
    name: str
    fits: Callable[[Sight], bool]
    verdict: Callable[[Sight], Verdict]


@dataclass(frozen=True)
class Waiting:
    """What a container waits for: pending for so many seconds, then failed (None: for ever)."""

    patience: float | None
    reason: str


WAITING = {
    "ErrImagePull": Waiting(60, "image-missing"),
    "ImagePullBackOff": Waiting(60, "image-missing"),
    "InvalidImageName": Waiting(0, "image-missing"),
    "ErrImageNeverPull": Waiting(0, "image-missing"),
    "CreateContainerConfigError": Waiting(30, "pod-refused"),
    "CreateContainerError": Waiting(60, "pod-refused"),
    "RunContainerError": Waiting(60, "pod-refused"),
    "ContainerCreating": Waiting(None, ""),
    "PodInitializing": Waiting(None, ""),
}


def judge(seen: Sight) -> Verdict:
    """Return the verdict of the first row that fits."""
    return next(row for row in TABLE if row.fits(seen)).verdict(seen)


def wants_events(seen: Sight) -> bool:
    """Whether the table would read events: asked for then only, as there are many of them."""
    absent = seen.wanted == 1 and seen.pod is None and not seen.deleted_at
    stuck = seen.waiting in ("ContainerCreating", "CreateContainerError") and seen.waits_for > FLASH
    return absent or stuck or seen.pod_phase == "Failed"


# ---- verdicts of their own ----
def _deleting(seen: Sight) -> Verdict:
    if seen.now - seen.deleted_at < DELETING:
        return Verdict(Phase.STOPPING)
    return Verdict(Phase.STOPPING, "delete-hangs", f"held by {', '.join(seen.finalizers) or 'its pod'}")


def _ending(seen: Sight) -> Verdict:
    late = seen.pod_leaves_at and seen.now > seen.pod_leaves_at + ENDING
    return _lost(Phase.STOPPING, seen) if late else Verdict(Phase.STOPPING)


def _replaced(seen: Sight) -> Verdict:
    lost = seen.node_is_silent and seen.now > seen.pod_leaves_at
    return _lost(Phase.RUNNING, seen) if lost else Verdict(Phase.RUNNING, "being-replaced")


def _lost(phase: Phase, seen: Sight) -> Verdict:
    """Name the computer: support has to look whether it is off."""
    return Verdict(phase, "node-lost", f"It is the computer {seen.node}." if seen.node else "")


def _refusal(seen: Sight) -> Verdict:
    message = seen.told("FailedCreate")
    if "exceeded quota" in message:
        return Verdict(Phase.FAILED, "no-capacity", quota_text(message))
    return Verdict(Phase.FAILED, "rejected", message)


def _again_and_again(seen: Sight) -> bool:
    """Whether its pods are evicted one after the other; the controller would make another for ever."""
    return seen.pod_phase in ("", "Failed") and seen.count("Evicted", LOOP) >= TIMES


def _ended_pod(seen: Sight) -> Verdict:
    reason = "evicted" if seen.status.get("reason") == "Evicted" else "host-failed"
    return Verdict(Phase.PENDING, reason, str(seen.status.get("message", "")))


def _unscheduled(seen: Sight) -> Verdict:
    if seen.unscheduled_for < FLASH:
        return Verdict(Phase.PENDING)
    return Verdict(Phase.PENDING, "no-capacity", str(seen.conditions["PodScheduled"].get("message", "")))


def _waiting(seen: Sight) -> Verdict:
    row = WAITING[seen.waiting]
    unmounted = seen.told("FailedMount", "FailedAttachVolume")
    if row.patience is None:
        return Verdict(Phase.PENDING, "mount-missing" if unmounted else "", unmounted)
    phase = Phase.FAILED if seen.waits_for >= row.patience else Phase.PENDING
    return Verdict(phase, row.reason, seen.waits_because or unmounted)


def _crashing(seen: Sight) -> Verdict:
    reason, code = str(seen.ending.get("reason", "")), seen.ending.get("exitCode")
    ours = "out-of-memory" if reason == "OOMKilled" else "ended"
    looping = seen.restarts >= TIMES and seen.ran_for < LOOP
    return Verdict(Phase.FAILED if looping else Phase.RUNNING, ours, f"It ended with code {code} ({reason}).")


def _has_no_node(seen: Sight) -> bool:
    """The scheduler writes its word on a pod's name: a late one on the pod before stays on its successor for good."""
    return not seen.node and seen.is_false("PodScheduled")


def _is_stopped(seen: Sight) -> bool:
    """No pod is there, and none is still to come of an earlier wish."""
    return seen.wanted == 0 and seen.pod is None and is_noticed(seen.found)


def _refused(seen: Sight) -> bool:
    message = seen.told("FailedCreate")
    return any(word in message for word in _REFUSALS)


def _always(phase: Phase, reason: str = "") -> Callable[[Sight], Verdict]:
    return lambda seen: Verdict(phase, reason)


TABLE = (
    Row("being deleted", lambda seen: bool(seen.deleted_at), _deleting),
    Row("stopped", _is_stopped, _always(Phase.STOPPED)),
    Row("stopping", lambda seen: seen.wanted == 0, _ending),
    Row("no pod, refused", lambda seen: seen.pod is None and _refused(seen), _refusal),
    Row("evicted again and again", _again_and_again, _always(Phase.FAILED, "evicted")),
    Row("no pod yet", lambda seen: seen.pod is None, _always(Phase.PENDING)),
    Row("pod being deleted", lambda seen: bool(seen.pod_leaves_at), _replaced),
    Row("pod ended", lambda seen: seen.pod_phase == "Failed", _ended_pod),
    Row("no node", _has_no_node, _unscheduled),
    Row("container waits", lambda seen: seen.waiting in WAITING, _waiting),
    Row("container crashes", lambda seen: seen.waiting == "CrashLoopBackOff", _crashing),
    Row("node is silent", lambda seen: seen.node_is_silent, lambda seen: _lost(Phase.UNKNOWN, seen)),
    Row("runs", lambda seen: seen.pod_phase == "Running", _always(Phase.RUNNING)),
    Row("begins", lambda seen: seen.pod_phase == "Pending", _always(Phase.PENDING)),
    Row("anything else", lambda seen: True, _always(Phase.UNKNOWN)),
)
