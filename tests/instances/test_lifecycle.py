"""`decide` over all inputs, and over ten thousand random histories with everything that goes wrong in them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from instances.lifecycle import MOVING, PROBED, SERVED, UP, Call, Phase, State, Step, Target, decide

BOOLS = (False, True)
ALL = list(itertools.product(State, Target, Phase, (None, *Call), BOOLS, BOOLS, BOOLS))


def every() -> list[tuple[State, Target, Phase, Call | None, bool, bool, bool, Step]]:
    return [
        (s, t, p, last, way, boot, late, decide(s, t, p, last_call=last, under_way=way, reboot=boot, late=late))
        for s, t, p, last, way, boot, late in ALL
    ]


# ---- names ----
@pytest.mark.parametrize("kind", [State, Target, Phase, Call])
def test_a_value_is_its_name(kind):
    """Rows, pages and the gateway's link carry the values."""
    assert [member.value for member in kind] == [member.name.lower() for member in kind]


def test_which_states_move_and_which_are_served():
    assert {state.value for state in MOVING} == {
        "requested",
        "building",
        "starting",
        "stopping",
        "rebooting",
        "deleting",
    }
    assert {state.value for state in SERVED} == {"active", "unavailable"}
    assert {state.value for state in PROBED} == {"starting"}


# ---- all inputs ----
def test_every_input_has_a_step():
    assert len(every()) == 11 * 3 * 9 * 6 * 8
    assert all(isinstance(row[-1], Step) for row in every())


def test_deleted_stays_deleted_and_nothing_is_called():
    assert {row[-1] for row in every() if row[0] is State.DELETED} == {Step(State.DELETED)}


def test_only_a_missing_machine_makes_a_deleted_instance():
    for state, target, phase, *_, step in every():
        if step.state is State.DELETED and state is not State.DELETED:
            assert (target, phase) == (Target.DELETED, Phase.MISSING)


def test_delete_is_called_for_nothing_but_the_wish_to_delete():
    for _, target, _, *_, step in every():
        assert step.call is not Call.DELETE or target is Target.DELETED


def test_unknown_calls_nothing_and_moves_nothing_but_active_to_unavailable():
    for state, target, phase, *_, step in every():
        if phase is Phase.UNKNOWN:
            assert step.call is None
            hidden = state is State.ACTIVE and target is Target.ACTIVE
            assert step.state is (State.UNAVAILABLE if hidden else state)


def test_an_error_is_left_only_by_delete():
    for state, target, phase, *_, step in every():
        if state is State.ERROR and target is not Target.DELETED:
            assert step in (Step(State.ERROR), Step(State.ERROR, Call.STOP))
        if state is State.ERROR and target is Target.DELETED and phase is not Phase.UNKNOWN:
            assert step.state in (State.DELETING, State.DELETED)


def test_what_is_given_up_is_stopped_with_the_same_step():
    for state, target, phase, *_, step in every():
        ends = step.state is State.ERROR and state is not State.ERROR and step.reason in ("deadline", "failed")
        if ends and phase in UP:
            assert step.call is Call.STOP, (state, target, phase)


def test_a_stop_is_asked_for_again_only_where_it_was_asked_for_and_the_machine_is_up():
    """Who reads an error may find a machine that was never given up: it was away, or refused to be rebooted."""
    for state, target, phase, last, way, *_, step in every():
        if state is State.ERROR and target is not Target.DELETED:
            again = last is Call.STOP and phase in UP and not way
            assert step == Step(State.ERROR, Call.STOP if again else None)


def test_a_machine_in_an_administrators_hand_is_not_stopped_because_it_is_late():
    for state, target, phase, *_, step in every():
        if phase is Phase.HELD and state in MOVING and target is Target.ACTIVE:
            assert step.call is None


def test_the_wish_to_delete_is_stronger_than_a_deadline_and_an_error():
    for state, target, phase, *_, step in every():
        if target is Target.DELETED and state is not State.DELETED and phase is not Phase.UNKNOWN:
            assert step.state in (State.DELETING, State.DELETED)


def test_a_machine_is_made_only_where_none_is_and_none_was():
    for state, _, phase, *_, step in every():
        if step.call is Call.CREATE:
            assert phase is Phase.MISSING
            assert state in (State.REQUESTED, State.BUILDING)


