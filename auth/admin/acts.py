"""An act of the administration: a page that says what it does and asks what it needs, and a service that does it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Model, Q
from django.http.response import HttpResponseBase
from django.utils.crypto import constant_time_compare, salted_hmac

from auth import roles
from auth.models import Facility, User
from auth.reach import Reach
from auth.roles import Held, Role

WHOLE, FOR_GOOD = "the whole portal", "for good"
#: how many of those whom a dry run foresees are named
MOST_NAMED = 200


@dataclass(frozen=True)
class Asked:
    """Who wants it done, with which roles, to what (None: to none of those there are)."""

    by: User
    held: Sequence[Held]
    row: Any = None

    def reach(self, action: str) -> Reach:
        return roles.reach(self.held, action)


@dataclass(frozen=True)
class ShownOnce:
    """A secret that is shown in this answer and stored nowhere."""

    text: str
    says: str


@dataclass(frozen=True)
class Foreseen:
    """What an act would do: a line for each, and the sum in a sentence."""

    says: str
    lines: list[tuple[str, str]]


class ActForm(forms.Form):
    """What an act needs to know; nothing, as it is here."""

    required_css_class = "required"
    error_css_class = "errors"

    def __init__(self, *args: Any, asked: Asked, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked = asked
        self.prepare()

    def prepare(self) -> None:
        """Fit choices to who asks and about what."""


@dataclass(frozen=True)
class Act:
    """`do` gets who asks and what the form says; it returns a sentence, a secret, or an answer of its own."""

    name: str
    label: str
    #: what a role must allow (auth.roles.PLATFORM)
    action: str
    do: Callable[..., str | ShownOnce | HttpResponseBase]
    says: str = ""
    form: type[ActForm] = ActForm
    #: done to one row, or (False) to none that there is
    to_row: bool = True
    fits: Callable[[Any], bool] = lambda row: True
    foresee: Callable[..., Foreseen] | None = None

    def is_open(self, held: Sequence[Held], row: Model | None) -> bool:
        may = roles.reach(held, self.action) != frozenset()
        return may and self.to_row is (row is not None) and (row is None or self.fits(row))


def seal(values: dict[str, Any]) -> str:
    """Mark what was foreseen, so that nothing else is done under its name."""
    told = repr(sorted((name, str(getattr(value, "pk", value))) for name, value in values.items()))
    return salted_hmac("auth.admin.foreseen", told, algorithm="sha256").hexdigest()


def is_sealed(values: dict[str, Any], seen: str) -> bool:
    return constant_time_compare(seal(values), seen)


# ---- what several forms ask ----
def named_user(text: str) -> User:
    """Return the user with exactly this handle or id."""
    exact = Q(handle=text)
    with suppress(ValueError):
        exact |= Q(uid=uuid.UUID(text))
    user = User.objects.filter(exact, erased_at=None).first()
    if user is None:
        raise ValidationError("Nobody has this handle or id. It stands on the person's account page.")
    return user


class UserField(forms.CharField):
    """Somebody, by their exact handle or id: people are not searched for here."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=36, label="Handle or id of the user", **kwargs)

    def clean(self, value: Any) -> Any:
        return named_user(super().clean(value))


class FacilityField(forms.ModelChoiceField):
    """A facility where the person who asks may do something; empty is the whole portal, for those who may there."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Facility.objects.all(), required=False, empty_label=WHOLE, **kwargs)

    def fit(self, reach: Reach) -> None:
        if reach is not None:
            self.queryset = Facility.objects.filter(pk__in=reach)
            self.required, self.empty_label = True, None


class RoleForm(ActForm):
    """A role at a facility."""

    ROLES: ClassVar = [(role.value, role.value) for role in Role]

    role = forms.ChoiceField(choices=ROLES)
    facility = FacilityField()

    def prepare(self) -> None:
        field = self.fields["facility"]
        assert isinstance(field, FacilityField)  # noqa: S101
        field.fit(self.asked.reach("grant-roles"))


class UntilField(forms.SplitDateTimeField):
    """A day and a time of day, by the browser's own means."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.SplitDateTimeWidget()
        days = forms.DateInput(attrs={"type": "date", "aria-label": "day"})
        times = forms.TimeInput(attrs={"type": "time", "aria-label": "time of day"})
        widget.widgets = [days, times]  # type: ignore[assignment]
        super().__init__(widget=widget, **kwargs)
