"""The page on which somebody who has signed in redeems the link that their user office sent."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from auth import persons
from auth.models import User


@require_http_methods(["GET", "POST"])
def redeem(request: HttpRequest) -> HttpResponse:
    """GET: a form, and nothing happens (mail scanners follow links). POST: the code from the link is taken, once."""
    user, here = request.user, {"next": request.path}
    if request.method == "GET":
        return render(request, "accounts/person_link.html", here)
    if not isinstance(user, User):
        return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?{urlencode(here)}")
    person = persons.redeem(user, request.POST.get("code", ""))
    return render(request, "accounts/person_link.html", {"person": person})
