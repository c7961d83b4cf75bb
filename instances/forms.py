"""What somebody chooses for a new instance."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from django import forms
from django.db.models import Q

from auth.models import User
from experiments.models import Experiment
from instances.models import Plan


def plans_offered(facilities: Iterable[int] = ()) -> Any:
    """The plans one may choose, the preset one first; with facilities, those whose machines reach their data."""
    return _plans(facilities).filter(image__provider__draining_at__isnull=True)


def plans_closed(facilities: Iterable[int] = ()) -> Any:
    """The plans one could choose, were nothing drained: people are told why they are not there."""
    return _plans(facilities).filter(image__provider__draining_at__isnull=False).select_related("image__provider")


def _plans(facilities: Iterable[int]) -> Any:
    plans = Plan.objects.filter(enabled=True, image__provider__enabled=True)
    if facilities:
        near = Q(image__provider__facility__isnull=True) | Q(image__provider__facility__in=facilities)
        plans = plans.filter(near)
    return plans.select_related("flavour", "image").order_by("position", "name")


class NewInstanceForm(forms.Form):
    """Experiments by their public ids among what the user may see, a plan by its slug, a name, and the key that makes
    a double click one request."""

    experiments: Any = forms.ModelMultipleChoiceField(
        Experiment.objects.none(),
        to_field_name="uid",
        required=False,
        error_messages={"invalid_choice": "One of the experiments is not open to you any more. Choose again."},
    )
    plan: Any = forms.ModelChoiceField(
        Plan.objects.none(),
        to_field_name="slug",
        empty_label=None,
        error_messages={
            "required": "Choose a plan.",
            "invalid_choice": "This plan is no longer offered. Choose another one.",
        },
    )
    name = forms.CharField(
        max_length=100,
        error_messages={
            "required": "Give the instance a name.",
            "max_length": "A name has at most 100 characters.",
        },
    )
    idempotency_key = forms.RegexField(r"\A[0-9a-f]{32}\Z", strip=False)

    def __init__(self, *args: Any, user: User, needs_experiment: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.needs_experiment = needs_experiment
        self.fields["experiments"].queryset = Experiment.objects.visible_to(user).select_related("proposal")  # type: ignore[attr-defined]
        self.fields["plan"].queryset = plans_offered()  # type: ignore[attr-defined]

    def clean_experiments(self) -> Any:
        chosen = self.cleaned_data["experiments"]
        if self.needs_experiment and not chosen:
            raise forms.ValidationError("Choose at least one experiment.")
        return chosen


def fresh_key() -> str:
    """A key for one rendering of the form."""
    return uuid.uuid4().hex
