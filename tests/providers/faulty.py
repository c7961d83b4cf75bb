"""Clouds that misbehave until they are healed: small subclasses of the memory provider.

Every call passes `heard`, which a fault overrides; `ledger` says which machines really came and went.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import Mount, Observation, ProviderUnavailable, Spec
from instances.providers.memory import Machine, MemoryProvider

VERBS = ("create", "start", "stop", "reboot", "delete")
MISSING = Observation(ref="", name="", instance="", phase=Phase.MISSING)

Act = Callable[[], Any]


@dataclass
class Ledger:
    """What really came and went, whatever anybody was told."""

    made: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class Machines(dict[str, Machine]):
    """The machines, with a ledger of them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()

    def __setitem__(self, ref: str, machine: Machine) -> None:
        self.ledger.made.append(ref)
        super().__setitem__(ref, machine)

    def __delitem__(self, ref: str) -> None:
        self.ledger.removed.append(ref)
        super().__delitem__(ref)

    def pop(self, ref: str, *default: Any) -> Any:
        if ref in self:
            self.ledger.removed.append(ref)
        return super().pop(ref, *default)


class Faulty(MemoryProvider):
    """Does what it should; faults override `heard`. `only`: part of the refs that a fault concerns (empty: all).

    `on_call` is told each verb before anything comes of it, for what a test forbids.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.machines: Machines = Machines()
        self.broken = True
        self.only = ""
        self.on_call: Callable[[str, str], None] = lambda verb, ref: None

    @property
    def ledger(self) -> Ledger:
        return self.machines.ledger

    def heal(self) -> None:
        self.broken = False

    def concerns(self, ref: str) -> bool:
        """Whether the fault strikes a call about this machine; a list is about all of them."""
        return self.broken and (not ref or self.only in ref)

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        """What comes of a call; `act` does it."""
        return act()

    # ---- the contract, each call by way of `heard` ----
    def create(self, spec: Spec) -> str:
        self.on_call("create", spec.name)
        return str(self.heard("create", spec.name, lambda: MemoryProvider.create(self, spec)))

    def delete(self, ref: str) -> None:
        self.on_call("delete", ref)
        self.heard("delete", ref, lambda: MemoryProvider.delete(self, ref))

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        self.on_call("start", ref)
        self.heard("start", ref, lambda: MemoryProvider.start(self, ref, data))

    def stop(self, ref: str) -> None:
        self.on_call("stop", ref)
        self.heard("stop", ref, lambda: MemoryProvider.stop(self, ref))

    def reboot(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        self.on_call("reboot", ref)
        self.heard("reboot", ref, lambda: MemoryProvider.reboot(self, ref, data))

    def look(self, ref: str) -> Observation:
        seen: Observation = self.heard("look", ref, lambda: MemoryProvider.look(self, ref))
        return seen

    def observe(self) -> Iterable[Observation]:
        seen: list[Observation] = self.heard("observe", "", lambda: MemoryProvider.observe(self))
        return seen

    def console(self, ref: str) -> str:
        return str(self.heard("console", ref, lambda: MemoryProvider.console(self, ref)))


class FailsAt(Faulty):
    """Raises `error` at `verb`, `times` times, before anything has happened."""

    def __init__(self, options: Mapping[str, Any], verb: str, error: Exception, times: int = 1) -> None:
        super().__init__(options)
        self.verb, self.error, self.times = verb, error, times

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        if verb == self.verb and self.times > 0 and self.concerns(ref):
            self.times -= 1
            raise self.error
        return act()


class LosesAnswer(Faulty):
    """Does what it is asked for, but the answer never arrives, `times` times."""

    def __init__(self, options: Mapping[str, Any], times: int = 1) -> None:
        super().__init__(options)
        self.times = times

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        answer = act()
        if verb in VERBS and self.times > 0 and self.concerns(ref):
            self.times -= 1
            raise ProviderUnavailable("connection reset")
        return answer


class Slow(Faulty):
    """Takes every call at once; it shows only when the machine was looked at so many times."""

    looks = 4

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._later: dict[str, tuple[int, Act]] = {}

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        if verb in ("look", "observe"):
            self._pass(ref)
            return act()
        if verb not in VERBS or not self.concerns(ref):
            return act()
        if verb == "create":
            ref = act()
            act = lambda: self._run(ref)  # noqa: E731
        if verb in ("create", "start", "reboot"):
            self.machines[ref].script.clear()
            self.machines[ref].phase = Phase.PENDING
        self._later.setdefault(ref, (self.looks, act))
        return ref

    def _run(self, ref: str) -> None:
        self.machines[ref].phase = Phase.RUNNING

    def _pass(self, ref: str) -> None:
        for name, (left, act) in list(self._later.items()):
            if ref in ("", name) and left > 1:
                self._later[name] = (left - 1, act)
            elif ref in ("", name):
                self._finish(name, act)

    def _finish(self, ref: str, act: Act) -> None:
        del self._later[ref]
        if ref in self.machines:
            if self.machines[ref].phase is Phase.PENDING:
                self.machines[ref].phase = Phase.STOPPED  # what a start begins with
            act()

    def heal(self) -> None:
        super().heal()
        for ref, (_, act) in list(self._later.items()):
            self._finish(ref, act)


class Never(Slow):
    """Takes every call, and nothing ever comes of it."""

    looks = 10**9


class Vanishes(Faulty):
    """The machine is gone right after a call that was taken."""

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        answer = act()
        if verb in VERBS and verb != "delete" and self.concerns(ref):
            self.machines.pop(answer or ref, None)
        return answer


class Lies(Faulty):
    """Says of machines what is not so: `lie` turns a true observation into what is told (None: nothing)."""

    def __init__(self, options: Mapping[str, Any], lie: Callable[[Observation], Observation | None]) -> None:
        super().__init__(options)
        self.lie = lie

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        answer = act()
        if verb == "look" and self.concerns(ref):
            return self.lie(answer) or MISSING
        if verb == "observe" and self.broken:
            told = [self.lie(seen) if self.only in seen.ref else seen for seen in answer]
            return [seen for seen in told if seen is not None]
        return answer


class HalfAList(Faulty):
    """Lists some of the machines only; asked for one of the others it gives a true answer."""

    def heard(self, verb: str, ref: str, act: Act) -> Any:
        answer = act()
        return [seen for seen in answer if self.only not in seen.ref] if verb == "observe" and self.broken else answer


def foreign(seen: Observation) -> Observation:
    """Every machine there is, as if it were another portal's."""
    return (
        seen if seen.phase is Phase.MISSING else replace(seen, ref="m-of-another-portal", deployment="another-portal")
    )


