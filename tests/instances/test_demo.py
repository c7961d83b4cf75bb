"""What the demo offers, loaded as often as one likes."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command

from instances.models import Flavour, Plan, Provider, Quota


def test_the_demo_has_three_plans_and_a_quota_of_two(db):
    for _ in range(2):
        call_command("demo_instances", verbosity=0)
    plans = Plan.objects.select_related("flavour", "image__provider__facility")
    sizes = {plan.slug: (int(plan.flavour.cores), plan.flavour.memory // 2**30) for plan in plans}
    assert sizes == {"jupyter-small": (1, 1), "jupyter-medium": (2, 2), "jupyter-large": (2, 4)}
    assert {plan.image.provider.facility.slug for plan in plans} == {"xfel"}
    assert Provider.objects.get().kind == "local"
    assert Quota.objects.get().limit == 2
    assert Plan.objects.order_by("position").first().slug == "jupyter-small"


def test_what_an_operator_changed_stays(db):
    call_command("demo_instances", verbosity=0)
    Quota.objects.update(limit=7)
    Plan.objects.filter(slug="jupyter-large").update(enabled=False)
    call_command("demo_instances", verbosity=0)
    assert Quota.objects.get().limit == 7
    assert not Plan.objects.get(slug="jupyter-large").enabled
    assert Flavour.objects.count() == 3


def test_outside_the_demo_nothing_is_loaded(db, settings):
    settings.DEMO = False
    with pytest.raises(CommandError):
        call_command("demo_instances")
    assert not Plan.objects.exists()
