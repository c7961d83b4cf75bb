"""My homes, for the account page of the app below."""

from __future__ import annotations

from django import template

from auth.models import User
from instances import homes

register = template.Library()


@register.simple_tag
def homes_of(user: User) -> list[homes.HomeView]:
    """The user's homes, how full they are and which instances use them."""
    return homes.of_user(user)