def test_a_machine_that_vanished_is_an_error_not_a_new_machine():
    for state, target, phase, *_, step in every():
        unbuilt = state in (State.REQUESTED, State.BUILDING)
        if phase is Phase.MISSING and target is not Target.DELETED and not unbuilt and state is not State.DELETED:
            assert step.state is State.ERROR


def test_the_target_changes_only_when_a_running_machine_stopped_by_itself():
    for state, target, phase, *_, step in every():
        if step.target is not None:
            assert (target, phase, step.target) == (Target.ACTIVE, Phase.STOPPED, Target.STOPPED)
            assert state in SERVED
            assert step.reason


def test_a_reboot_is_called_only_when_asked_and_only_from_a_served_state():
    for state, target, phase, _, _, reboot, _, step in every():
        if step.call is Call.REBOOT:
            assert reboot
            assert target is Target.ACTIVE
            assert state in SERVED
            assert phase in (Phase.RUNNING, Phase.READY)


def test_a_deadline_fails_only_what_moves_and_never_what_has_arrived():
    for state, target, phase, last, way, boot, late, step in every():
        if late and step.reason == "deadline":
            assert state in MOVING
            assert target is not Target.DELETED
            assert (target, phase) not in {(Target.ACTIVE, Phase.READY), (Target.STOPPED, Phase.STOPPED)}
        if late and state not in MOVING:
            assert step == decide(state, target, phase, last_call=last, under_way=way, reboot=boot)


def test_a_call_under_way_is_not_asked_for_again():
    for state, _, _, last, way, *_, step in every():
        if way and step.call is not None and step.state is state:
            assert step.call is not last


def test_a_call_that_is_not_under_way_any_more_is_asked_for_again():
    step = decide(State.BUILDING, Target.ACTIVE, Phase.MISSING, last_call=Call.CREATE)
    assert step == Step(State.BUILDING, Call.CREATE)


@pytest.mark.parametrize(
    ("state", "target", "phase", "last", "call"),
    [
        (State.DELETING, Target.DELETED, Phase.RUNNING, Call.STOP, Call.DELETE),  # another call
        (State.REQUESTED, Target.ACTIVE, Phase.MISSING, Call.CREATE, Call.CREATE),  # from another state
        (State.BUILDING, Target.ACTIVE, Phase.MISSING, Call.CREATE, None),
    ],
)
def test_only_the_same_call_from_the_same_state_counts_as_under_way(state, target, phase, last, call):
    assert decide(state, target, phase, last_call=last, under_way=True).call is call


def test_every_error_has_a_reason():
    for state, *_, step in every():
        assert step.state is not State.ERROR or state is State.ERROR or step.reason


TABLE = [
    # phase, from, target, → state, call
    (Phase.MISSING, State.REQUESTED, Target.ACTIVE, State.BUILDING, Call.CREATE),
    (Phase.MISSING, State.ACTIVE, Target.ACTIVE, State.ERROR, None),
    (Phase.MISSING, State.REQUESTED, Target.STOPPED, State.STOPPED, None),
    (Phase.MISSING, State.STOPPED, Target.STOPPED, State.ERROR, None),
    (Phase.MISSING, State.DELETING, Target.DELETED, State.DELETED, None),
    (Phase.PENDING, State.BUILDING, Target.ACTIVE, State.BUILDING, None),
    (Phase.PENDING, State.STARTING, Target.ACTIVE, State.STARTING, None),
    (Phase.PENDING, State.BUILDING, Target.STOPPED, State.STOPPING, None),
    (Phase.PENDING, State.BUILDING, Target.DELETED, State.DELETING, Call.DELETE),
    (Phase.RUNNING, State.BUILDING, Target.ACTIVE, State.STARTING, None),
    (Phase.RUNNING, State.ACTIVE, Target.ACTIVE, State.UNAVAILABLE, None),
    (Phase.RUNNING, State.ACTIVE, Target.STOPPED, State.STOPPING, Call.STOP),
    (Phase.READY, State.STARTING, Target.ACTIVE, State.ACTIVE, None),
    (Phase.READY, State.UNAVAILABLE, Target.ACTIVE, State.ACTIVE, None),
    (Phase.READY, State.ACTIVE, Target.STOPPED, State.STOPPING, Call.STOP),
    (Phase.STOPPING, State.BUILDING, Target.ACTIVE, State.BUILDING, None),
    (Phase.STOPPING, State.STARTING, Target.ACTIVE, State.STARTING, None),
    (Phase.STOPPING, State.STOPPING, Target.STOPPED, State.STOPPING, None),
    (Phase.STOPPING, State.STOPPING, Target.DELETED, State.DELETING, Call.DELETE),
    (Phase.STOPPED, State.STOPPED, Target.ACTIVE, State.STARTING, Call.START),
    (Phase.STOPPED, State.ACTIVE, Target.ACTIVE, State.STOPPED, None),
    (Phase.STOPPED, State.STOPPING, Target.STOPPED, State.STOPPED, None),
    (Phase.HELD, State.ACTIVE, Target.ACTIVE, State.UNAVAILABLE, None),
    (Phase.HELD, State.ACTIVE, Target.STOPPED, State.ACTIVE, None),
    (Phase.HELD, State.ACTIVE, Target.DELETED, State.DELETING, Call.DELETE),
    (Phase.FAILED, State.BUILDING, Target.ACTIVE, State.ERROR, Call.STOP),
    (Phase.FAILED, State.STOPPING, Target.STOPPED, State.ERROR, Call.STOP),
    (Phase.FAILED, State.ERROR, Target.DELETED, State.DELETING, Call.DELETE),
]


