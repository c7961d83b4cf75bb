"""My homes, for the account page of the app below."""

from __future__ import annotations

from typing import Any

from django import template

from auth.models import User
from instances.views import homes_of as _homes_of

register = template.Library()


@register.simple_tag
def homes_of(user: User) -> Any:
    """The user's homes with `in_use`; see instances.views.homes_of."""
    return _homes_of(user)
