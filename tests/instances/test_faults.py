"""Each verb with each fault of a provider: where it ends by the table of docs/develop/lifecycle.md.

Real services, reconcile and sweep on PostgreSQL. A cell: bring an instance to where the verb is possible, break the
cloud, ask for the verb; look two minutes later, look past the deadline, heal the cloud, and look again. In no cell is
a machine lost, doubled or deleted in doubt, and nobody else's is ever touched.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from auth.models import User
from instances import clouds, services
from instances.lifecycle import Phase, State, Target
from instances.models import Home, Instance, Leftover, Provider
from instances.providers.base import ImageMissing, NoCapacity, ProviderUnavailable, Rejected
from instances.spec import spec_of
from tests.instances.clockwork import assert_sound, tick
from tests.instances.conftest import use_cloud
from tests.providers import faulty
from tests.providers.faulty import VERBS, Faulty

Options = dict[str, Any]
ALWAYS = 10**6


def fails(verb: str, error: Exception) -> Callable[[Options, str], Faulty]:
    """Fail at this verb; at the call that the asked verb leads to when it is empty."""
    return lambda options, call: faulty.FailsAt(options, verb or call, error, ALWAYS)


def lies(lie: Callable[[Any], Any]) -> Callable[[Options, str], Faulty]:
    return lambda options, call: faulty.Lies(options, lie)


FAULTS: dict[str, Callable[[Options, str], Faulty]] = {
    "Slow": lambda options, call: faulty.Slow(options),
    "Never": lambda options, call: faulty.Never(options),
    "FailsAt call, ProviderUnavailable": fails("", ProviderUnavailable("503")),
    "FailsAt call, NoCapacity": fails("", NoCapacity("full")),
    "FailsAt call, Rejected": fails("", Rejected("400")),
    "FailsAt call, ImageMissing": fails("", ImageMissing("jupyter")),
    "FailsAt call, anything else": fails("", RuntimeError("a bug")),
    "FailsAt look, ProviderUnavailable": fails("look", ProviderUnavailable("503")),
    "FailsAt look, Rejected": fails("look", Rejected("403")),
    "FailsAt look, anything else": fails("look", KeyError("status")),
    "FailsAt list, ProviderUnavailable": fails("observe", ProviderUnavailable("503")),
    "FailsAt list, anything else": fails("observe", ValueError("not JSON")),
    "LosesAnswer": lambda options, call: faulty.LosesAnswer(options, ALWAYS),
    "Vanishes": lambda options, call: faulty.Vanishes(options),
    "Lies: foreign tag": lies(faulty.foreign),
    "Lies: half a list": lambda options, call: faulty.HalfAList(options),
    "Lies: missing": lies(faulty.absent),
    "Lies: pending": lies(faulty.in_phase(Phase.PENDING)),
    "Lies: running": lies(faulty.in_phase(Phase.RUNNING)),
    "Lies: stopping": lies(faulty.in_phase(Phase.STOPPING)),
    "Lies: stopped": lies(faulty.in_phase(Phase.STOPPED)),
    "Lies: held": lies(faulty.in_phase(Phase.HELD)),
    "Lies: failed": lies(faulty.in_phase(Phase.FAILED)),
    "Lies: no such phase": lies(faulty.in_phase("melted")),
}

#: "replace" is the retry of a machine that failed
CALLS = {
    "create": "create",
    "start": "start",
    "stop": "stop",
    "reboot": "reboot",
    "delete": "delete",
    "retry": "create",
    "replace": "create",
}

TABLE = """
create
Slow                              | building                         | active                           | active
Never                             | building                         | error deadline                   | retry: active
FailsAt call, ProviderUnavailable | building provider-unavailable    | error provider-unavailable       | retry: active
FailsAt call, NoCapacity          | building no-capacity             | error no-capacity                | retry: active
FailsAt call, Rejected            | error rejected                   | error rejected                   | retry: active
FailsAt call, ImageMissing        | error image-missing              | error image-missing              | retry: active
FailsAt call, anything else       | building provider-unavailable    | error provider-unavailable       | retry: active
FailsAt look, ProviderUnavailable | requested provider-unavailable   | requested provider-unavailable   | active
FailsAt look, Rejected            | requested provider-unavailable   | requested provider-unavailable   | active
FailsAt look, anything else       | requested provider-unavailable   | requested provider-unavailable   | active
FailsAt list, ProviderUnavailable | active                           | unavailable provider-unavailable | active
FailsAt list, anything else       | active                           | unavailable provider-unavailable | active
LosesAnswer                       | active                           | active                           | active
Vanishes                          | building                         | error deadline                   | retry: active
Lies: foreign tag                 | building provider-unavailable    | building provider-unavailable    | active
Lies: half a list                 | active                           | active                           | active
Lies: missing                     | building                         | error deadline                   | retry: active
Lies: pending                     | building                         | error deadline                   | retry: active
Lies: running                     | active                           | active                           | active
Lies: stopping                    | building                         | error deadline                   | retry: active
Lies: stopped                     | error ended-at-once              | error ended-at-once              | retry: active
Lies: held                        | unavailable held                 | unavailable held                 | active
Lies: failed                      | error failed                     | error failed                     | retry: active
Lies: no such phase               | building provider-unavailable    | building provider-unavailable    | active
start
Slow                              | starting                         | active                           | active
Never                             | starting                         | error deadline                   | retry: active
FailsAt call, ProviderUnavailable | starting provider-unavailable    | error provider-unavailable       | retry: active
FailsAt call, NoCapacity          | starting no-capacity             | error no-capacity                | retry: active
FailsAt call, Rejected            | error rejected                   | error rejected                   | retry: active
FailsAt call, ImageMissing        | error image-missing              | error image-missing              | retry: active
FailsAt call, anything else       | starting provider-unavailable    | error provider-unavailable       | retry: active
FailsAt look, ProviderUnavailable | active                           | active                           | active
FailsAt look, Rejected            | active                           | active                           | active
FailsAt look, anything else       | active                           | active                           | active
FailsAt list, ProviderUnavailable | active                           | unavailable provider-unavailable | active
FailsAt list, anything else       | active                           | unavailable provider-unavailable | active
LosesAnswer                       | active                           | active                           | active
Vanishes                          | error vanished                   | error vanished                   | retry: active
Lies: foreign tag                 | stopped provider-unavailable     | stopped provider-unavailable     | active
Lies: half a list                 | active                           | active                           | active
Lies: missing                     | error vanished                   | error vanished                   | retry: active
Lies: pending                     | starting                         | error deadline                   | retry: active
Lies: running                     | starting                         | error deadline                   | retry: active
Lies: stopping                    | starting                         | error deadline                   | retry: active
Lies: stopped                     | error ended-at-once              | error ended-at-once              | retry: active
Lies: held                        | unavailable held                 | unavailable held                 | start: active
Lies: failed                      | error failed                     | error failed                     | retry: active
Lies: no such phase               | stopped provider-unavailable     | stopped provider-unavailable     | active
stop
Slow                              | stopping                         | stopped                          | stopped
Never                             | stopping                         | error deadline                   | retry: stopped
FailsAt call, ProviderUnavailable | stopping provider-unavailable    | error provider-unavailable       | retry: stopped
FailsAt call, NoCapacity          | stopping no-capacity             | error no-capacity                | retry: stopped
FailsAt call, Rejected            | error rejected                   | error rejected                   | retry: stopped
FailsAt call, ImageMissing        | error image-missing              | error image-missing              | retry: stopped
FailsAt call, anything else       | stopping provider-unavailable    | error provider-unavailable       | retry: stopped
FailsAt look, ProviderUnavailable | stopped                          | stopped                          | stopped
FailsAt look, Rejected            | stopped                          | stopped                          | stopped
FailsAt look, anything else       | stopped                          | stopped                          | stopped
FailsAt list, ProviderUnavailable | stopped                          | stopped                          | stopped
FailsAt list, anything else       | stopped                          | stopped                          | stopped
LosesAnswer                       | stopped                          | stopped                          | stopped
Vanishes                          | error vanished                   | error vanished                   | retry: active
Lies: foreign tag                 | active provider-unavailable      | active provider-unavailable      | stopped
Lies: half a list                 | stopped                          | stopped                          | stopped
Lies: missing                     | error vanished                   | error vanished                   | retry: active
Lies: pending                     | stopping                         | error deadline                   | retry: stopped
Lies: running                     | stopping                         | error deadline                   | retry: stopped
Lies: stopping                    | stopping                         | error deadline                   | retry: stopped
Lies: stopped                     | stopped                          | stopped                          | stopped
Lies: held                        | active                           | active                           | stopped
Lies: failed                      | error failed                     | error failed                     | retry: active
Lies: no such phase               | active provider-unavailable      | active provider-unavailable      | stopped
reboot
Slow                              | starting                         | active                           | active
Never                             | starting                         | error deadline                   | retry: active
FailsAt call, ProviderUnavailable | active                           | active                           | active
FailsAt call, NoCapacity          | active                           | active                           | active
FailsAt call, Rejected            | error rejected                   | error rejected                   | retry: active
FailsAt call, ImageMissing        | error image-missing              | error image-missing              | retry: active
FailsAt call, anything else       | active                           | active                           | active
FailsAt look, ProviderUnavailable | active                           | active                           | active
FailsAt look, Rejected            | active                           | active                           | active
FailsAt look, anything else       | active                           | active                           | active
FailsAt list, ProviderUnavailable | active                           | unavailable provider-unavailable | active
FailsAt list, anything else       | active                           | unavailable provider-unavailable | active
LosesAnswer                       | active                           | active                           | active
Vanishes                          | error vanished                   | error vanished                   | retry: active
Lies: foreign tag                 | unavailable provider-unavailable | unavailable provider-unavailable | active
Lies: half a list                 | active                           | active                           | active
Lies: missing                     | error vanished                   | error vanished                   | retry: active
Lies: pending                     | active                           | active                           | active
Lies: running                     | active                           | active                           | active
Lies: stopping                    | unavailable shut-down            | unavailable shut-down            | active
Lies: stopped                     | stopped shut-down                | stopped shut-down                | stopped
Lies: held                        | unavailable held                 | unavailable held                 | active
Lies: failed                      | error failed                     | error failed                     | retry: active
Lies: no such phase               | unavailable provider-unavailable | unavailable provider-unavailable | active
delete
Slow                              | deleting                         | deleted                          | deleted
Never                             | deleting                         | deleting                         | deleted
FailsAt call, ProviderUnavailable | deleting provider-unavailable    | deleting provider-unavailable    | deleted
FailsAt call, NoCapacity          | deleting no-capacity             | deleting no-capacity             | deleted
FailsAt call, Rejected            | deleting rejected                | deleting rejected                | deleted
FailsAt call, ImageMissing        | deleting image-missing           | deleting image-missing           | deleted
FailsAt call, anything else       | deleting provider-unavailable    | deleting provider-unavailable    | deleted
FailsAt look, ProviderUnavailable | deleting provider-unavailable    | deleting provider-unavailable    | deleted
FailsAt look, Rejected            | deleting provider-unavailable    | deleting provider-unavailable    | deleted
FailsAt look, anything else       | deleting provider-unavailable    | deleting provider-unavailable    | deleted
FailsAt list, ProviderUnavailable | deleted                          | deleted                          | deleted
FailsAt list, anything else       | deleted                          | deleted                          | deleted
LosesAnswer                       | deleting provider-unavailable    | deleted                          | deleted
Vanishes                          | deleted                          | deleted                          | deleted
Lies: foreign tag                 | active provider-unavailable      | active provider-unavailable      | deleted
Lies: half a list                 | deleted                          | deleted                          | deleted
Lies: missing                     | deleted                          | deleted                          | deleted
Lies: pending                     | deleted                          | deleted                          | deleted
Lies: running                     | deleted                          | deleted                          | deleted
Lies: stopping                    | deleted                          | deleted                          | deleted
Lies: stopped                     | deleted                          | deleted                          | deleted
Lies: held                        | deleted                          | deleted                          | deleted
Lies: failed                      | deleted                          | deleted                          | deleted
Lies: no such phase               | active provider-unavailable      | active provider-unavailable      | deleted
retry
Slow                              | building                         | active                           | active
Never                             | building                         | error deadline                   | retry: active
FailsAt call, ProviderUnavailable | building provider-unavailable    | error provider-unavailable       | retry: active
FailsAt call, NoCapacity          | building no-capacity             | error no-capacity                | retry: active
FailsAt call, Rejected            | error rejected                   | error rejected                   | retry: active
FailsAt call, ImageMissing        | error image-missing              | error image-missing              | retry: active
FailsAt call, anything else       | building provider-unavailable    | error provider-unavailable       | retry: active
FailsAt look, ProviderUnavailable | building provider-unavailable    | building provider-unavailable    | active
FailsAt look, Rejected            | building provider-unavailable    | building provider-unavailable    | active
FailsAt look, anything else       | building provider-unavailable    | building provider-unavailable    | active
FailsAt list, ProviderUnavailable | active                           | unavailable provider-unavailable | active
FailsAt list, anything else       | active                           | unavailable provider-unavailable | active
LosesAnswer                       | active                           | active                           | active
Vanishes                          | building                         | error deadline                   | retry: active
Lies: foreign tag                 | building provider-unavailable    | building provider-unavailable    | active
Lies: half a list                 | active                           | active                           | active
Lies: missing                     | building                         | error deadline                   | retry: active
Lies: pending                     | building                         | error deadline                   | retry: active
Lies: running                     | active                           | active                           | active
Lies: stopping                    | building                         | error deadline                   | retry: active
Lies: stopped                     | error ended-at-once              | error ended-at-once              | retry: active
Lies: held                        | unavailable held                 | unavailable held                 | active
Lies: failed                      | error failed                     | error failed                     | retry: active
Lies: no such phase               | building provider-unavailable    | building provider-unavailable    | active
replace
Slow                              | building disk-broken             | active                           | active
Never                             | building disk-broken             | error deadline                   | retry: active
FailsAt call, ProviderUnavailable | building provider-unavailable    | error provider-unavailable       | retry: active
FailsAt call, NoCapacity          | building no-capacity             | error no-capacity                | retry: active
FailsAt call, Rejected            | error rejected                   | error rejected                   | retry: active
FailsAt call, ImageMissing        | error image-missing              | error image-missing              | retry: active
FailsAt call, anything else       | building provider-unavailable    | error provider-unavailable       | retry: active
FailsAt look, ProviderUnavailable | building provider-unavailable    | building provider-unavailable    | active
FailsAt look, Rejected            | building provider-unavailable    | building provider-unavailable    | active
FailsAt look, anything else       | building provider-unavailable    | building provider-unavailable    | active
FailsAt list, ProviderUnavailable | active                           | unavailable provider-unavailable | active
FailsAt list, anything else       | active                           | unavailable provider-unavailable | active
LosesAnswer                       | active                           | active                           | active
Vanishes                          | building disk-broken             | error deadline                   | retry: active
Lies: foreign tag                 | building provider-unavailable    | building provider-unavailable    | active
Lies: half a list                 | active                           | active                           | active
Lies: missing                     | building                         | error deadline                   | retry: active
Lies: pending                     | building disk-broken             | error disk-broken                | retry: active
Lies: running                     | starting disk-broken             | error disk-broken                | retry: active
Lies: stopping                    | building disk-broken             | error disk-broken                | retry: active
Lies: stopped                     | error disk-broken                | error disk-broken                | retry: active
Lies: held                        | unavailable held                 | unavailable held                 | retry: active
Lies: failed                      | error failed                     | error failed                     | retry: active
Lies: no such phase               | building provider-unavailable    | building provider-unavailable    | active
"""


@dataclass(frozen=True)
class Cell:
    """A row of the table; `end` is what the instance is once healed, after the button that it names, if any."""

    verb: str
    fault: str
    during: str
    late: str
    end: str

    @property
    def name(self) -> str:
        return f"{self.verb} - {self.fault}"


def cells() -> list[Cell]:
    verb, found = "", []
    for line in filter(None, TABLE.splitlines()):
        if "|" not in line:
            verb = line
        else:
            found.append(Cell(verb, *(word.strip() for word in line.split("|"))))
    return found


@dataclass
class Scene:
    """One instance under a fault, somebody else's beside it, and machines that are none of ours."""

    cloud: Faulty
    owner: User
    request: Callable[..., Instance]
    bystander: Instance
    strangers: set[str]
    instance: Instance | None = None
    forbidden: list[str] = field(default_factory=list)

    def watch(self, verb: str, ref: str) -> None:
        """Note a call that nobody may make, at the moment it is made."""
        if verb in VERBS and self.instance is not None and self.instance.uid.hex not in ref:
            self.forbidden.append(f"{verb} {ref}: not the one that was asked for")
        wished = Instance.objects.filter(pk=self.instance and self.instance.pk, target=Target.DELETED).exists()
        if verb == "delete" and not wished and not Leftover.objects.filter(ref=ref).exists():
            self.forbidden.append(f"delete {ref}: nobody asked for it")

    def ask(self, verb: str) -> None:
        """Bring an instance to where the verb is possible, break the cloud, ask."""
        if verb != "create":
            self.prepare(verb)
        tick(self.cloud, 1, rounds=2)
        self.cloud.on_call = self.watch
        self.cloud.broken = True
        if verb == "create":
            self.concern(self.request())
        else:
            self.press("retry" if verb == "replace" else verb)

    def prepare(self, verb: str) -> None:
        images = dict(self.cloud.known_images)
        if verb == "retry":
            tick(self.cloud, 1)
            self.cloud.known_images.clear()
        self.concern(self.request())
        tick(self.cloud, 1, rounds=2)
        if verb == "start":
            self.press("stop")
        if verb == "replace":
            self.cloud.happen(self.fresh().ref, Phase.FAILED, reason="disk-broken")
            tick(self.cloud, 5)
        self.cloud.known_images = images

    def concern(self, instance: Instance) -> None:
        self.instance, self.cloud.only = instance, instance.uid.hex

    def fresh(self) -> Instance:
        assert self.instance is not None
        self.instance.refresh_from_db()
        return self.instance

    def press(self, verb: str) -> None:
        getattr(services, verb)(self.fresh(), by=self.owner)

    def said(self) -> str:
        """The state, with the reason where there is one."""
        instance = self.fresh()
        return f"{instance.state} {instance.reason}".strip()

    def pass_time(self, rounds: int) -> str:
        for _ in range(rounds):
            tick(self.cloud, 50)
            assert len(self.machines()) <= 1, "doubled"
        return self.said()

    def machines(self) -> list[str]:
        """The instance's machines, apart from those that are set aside to be deleted."""
        aside = set(Leftover.objects.values_list("ref", flat=True))
        return [ref for ref in self.cloud.machines if self.fresh().uid.hex in ref and ref not in aside]

    def settle(self) -> str:
        """Let time pass until nothing moves any more and nothing is left over."""
        for _ in range(8):
            said = self.pass_time(1)
            if self.fresh().state in (self.fresh().target, State.ERROR) and not Leftover.objects.exists():
                return said
        return self.said()

    def end(self) -> str:
        """Heal the cloud, and press the button that the page offers where the instance does not get there itself."""
        self.cloud.heal()
        said = self.settle()
        button = "retry" if self.fresh().state == State.ERROR else "start" if said == "stopped shut-down" else ""
        if not button:
            return said
        self.press(button)
        return f"{button}: {self.settle()}"