@pytest.mark.parametrize(("phase", "state", "target", "new", "call"), TABLE)
def test_the_table(phase, state, target, new, call):
    step = decide(state, target, phase)
    assert (step.state, step.call) == (new, call)


@pytest.mark.parametrize(
    ("state", "target", "phase", "more", "step"),
    [
        (State.ACTIVE, Target.ACTIVE, Phase.UNKNOWN, {}, Step(State.UNAVAILABLE, reason="provider-unavailable")),
        (State.ACTIVE, Target.ACTIVE, Phase.MISSING, {}, Step(State.ERROR, reason="vanished")),
        (State.STARTING, Target.ACTIVE, Phase.FAILED, {}, Step(State.ERROR, Call.STOP, reason="failed")),
        (State.ACTIVE, Target.ACTIVE, Phase.RUNNING, {}, Step(State.UNAVAILABLE, reason="not-answering")),
        (State.ACTIVE, Target.ACTIVE, Phase.HELD, {}, Step(State.UNAVAILABLE, reason="held")),
        (State.ACTIVE, Target.ACTIVE, Phase.STOPPING, {}, Step(State.UNAVAILABLE, reason="shut-down")),
        (State.UNAVAILABLE, Target.ACTIVE, Phase.STOPPING, {}, Step(State.UNAVAILABLE, reason="shut-down")),
        (State.STARTING, Target.ACTIVE, Phase.STOPPING, {"late": True}, Step(State.ERROR, reason="deadline")),
        (
            State.UNAVAILABLE,
            Target.ACTIVE,
            Phase.STOPPED,
            {},
            Step(State.STOPPED, target=Target.STOPPED, reason="shut-down"),
        ),
        (
            State.STARTING,
            Target.ACTIVE,
            Phase.STOPPED,
            {"last_call": Call.START},
            Step(State.ERROR, reason="ended-at-once"),
        ),
        (State.ACTIVE, Target.ACTIVE, Phase.READY, {"reboot": True}, Step(State.REBOOTING, Call.REBOOT)),
        (State.ACTIVE, Target.ACTIVE, Phase.RUNNING, {"reboot": True}, Step(State.REBOOTING, Call.REBOOT)),
        (State.STARTING, Target.ACTIVE, Phase.READY, {"reboot": True}, Step(State.ACTIVE)),
        (State.ACTIVE, Target.STOPPED, Phase.READY, {"reboot": True}, Step(State.STOPPING, Call.STOP)),
        (State.ACTIVE, Target.ACTIVE, Phase.PENDING, {"reboot": True}, Step(State.STARTING)),
        (State.STARTING, Target.ACTIVE, Phase.READY, {"late": True}, Step(State.ACTIVE)),
        (State.STOPPING, Target.STOPPED, Phase.STOPPED, {"late": True}, Step(State.STOPPED)),
        *(
            (state, target, Phase.PENDING, {"late": True}, Step(State.ERROR, Call.STOP, reason="deadline"))
            for state in sorted(MOVING)
            for target in (Target.ACTIVE, Target.STOPPED)
        ),
    ],
)
def test_a_step_whole(state, target, phase, more, step):
    assert decide(state, target, phase, **more) == step


def test_a_machine_that_ends_right_after_its_start_is_an_error():
    assert decide(State.STARTING, Target.ACTIVE, Phase.STOPPED, last_call=Call.START).reason == "ended-at-once"
    assert decide(State.STARTING, Target.ACTIVE, Phase.STOPPED, last_call=Call.CREATE).call is Call.START


