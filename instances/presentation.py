"""How an instance reads on a page: words, progress steps, what one may do. Asks the database for nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from auth.roles import may_on_instance
from instances import reasons
from instances.lifecycle import MOVING, SERVED, State, Target
from instances.models import Instance, Measured, Member, Transition

#: JupyterLab opens on the notebook that was laid in for the chosen data
START_PAGE = "/lab/tree/Welcome.ipynb"

WORDS = {
    State.REQUESTED: "Requested",
    State.BUILDING: "Building",
    State.STARTING: "Starting",
    State.ACTIVE: "Active",
    State.STOPPING: "Stopping",
    State.STOPPED: "Stopped",
    State.REBOOTING: "Rebooting",
    State.UNAVAILABLE: "Not answering",
    State.ERROR: "Failed",
    State.DELETING: "Deleting",
    State.DELETED: "Deleted",
}

#: the way to a usable instance, and what each step waits for
_WAY = (
    (State.REQUESTED, "The request is stored; a worker is about to take it up."),
    (State.BUILDING, "The machine is made: software, your home and the data are mounted."),
    (State.STARTING, "The machine runs; waiting for JupyterLab to answer."),
    (State.ACTIVE, "JupyterLab answers and is ready to open."),
)
_PLACE = {state: place for place, (state, _) in enumerate(_WAY)} | {State.REBOOTING: 2}
_REBOOTS = "The machine restarts; waiting for JupyterLab to answer again."

#: verb → states in which a page offers it (the service decides in the end)
_OFFERED = {
    "start": frozenset({State.STOPPED}),
    "stop": frozenset({State.REQUESTED, State.BUILDING, State.STARTING, State.REBOOTING}) | SERVED,
    "reboot": SERVED,
    "retry": frozenset({State.ERROR}),
    "delete": frozenset(State) - {State.DELETING, State.DELETED},
}


@dataclass(frozen=True)
class Step:
    """One step of the way: `status` is done, now, failed or ahead."""

    word: str
    text: str
    status: str


def word(instance: Instance) -> str:
    """The state in one word; an active instance that is asked to stop says where it goes."""
    if instance.state == State.ACTIVE and instance.target == Target.STOPPED:
        return WORDS[State.STOPPING]
    if instance.target == Target.DELETED and instance.state != State.DELETED:
        return WORDS[State.DELETING]
    return WORDS[State(instance.state)]


def steps(instance: Instance, failed_in: str = "") -> list[Step]:
    """The way to active and where on it the instance is; empty when it is not on it."""
    failed = instance.state == State.ERROR
    at = State(failed_in) if failed and failed_in in _PLACE else State(instance.state)
    if instance.target != Target.ACTIVE or at not in _PLACE or at is State.ACTIVE:
        return []
    here = _PLACE[at]
    return [_step(place, here, failed=failed, reboots=at is State.REBOOTING) for place in range(len(_WAY))]


def _step(place: int, here: int, *, failed: bool, reboots: bool) -> Step:
    state, text = _WAY[place]
    title = WORDS[State.REBOOTING] if reboots and place == here else WORDS[state]
    text = _REBOOTS if reboots and place == here else text
    if place < here:
        return Step(title, "", "done")
    if place > here:
        return Step(title, "", "ahead")
    return Step(title, text, "failed" if failed else "now")


def failed_in(history: list[Transition]) -> str:
    """The state in which an instance in error was when it failed: the newest transition into error says so."""
    return next((row.old for row in reversed(history) if row.new == State.ERROR and row.old != State.ERROR), "")


def is_usable(instance: Instance) -> bool:
    """Whether JupyterLab may be opened; when something does not answer, it may be busy, so the link stays."""
    return instance.state in SERVED and instance.target == Target.ACTIVE


def open_url(instance: Instance) -> str:
    """Where JupyterLab opens: on the instance's own origin, by a plain link."""
    scheme = urlsplit(settings.PORTAL_URL).scheme
    return f"{scheme}://{instance.slug}.{settings.APPS_DOMAIN}{START_PAGE}"


def verbs(instance: Instance, role: str | None) -> set[str]:
    """What a page offers somebody with this role now."""
    offered = {verb for verb, states in _OFFERED.items() if instance.state in states}
    if instance.target == Target.DELETED:
        offered.clear()
    if instance.target == Target.STOPPED and instance.state != State.ERROR:
        offered.discard("stop")
    if is_usable(instance):
        offered.add("open-jupyter")
    return {verb for verb in offered if may_on_instance(role, verb)}


def why(instance: Instance) -> str:
    """The reason as a sentence; moving states without one say nothing."""
    return instance.detail or reasons.sentence(instance.reason)


def measured(instance: Any) -> Measured | None:
    """What its machine has measured lately (`measures.lately`), for a row that was asked for with it."""
    found: Measured | None = instance.measured if instance.measured_lately else None
    return found


def is_moving(instance: Instance) -> bool:
    """True while something is about to happen by itself: the state moves, or is not yet what was asked for."""
    return State(instance.state) in MOVING or (
        instance.state != State.ERROR and instance.target not in (instance.state, Target.ACTIVE)
    )


def role_of(memberships: list[Member], user_pk: object) -> str | None:
    """The role of a user among an instance's members."""
    return next((member.role for member in memberships if member.user_id == user_pk), None)