@pytest.fixture
def scene(provider: Provider, alice: User, bob: User, request_one: Callable[..., Instance]) -> Callable[[Cell], Scene]:
    def make(cell: Cell) -> Scene:
        cloud = FAULTS[cell.fault](clouds.options_of(provider), CALLS[cell.verb])
        use_cloud(provider, cloud)
        cloud.broken = False
        bystander = request_one(user=bob)
        ours = spec_of(bystander)
        unknown = str(uuid.uuid4())
        strangers = {
            cloud.create(replace(ours, name="of-another-portal", instance=unknown, deployment="another-portal")),
            cloud.create(replace(ours, name="that-no-row-knows", instance=unknown)),
        }
        return Scene(cloud, alice, request_one, bystander, strangers)

    return make


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.name)
def test_each_verb_with_each_fault_ends_where_the_table_says(cell, scene):
    it = scene(cell)
    it.ask(cell.verb)
    said = Cell(cell.verb, cell.fault, it.pass_time(2), it.pass_time(3), it.end())
    assert said == cell
    assert it.forbidden == []
    assert len(it.machines()) == (0 if cell.verb == "delete" else 1), "lost, or left over"
    assert not Leftover.objects.exists()
    assert it.strangers <= set(it.cloud.machines)
    it.bystander.refresh_from_db()
    assert (it.bystander.state, it.bystander.attempt) == ("active", 1)
    assert_sound(it.fresh())
    assert Home.objects.get(pk=it.fresh().home_id).key in it.cloud.homes


def test_the_table_is_whole():
    assert {(cell.verb, cell.fault) for cell in cells()} == {(verb, fault) for verb in CALLS for fault in FAULTS}