# ---- random histories ----
@dataclass
class Machine:
    phase: Phase
    serving: bool = False


@dataclass
class Row:
    """What the database keeps, as far as deciding goes."""

    state: State = State.REQUESTED
    target: Target = Target.ACTIVE
    ref: int | None = None
    attempt: int = 1
    last_call: Call | None = None
    called_at: int = -1
    ready_at: int = -1
    deadline: int | None = 400
    reboot: bool = False
    missing: int = 0
    lease: int | None = None
    lease_until: int = -1


class LostAnswer(Exception):
    """The call may or may not have been heard."""


@dataclass
class World:
    """One row, one provider, two workers; time is a counter. Faults come at random until `calm`."""

    seed: int
    now: int = 0
    calm: bool = False
    row: Row = field(default_factory=Row)
    machines: dict[int, Machine] = field(default_factory=dict)
    leftovers: set[int] = field(default_factory=set)
    creates: int = 0
    reboots: int = 0
    reboots_asked: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def chance(self, probability: float) -> bool:
        return not self.calm and self.random.random() < probability

    # ---- the provider ----
    def fault(self) -> None:
        if self.chance(0.1):
            raise LostAnswer

    def name_of(self, attempt: int) -> int:
        return attempt

    def create(self, attempt: int) -> int:
        self.fault()
        if attempt not in self.machines:
            self.creates += 1
            self.machines[attempt] = Machine(Phase.PENDING)
        self.fault()
        return attempt

    def call(self, call: Call, ref: int) -> None:
        self.fault()
        machine = self.machines.get(ref)
        if call is Call.DELETE:
            self.machines.pop(ref, None)
        elif machine is None:
            raise LostAnswer
        elif call is Call.STOP:
            machine.phase, machine.serving = Phase.STOPPED, False
        elif call is Call.START or machine.phase is Phase.RUNNING:
            machine.phase, machine.serving = Phase.PENDING, False
            self.reboots += call is Call.REBOOT
        self.fault()

    def look(self, ref: int) -> Phase:
        if self.chance(0.15):
            return Phase.UNKNOWN
        return self.machines[ref].phase if ref in self.machines else Phase.MISSING

    def weather(self) -> None:
        """What happens without anybody's asking."""
        for ref, machine in list(self.machines.items()):
            if machine.phase is Phase.PENDING and self.random.random() < 0.6:
                machine.phase = Phase.RUNNING
            elif machine.phase is Phase.RUNNING and self.random.random() < 0.6:
                machine.serving = True
            if self.chance(0.01):
                del self.machines[ref]
            elif self.chance(0.02):
                machine.phase = self.random.choice([Phase.STOPPING, Phase.STOPPED, Phase.FAILED, Phase.HELD])
            elif machine.phase is Phase.STOPPING:
                machine.phase = Phase.STOPPED
            elif machine.phase is Phase.HELD and (self.calm or self.random.random() < 0.3):
                machine.phase = Phase.RUNNING

    # ---- people and gateway ----
    def people(self) -> None:
        row = self.row
        if row.target is Target.DELETED or not self.chance(0.05):
            return
        verb = self.random.choice(["start", "stop", "reboot", "retry", "delete"])
        deadline = self.now + 400
        if verb == "delete":
            row.target, row.reboot = Target.DELETED, False
        elif row.state is State.ERROR:
            row.target, row.state, row.last_call = Target.ACTIVE, State.BUILDING, None
            row.deadline, row.missing = deadline, 0
        elif verb == "start" and row.target is Target.STOPPED:
            row.target, row.deadline = Target.ACTIVE, deadline
            if row.state is State.STOPPED and row.ref is None:
                row.state = State.REQUESTED
        elif verb == "stop" and row.target is Target.ACTIVE:
            row.target, row.deadline, row.reboot = Target.STOPPED, deadline, False
        elif verb == "reboot" and row.state in SERVED and row.target is Target.ACTIVE and not row.reboot:
            row.reboot = True
            self.reboots_asked += 1

    def gateway(self) -> None:
        machine = self.machines.get(self.row.ref) if self.row.ref is not None else None
        if self.row.state in SERVED | {State.STARTING} and machine and machine.serving:
            self.row.ready_at = self.now


