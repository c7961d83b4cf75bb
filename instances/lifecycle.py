"""State, target, phase, and the pure function that decides the next step. No Django in here."""

from __future__ import annotations

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
#: states that pass by themselves
MOVING = frozenset({State.REQUESTED, State.BUILDING, State.STARTING, State.STOPPING, State.REBOOTING, State.DELETING})
