"""Clouds that misbehave: small subclasses of the memory provider."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import Mount, Observation, ProviderUnavailable, Spec
from instances.providers.memory import MemoryProvider


class Never(MemoryProvider):
    """Machines that stay pending for ever."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__({**options, "phases": [Phase.PENDING]})


class FailsAt(MemoryProvider):
    """Raises `error` at `verb`, `times` times, before anything has happened."""

    def __init__(self, options: Mapping[str, Any], verb: str, error: Exception, times: int = 1) -> None:
        super().__init__(options)
        self.verb, self.error, self.times = verb, error, times

    def _maybe(self, verb: str) -> None:
        if verb == self.verb and self.times > 0:
            self.times -= 1
            raise self.error

    def create(self, spec: Spec) -> str:
        self._maybe("create")
        return super().create(spec)

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        self._maybe("start")
        super().start(ref, data)

    def stop(self, ref: str) -> None:
        self._maybe("stop")
        super().stop(ref)

    def delete(self, ref: str) -> None:
        self._maybe("delete")
        super().delete(ref)

    def look(self, ref: str) -> Observation:
        self._maybe("look")
        return super().look(ref)

    def observe(self) -> Iterable[Observation]:
        self._maybe("observe")
        return super().observe()


class LosesAnswer(MemoryProvider):
    """Makes the machine, but the first answer never arrives."""

    lost = False

    def create(self, spec: Spec) -> str:
        ref = super().create(spec)
        if not self.lost:
            self.lost = True
            raise ProviderUnavailable("connection reset")
        return ref


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
