"""Instruments, proposals, experiments, teams and datasets. A proposal is closed unless a trait opens it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import factory
from factory.django import DjangoModelFactory

from auth.models import Person, User
from experiments.models import Cycle, Dataset, Experiment, Instrument, Proposal, TeamMember
from experiments.pids import canonical

FACILITY = "tests.factories.auth.FacilityFactory"


def _past() -> datetime:
    return datetime.now(UTC) - timedelta(days=30)


def _future() -> datetime:
    return datetime.now(UTC) + timedelta(days=300)


class InstrumentFactory(DjangoModelFactory[Instrument]):
    class Meta:
        model = Instrument

    facility = factory.SubFactory(FACILITY)
    code = factory.Sequence(lambda n: f"BL{n}")
    name = factory.LazyAttribute(lambda instrument: f"Beamline {instrument.code}")


class CycleFactory(DjangoModelFactory[Cycle]):
    class Meta:
        model = Cycle

    facility = factory.SubFactory(FACILITY)
    name = factory.Sequence(lambda n: f"2021{n:02}")


class ProposalFactory(DjangoModelFactory[Proposal]):
    """Under embargo for 300 days; `ProposalFactory(opened=True)` is released."""

    class Meta:
        model = Proposal

    class Params:
        opened = factory.Trait(released_at=factory.LazyFunction(_past))

    facility = factory.SubFactory(FACILITY)
    identifier = factory.Sequence(lambda n: f"{900000 + n}")
    title = factory.LazyAttribute(lambda proposal: f"Study {proposal.identifier}")
    pid = factory.LazyAttribute(lambda proposal: f"10.5072/DATA-{proposal.identifier}")
    pid_norm = factory.LazyAttribute(lambda proposal: canonical(proposal.pid) if proposal.pid else None)
    embargo_until = factory.LazyFunction(_future)


class ExperimentFactory(DjangoModelFactory[Experiment]):
    class Meta:
        model = Experiment

    proposal = factory.SubFactory(ProposalFactory)
    instrument = factory.LazyAttribute(lambda run: InstrumentFactory(facility=run.proposal.facility))
    external_id = factory.Sequence(lambda n: f"run-{n}")
    title = factory.LazyAttribute(lambda run: f"Measurement {run.external_id}")
    run_number = factory.Sequence(lambda n: n + 1)
    pid = ""
    pid_norm = factory.LazyAttribute(lambda run: canonical(run.pid) if run.pid else None)
    start_at = factory.Sequence(lambda n: datetime(2021, 3, 1, tzinfo=UTC) + timedelta(hours=n))


class DatasetFactory(DjangoModelFactory[Dataset]):
    class Meta:
        model = Dataset

    experiment = factory.SubFactory(ExperimentFactory)
    path = factory.Sequence(lambda n: f"/data/raw/r{n:04d}")
    size = 1024
    file_count = 2


def join_team(user: User, *experiments: Experiment) -> Person:
    """Put the user, as a person of the first one's facility, into the experiments' teams."""
    facility = experiments[0].proposal.facility
    person, _ = Person.objects.get_or_create(
        facility=facility, user=user, defaults={"external_id": user.handle, "name": user.display_name}
    )
    for experiment in experiments:
        TeamMember.objects.get_or_create(experiment=experiment, person=person)
    return person


def leave_team(user: User, experiment: Experiment) -> None:
    TeamMember.objects.filter(experiment=experiment, person__user=user).delete()
