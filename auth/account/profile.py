"""The first page of the account: who one is here, what one may, and what one has been told."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template import TemplateDoesNotExist
from django.template.loader import select_template
from django.views.decorators.http import require_safe

from auth import notices, roles
from auth.account.owner import for_owner
from auth.models import User


@require_safe
@for_owner
def show(request: HttpRequest, user: User) -> HttpResponse:
    return render(
        request,
        "accounts/account.html",
        {
            "notices": notices.of(user),
            "grants": roles.held_by(user),
            "persons": user.persons.select_related("facility").order_by("facility__name"),
            "homes_template": _homes_template(),
        },
    )


def _homes_template() -> str:
    """The part of the page that shows homes belongs to the app above; without it the page has none."""
    try:
        select_template(["instances/homes_on_account.html"])
    except TemplateDoesNotExist:
        return ""
    return "instances/homes_on_account.html"
