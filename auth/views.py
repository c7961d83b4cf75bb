"""Sign-in page and one's own account."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template import TemplateDoesNotExist
from django.template.loader import select_template
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from auth import access, providers, roles, services
from auth.models import Session, User
from auth.redirects import safe_next
from portal.lib.errors import NotFound


@require_safe
def sign_in(request: HttpRequest) -> HttpResponse:
    """A page with a button for each provider; a GET stores nothing and goes nowhere."""
    wanted = safe_next(request.GET.get("next"))
    if request.user.is_authenticated:
        return HttpResponseRedirect(wanted)
    return render(request, "accounts/sign_in.html", {"providers": providers.every(), "next": wanted})


@require_safe
def account(request: HttpRequest) -> HttpResponse:
    """Who I am to the portal, where I am signed in, and my homes."""
    if not request.user.is_authenticated:
        return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?next={reverse('accounts:account')}")
    user = signed_in(request)
    return render(
        request,
        "accounts/account.html",
        {
            "identities": user.identities.order_by("first_login_at"),
            "grants": roles.held_by(user),
            "persons": user.persons.select_related("facility").order_by("facility__name"),
            "sessions": access.live_sessions().filter(user=user).order_by("-last_used_at"),
            "homes_template": _homes_template(),
        },
    )


@require_POST
def end_session(request: HttpRequest, uid: uuid.UUID) -> HttpResponse:
    """End one of my own sessions, this one or another browser's."""
    user = request.user
    session = Session.objects.filter(uid=uid, user=user).first() if isinstance(user, User) else None
    if session is None:
        raise NotFound
    services.end_session(session)
    return HttpResponseRedirect(reverse("accounts:account"))


def signed_in(request: HttpRequest) -> User:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (asked only behind is_authenticated)
    return user


def _homes_template() -> str:
    """The part of the page that shows homes belongs to the app above; without it the page has none."""
    try:
        select_template(["instances/homes_on_account.html"])
    except TemplateDoesNotExist:
        return ""
    return "instances/homes_on_account.html"
