"""Random histories of the whole stack: people's verbs, faults of the provider, workers in each other's way.

A seed is a history. Any call of a provider may fail, be heard and not answered, or hang until its worker has lost the
lease and another has done the work; a person may press a button meanwhile. After each turn nothing that must hold is
broken; and when the faults end, all settles.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from auth.models import User
from instances import clouds, leases, services
from instances.errors import NotNow, QuotaExceeded
from instances.lifecycle import Phase, State, Target
from instances.models import Home, Instance, Leftover
from instances.providers.base import NoCapacity, ProviderUnavailable, Rejected
from portal.lib.errors import NotFound
from tests.factories.instances import QuotaFactory
from tests.instances.clockwork import assert_sound, forward, tick, work
from tests.instances.conftest import use_cloud
from tests.providers.faulty import VERBS, Faulty

#: how many in the suite, and by the long proof
FEW, MANY = 10, int(os.environ.get("HISTORIES", "300"))
TURNS = 25
QUOTA = 2
ERRORS = (
    ProviderUnavailable("503"),
    ProviderUnavailable("time-out"),
    NoCapacity("full"),
    Rejected("400"),
    OSError("?"),
)


class Chaos(Faulty):
    """Any call may fail before or after it was done, or take so long that its worker loses the lease."""

    def __init__(self, options: dict[str, Any], dice: random.Random, meanwhile: Callable[[], None]) -> None:
        super().__init__(options)
        self.dice, self.meanwhile = dice, meanwhile
        self.nested = False

    def heard(self, verb: str, ref: str, act: Callable[[], Any]) -> Any:
        if not self.broken:
            return act()
        luck = self.dice.random()
        if luck < 0.08:
            raise self.dice.choice(ERRORS)
        if luck < 0.18 and verb in VERBS:
            self.hang()
        answer = act()
        if verb in VERBS and luck > 0.92:
            raise ProviderUnavailable("connection reset")
        if verb in VERBS and luck > 0.85:
            self.hang()
        return answer

    def hang(self) -> None:
        """While this call hangs another worker takes over, and perhaps a person presses a button."""
        if not self.nested:
            self.nested = True
            forward(leases.LEASE.total_seconds() + 1)
            self.meanwhile()
            work()
            self.nested = False

    def weather(self) -> None:
        """What happens to machines without anybody's asking."""
        for ref in list(self.machines):
            luck = self.dice.random()
            if luck < 0.02:
                self.lose(ref)
            elif luck < 0.08:
                self.happen(ref, self.dice.choice([Phase.STOPPING, Phase.STOPPED, Phase.FAILED, Phase.HELD]))
            elif self.machines[ref].phase is Phase.STOPPING:
                self.happen(ref, Phase.STOPPED)
            elif self.machines[ref].phase is Phase.HELD:
                self.happen(ref, Phase.RUNNING)


class History:
    """What people and machines do by one seed, and what must hold all the while."""

    def __init__(self, seed: int, owner: User, request: Callable[[], Instance]) -> None:
        self.dice = random.Random(seed)
        self.owner, self.request = owner, request
        self.versions: dict[int, int] = {}
        self.cloud: Chaos
        self.in_doubt: list[str] = []

    def on_call(self, verb: str, ref: str) -> None:
        row = Instance.objects.filter(ref=ref).first() or next(
            (row for row in Instance.objects.all() if row.machine_name in ref), None
        )
        wished = row is not None and row.target == Target.DELETED
        if verb == "delete" and not wished and not Leftover.objects.filter(ref=ref).exists():
            self.in_doubt.append(ref)

    def press(self) -> None:
        """A person does something, possible or not."""
        verb = self.dice.choice(["request", "start", "start", "stop", "reboot", "retry", "retry", "delete"])
        rows = list(Instance.objects.alive().order_by("pk"))
        try:
            if verb == "request" or not rows:
                self.request()
            else:
                getattr(services, verb)(self.dice.choice(rows), by=self.owner)
        except (NotNow, NotFound, QuotaExceeded):
            pass

    def turn(self) -> None:
        if self.dice.random() < 0.5:
            self.press()
        self.cloud.weather()
        tick(self.cloud, self.dice.choice([1, 5, 16, 40]))
        self.check()

    def check(self) -> None:
        """One chain of transitions, a version that only rises, no more than the quota, nothing deleted in doubt."""
        for row in Instance.objects.all():
            assert_sound(row)
            assert row.version >= self.versions.get(row.pk, 0)
            self.versions[row.pk] = row.version
        assert Instance.objects.alive().count() <= QUOTA
        assert self.in_doubt == []

    def settle(self) -> None:
        self.cloud.heal()
        for ref, machine in self.cloud.machines.items():
            if machine.phase is Phase.HELD:
                self.cloud.happen(ref, Phase.RUNNING)
        tick(self.cloud, 30, rounds=3)  # what was lost in the last turn is believed at the second look
        for _ in range(20):
            tick(self.cloud, 30)
            rows = list(Instance.objects.alive())
            if all(row.state in (row.target, State.ERROR) for row in rows) and not Leftover.objects.exists():
                break
        self.check()

    def check_end(self) -> None:
        """Every instance has arrived, and the machines are those of living rows, each once."""
        rows = list(Instance.objects.all())
        assert all(row.state in (row.target, State.ERROR) for row in rows), [(r.state, r.target) for r in rows]
        own = {row.ref: row for row in rows if row.state != State.DELETED}
        assert set(self.cloud.machines) <= {f"m-{row.machine_name}" for row in own.values()}
        for row in rows:
            running = row.ref in self.cloud.machines and self.cloud.machines[row.ref].phase is Phase.RUNNING
            assert row.state not in (State.ACTIVE, State.STOPPED) or running == (row.state == State.ACTIVE)
        assert {home.key for home in Home.objects.all()} >= set(self.cloud.homes)


@pytest.mark.parametrize(
    "seed", [*range(FEW), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(FEW, MANY))]
)
def test_every_history_keeps_the_rules_and_settles(seed, provider, alice, request_one):
    QuotaFactory(limit=QUOTA)
    history = History(seed, alice, request_one)
    history.cloud = Chaos(clouds.options_of(provider), history.dice, history.press)
    history.cloud.on_call = history.on_call
    use_cloud(provider, history.cloud)
    history.request()
    for _ in range(TURNS):
        history.turn()
    history.settle()
    history.check_end()
