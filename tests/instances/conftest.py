"""A cloud in memory, an owner with an experiment, and ways to make it misbehave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from auth.models import Facility, User
from experiments.models import Experiment
from instances import clouds, reconcile, services, transitions
from instances.models import Instance, Plan, Provider
from instances.providers import registry
from instances.providers.memory import MemoryProvider
from tests.factories.auth import FacilityFactory, UserFactory
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import PlanFactory, ProviderFactory


@pytest.fixture
def facility(db: None) -> Facility:
    return FacilityFactory()


@pytest.fixture
def alice(db: None) -> User:
    return UserFactory(handle="alice")


@pytest.fixture
def bob(db: None) -> User:
    return UserFactory(handle="bob")


@pytest.fixture
def provider(facility: Facility) -> Provider:
    return ProviderFactory(facility=facility)


@pytest.fixture
def cloud(provider: Provider) -> MemoryProvider:
    found = clouds.cloud_of(provider)
    assert isinstance(found, MemoryProvider)
    return found


@pytest.fixture
def plan(provider: Provider) -> Plan:
    return PlanFactory(image__provider=provider)


@pytest.fixture
def experiment(facility: Facility) -> Experiment:
    return ExperimentFactory(pid="", proposal=ProposalFactory(facility=facility, opened=True))


@pytest.fixture
def request_one(alice: User, plan: Plan, experiment: Experiment) -> Callable[..., Instance]:
    def request(**more: Any) -> Instance:
        wanted: dict[str, Any] = {"plan": plan, "experiments": [experiment], "name": "analysis"} | more
        wanted["experiments"] = [chosen.uid for chosen in wanted["experiments"]]
        return services.request_instance(wanted.pop("user", alice), **wanted)

    return request


@pytest.fixture
def instance(request_one: Callable[..., Instance], cloud: MemoryProvider) -> Instance:
    """A fresh request; no machine yet."""
    return request_one()


@pytest.fixture
def active(instance: Instance) -> Instance:
    """An instance whose machine runs and whose services answer."""
    return bring_up(instance)


def settle(instance: Instance, rounds: int = 8) -> Instance:
    """Reconcile as a worker would, without waiting for the clock."""
    for _ in range(rounds):
        reconcile.run(instance.pk)
    instance.refresh_from_db()
    return instance


def bring_up(instance: Instance) -> Instance:
    settle(instance)
    assert transitions.mark_ready(instance.uid) is transitions.Marked.DONE
    return settle(instance, 1)


def use_cloud(provider: Provider, cloud: MemoryProvider) -> MemoryProvider:
    """Have a provider's row answered by this object."""
    from django.conf import settings

    registry.put(provider.kind, clouds.options_of(provider), settings.PROVIDER_KINDS, cloud)
    return cloud


def history(instance: Instance) -> list[str]:
    """The states an instance went through."""
    return [row.new for row in instance.transitions.all()]
