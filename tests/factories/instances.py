"""Rows of the instances app. The provider is the memory one; give each test its own by its name."""

from __future__ import annotations

import factory
from factory.django import DjangoModelFactory

from auth.roles import InstanceRole
from instances.lifecycle import State
from instances.models import Flavour, Home, Image, Instance, Member, Plan, Provider, Quota

GIB = 2**30


class ProviderFactory(DjangoModelFactory[Provider]):
    class Meta:
        model = Provider

    name = factory.Sequence(lambda n: f"memory-{n}")
    kind = "memory"
    facility = factory.SubFactory("tests.factories.auth.FacilityFactory")


class ImageFactory(DjangoModelFactory[Image]):
    class Meta:
        model = Image

    provider = factory.SubFactory(ProviderFactory)
    name = factory.Sequence(lambda n: f"JupyterLab {n}")
    reference = "jupyter"
    services = factory.LazyFunction(
        lambda: [{"name": "jupyter", "port": 8888, "probe": "/api/status", "required": True}]
    )


class FlavourFactory(DjangoModelFactory[Flavour]):
    class Meta:
        model = Flavour

    provider = factory.SubFactory(ProviderFactory)
    name = factory.Sequence(lambda n: f"small {n}")
    cores = 1
    memory = GIB


class PlanFactory(DjangoModelFactory[Plan]):
    class Meta:
        model = Plan

    slug = factory.Sequence(lambda n: f"plan-{n}")
    name = factory.Sequence(lambda n: f"JupyterLab small {n}")
    image = factory.SubFactory(ImageFactory)
    flavour = factory.LazyAttribute(lambda plan: FlavourFactory(provider=plan.image.provider))


class HomeFactory(DjangoModelFactory[Home]):
    class Meta:
        model = Home

    user = factory.SubFactory("tests.factories.auth.UserFactory")
    provider = factory.SubFactory(ProviderFactory)
    facility = factory.LazyAttribute(lambda home: home.provider.facility)
    key = factory.Sequence(lambda n: f"home-{n}")
    limit = 10 * GIB


class InstanceFactory(DjangoModelFactory[Instance]):
    """An instance as the row alone, with its owner as member; `state` may be given. No machine is made."""

    class Meta:
        model = Instance
        skip_postgeneration_save = True

    name = factory.Sequence(lambda n: f"analysis {n}")
    owner = factory.SubFactory("tests.factories.auth.UserFactory")
    plan = factory.SubFactory(PlanFactory)
    provider = factory.LazyAttribute(lambda instance: instance.plan.image.provider)
    facility = factory.LazyAttribute(lambda instance: instance.provider.facility)
    state = State.REQUESTED

    @factory.post_generation
    def member(self: Instance, create: bool, extracted: object, **kwargs: object) -> None:  # type: ignore[misc]
        if create:
            Member.objects.create(instance=self, user=self.owner, role=InstanceRole.OWNER)


class QuotaFactory(DjangoModelFactory[Quota]):
    class Meta:
        model = Quota

    scope = Quota.Scope.EVERYBODY
    resource = Quota.Resource.INSTANCES
    limit = 2