class Worker:
    """The rules of reconcile, one operation a turn, so that two of them interleave anywhere."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.life = self.work()

    def turn(self) -> None:
        if self.world.chance(0.03):  # killed: its lease runs out by itself
            self.life = self.work()
        next(self.life)

    def work(self):
        world = self.world
        while True:
            row = world.row
            if row.state is State.DELETED or (row.lease is not None and row.lease_until > world.now):
                yield
                continue
            token = world.random.getrandbits(60)
            row.lease, row.lease_until = token, world.now + 12
            yield from self.steps(token)
            if row.lease == token:
                row.lease = None
            yield

    def steps(self, token: int):
        world, row = self.world, self.world.row
        at, read = world.now, (row.state, row.target)
        phase = world.look(row.ref if row.ref is not None else row.attempt)
        yield
        # the conditional UPDATE finds nothing where somebody was first
        if row.lease != token or at <= row.called_at or (row.state, row.target) != read:
            return
        if self.learn(phase) and not self.replaced(phase):
            yield from self.take(phase, token)

    def learn(self, phase: Phase) -> bool:
        """Keep the ref and count what is missing; False while that is not confirmed."""
        row = self.world.row
        if phase is Phase.MISSING:
            row.missing += 1
            if row.ref is not None and row.missing < 2:
                return False
            row.ref = None
        elif phase is not Phase.UNKNOWN:
            row.missing, row.ref = 0, row.attempt
        return True

    def replaced(self, phase: Phase) -> bool:
        """A retry of a failed machine makes a new one."""
        row = self.world.row
        retried = row.state is State.BUILDING and row.last_call is None and row.target is Target.ACTIVE
        if phase is not Phase.FAILED or not retried:
            return False
        self.world.leftovers.add(row.attempt)
        row.attempt, row.ref, row.missing = row.attempt + 1, None, 0
        return True

    def take(self, phase: Phase, token: int):
        world, row = self.world, self.world.row
        if phase is Phase.RUNNING and row.ready_at > row.called_at:
            phase = Phase.READY
        step = decide(
            row.state,
            row.target,
            phase,
            last_call=row.last_call,
            under_way=row.called_at + 15 > world.now,
            reboot=row.reboot,
            late=row.deadline is not None and row.deadline < world.now,
        )
        if step.state is not row.state and step.state not in MOVING:
            row.deadline = None
        if step.state not in SERVED:
            row.reboot = False
        row.state, row.target = step.state, step.target or row.target
        if step.call is not None:
            row.last_call, row.called_at = step.call, world.now
            yield
            yield from self.ask(step.call, token)

    def ask(self, call: Call, token: int):
        world, row = self.world, self.world.row
        written = (row.state, row.target)
        try:
            if call is not Call.CREATE:
                world.call(call, row.ref if row.ref is not None else row.attempt)
                return
            ref = world.create(row.attempt)
            yield
            if row.lease == token and (row.state, row.target) == written:
                row.ref = ref
        except LostAnswer:
            if row.lease == token:
                row.last_call = None


def play(seed: int) -> World:
    world = World(seed)
    workers = [Worker(world, 1), Worker(world, 2)]
    for turn in range(700):
        world.now += 1
        world.calm = turn > 120
        world.weather()
        world.people()
        world.gateway()
        world.random.choice(workers).turn()
        if turn % 10 == 0:  # the sweep sets machines aside that are no row's, and clears what is set aside
            current = {world.row.attempt} if world.row.state is not State.DELETED else set()
            world.leftovers |= set(world.machines) - current
            for ref in list(world.leftovers - current):
                world.machines.pop(ref, None)
                world.leftovers.discard(ref)
    return world


SETTLED = {
    Target.ACTIVE: {State.ACTIVE, State.ERROR},
    Target.STOPPED: {State.STOPPED, State.ERROR},
    Target.DELETED: {State.DELETED},
}


@pytest.mark.parametrize("block", range(10))
def test_every_history_settles_and_no_machine_outlives_its_row(block):
    for seed in range(block * 1000, (block + 1) * 1000):
        world = play(seed)
        row = world.row
        assert row.state in SETTLED[row.target], f"seed {seed}: {row}"
        assert world.reboots <= world.reboots_asked, f"seed {seed}: rebooted more often than asked"
        expected = set() if row.state is State.DELETED else {row.attempt}
        assert set(world.machines) <= expected, f"seed {seed}: {world.machines} outlived {row}"
        if row.state is State.ACTIVE:
            assert world.machines[row.attempt].phase is Phase.RUNNING, f"seed {seed}"
