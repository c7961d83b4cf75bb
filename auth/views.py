"""The sign-in page; the pages of one's own account are in auth/account/."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_safe

from auth import providers
from auth.redirects import safe_next


@require_safe
def sign_in(request: HttpRequest) -> HttpResponse:
    """A page with a button for each provider; a GET stores nothing and goes nowhere."""
    wanted = safe_next(request.GET.get("next"))
    if request.user.is_authenticated:
        return HttpResponseRedirect(wanted)
    return render(request, "accounts/sign_in.html", {"providers": providers.every(), "next": wanted})
