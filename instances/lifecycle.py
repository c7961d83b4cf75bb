"""State, target, phase, and the pure function that decides the next step. No Django in here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    """What an instance is."""

    REQUESTED = "requested"
    BUILDING = "building"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPED = "stopped"
    REBOOTING = "rebooting"
    UNAVAILABLE = "unavailable"
    ERROR = "error"
    DELETING = "deleting"
    DELETED = "deleted"


class Target(StrEnum):
    """What its people want it to be."""

    ACTIVE = "active"
    STOPPED = "stopped"
    DELETED = "deleted"


class Phase(StrEnum):
    """What the provider observes."""

    MISSING = "missing"
    PENDING = "pending"
    RUNNING = "running"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    HELD = "held"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Call(StrEnum):
    """What a step asks of the provider."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    DELETE = "delete"


#: states in which the gateway probes or serves an instance (design §7)
PROBED = frozenset({State.STARTING})
SERVED = frozenset({State.ACTIVE, State.UNAVAILABLE})
#: phases of a machine that runs, or would come to run by itself
UP = frozenset({Phase.PENDING, Phase.RUNNING, Phase.READY, Phase.FAILED})
#: phases that pass by themselves
ON_ITS_WAY = frozenset({Phase.PENDING, Phase.STOPPING})
#: states that pass by themselves
MOVING = frozenset({State.REQUESTED, State.BUILDING, State.STARTING, State.STOPPING, State.REBOOTING, State.DELETING})


@dataclass(frozen=True)
class Step:
    """The next state, the call that leads there, and, where the wish itself changes, the new target."""

    state: State
    call: Call | None = None
    target: Target | None = None
    reason: str = ""


_UNBUILT = frozenset({State.REQUESTED, State.BUILDING})


def decide(
    state: State,
    target: Target,
    phase: Phase,
    *,
    last_call: Call | None = None,
    under_way: bool = False,
    reboot: bool = False,
    late: bool = False,
) -> Step:
    """Return the next step. Total and pure; the table is in docs/develop/lifecycle.md.

    `phase` was observed after `last_call` was made, and MISSING is confirmed. `under_way`: the last call was accepted a
    moment ago, so that asking for the same again is no use. `late`: past the deadline that somebody's verb set.
    """
    step = _decide(state, target, phase, last_call=last_call, reboot=reboot, late=late)
    repeated = step.call is last_call and step.state is state
    return replace(step, call=None) if under_way and repeated else step


def _decide(state: State, target: Target, phase: Phase, *, last_call: Call | None, reboot: bool, late: bool) -> Step:
    if state is State.DELETED:
        return Step(State.DELETED)
    if phase is Phase.UNKNOWN:
        return _unknown(state, target)
    if target is Target.DELETED:
        return Step(State.DELETED) if phase is Phase.MISSING else Step(State.DELETING, Call.DELETE)
    if state is State.ERROR:
        return Step(State.ERROR, Call.STOP if last_call is Call.STOP and phase in UP else None)
    return (
        _broken(state, target, phase, late)
        or _rebooted(state, target, phase, reboot)
        or (_toward_active(state, phase, last_call) if target is Target.ACTIVE else _toward_stopped(state, phase))
    )


def _unknown(state: State, target: Target) -> Step:
    if state is State.ACTIVE and target is Target.ACTIVE:
        return Step(State.UNAVAILABLE, reason="provider-unavailable")
    return Step(state)


def _broken(state: State, target: Target, phase: Phase, late: bool) -> Step | None:
    """What is given up is stopped in the same step: nobody waits any more, and it would come up all the same."""
    if phase is Phase.MISSING and state not in _UNBUILT:
        return Step(State.ERROR, reason="vanished")
    if phase is Phase.FAILED:
        return Step(State.ERROR, Call.STOP, reason="failed")
    arrived = (target, phase) in {(Target.ACTIVE, Phase.READY), (Target.STOPPED, Phase.STOPPED)}
    if late and state in MOVING and not arrived:
        return Step(State.ERROR, Call.STOP if phase in UP | {Phase.MISSING} else None, reason="deadline")
    return None


def _rebooted(state: State, target: Target, phase: Phase, reboot: bool) -> Step | None:
    runs = phase in (Phase.RUNNING, Phase.READY)
    if reboot and runs and target is Target.ACTIVE and state in SERVED:
        return Step(State.REBOOTING, Call.REBOOT)
    return None


def _toward_active(state: State, phase: Phase, last_call: Call | None) -> Step:
    if phase is Phase.MISSING:
        return Step(State.BUILDING, Call.CREATE)
    if phase is Phase.STOPPING and state in SERVED:
        return Step(State.UNAVAILABLE, reason="shut-down")
    if phase in ON_ITS_WAY:
        return Step(State.BUILDING if state in _UNBUILT else State.STARTING)
    if phase is Phase.RUNNING:
        return Step(State.UNAVAILABLE, reason="not-answering") if state in SERVED else Step(State.STARTING)
    if phase is Phase.READY:
        return Step(State.ACTIVE)
    if phase is Phase.HELD:
        return Step(State.UNAVAILABLE, reason="held")
    if state in SERVED:
        return Step(State.STOPPED, target=Target.STOPPED, reason="shut-down")
    if state is State.STARTING and last_call is Call.START:
        return Step(State.ERROR, reason="ended-at-once")
    return Step(State.STARTING, Call.START)


def _toward_stopped(state: State, phase: Phase) -> Step:
    if phase in (Phase.MISSING, Phase.STOPPED):
        return Step(State.STOPPED)
    if phase is Phase.HELD:
        return Step(state)
    return Step(State.STOPPING, None if phase in ON_ITS_WAY else Call.STOP)
