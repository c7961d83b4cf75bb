"""A worker, a gateway and the passing of time, by hand: the database's clock runs on, so its rows are put back."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

from django.db.models import F, Model

from instances import jobs, leases, reconcile, sweep, transitions
from instances.lifecycle import SERVED, Phase, State
from instances.models import Instance, Job, Leftover, Provider
from instances.providers.memory import MemoryProvider

TIMES: dict[type[Model], tuple[str, ...]] = {
    Instance: (
        "state_changed_at",
        "called_at",
        "deadline_at",
        "reboot_asked_at",
        "leased_until",
        "due_at",
        "ready_at",
        "silent_since",
    ),
    Job: ("due_at",),
    Leftover: ("due_at",),
}


def forward(seconds: float) -> None:
    """Let time pass for all that has a deadline, a lease or a turn."""
    for model, names in TIMES.items():
        model._default_manager.update(**{name: F(name) - timedelta(seconds=seconds) for name in names})


def work() -> None:
    """Do what a worker's ticker does in a round: sweep, due instances, leftovers."""
    for row in Provider.objects.filter(enabled=True):
        if jobs.claim(f"sweep:{row.pk}", sweep.EVERY):
            sweep.sweep(row)
    for pk in list(leases.due().values_list("pk", flat=True)):
        reconcile.run(pk)
    sweep.clear_leftovers()


def listen(cloud: MemoryProvider) -> None:
    """Do what a gateway does: probe what starts, report on what is served. It sees the machine, whatever is told."""
    for instance in Instance.objects.filter(state__in=SERVED | {State.STARTING}):
        machine = cloud.machines.get(instance.ref)
        answers = machine is not None and machine.phase is Phase.RUNNING
        if instance.state in SERVED:
            transitions.mark_reported({instance.uid: {"jupyter": answers}})
        elif answers:
            transitions.mark_ready(instance.uid, version=instance.version)


def tick(cloud: MemoryProvider, seconds: float = 16, rounds: int = 1) -> None:
    """Let so many rounds of worker and gateway pass, `seconds` apart: longer than a call may be under way."""
    for _ in range(rounds):
        forward(seconds)
        work()
        listen(cloud)


def assert_sound(instance: Instance) -> None:
    """Its history is one unbroken chain that ends where the row is."""
    rows = list(instance.transitions.order_by("id"))
    for before, after in pairwise(rows):
        assert after.old == before.new, f"{before} is followed by {after}"
    assert (rows[-1].new, rows[-1].target) == (instance.state, instance.target)