def absent(seen: Observation) -> Observation | None:
    """As if it were not there: in no list, and "no such machine" to a look."""
    return None


def in_phase(phase: Any) -> Callable[[Observation], Observation]:
    """Every machine there is, in this phase."""
    return lambda seen: seen if seen.phase is Phase.MISSING else replace(seen, phase=phase)


class EndsAtOnce(MemoryProvider):
    """Machines that stop right after each start, with words in their log."""

    def _begin(self, machine: Any) -> None:
        super()._begin(machine)
        machine.log.append("Traceback: no module named jupyterlab")
        machine.script.clear()
        machine.phase = Phase.STOPPED


class BadHost(MemoryProvider):
    """The first machine fails for the host's sake; later ones are fine."""

    def create(self, spec: Spec) -> str:
        ref = super().create(spec)
        if spec.attempt == 1:
            self.happen(ref, Phase.FAILED, reason="host-failed")
        return ref


class Gated(MemoryProvider):
    """`create` waits at a gate, so that a test can do something meanwhile."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.reached, self.gate = threading.Event(), threading.Event()

    def create(self, spec: Spec) -> str:
        self.reached.set()
        self.gate.wait(20)
        return super().create(spec)


class Nonsense(MemoryProvider):
    """Answers what nobody can read."""

    def look(self, ref: str) -> Observation:
        raise ValueError("not JSON")
