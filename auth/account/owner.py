"""Pages that belong to whoever asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from auth.models import User

P = ParamSpec("P")


def for_owner(
    view: Callable[Concatenate[HttpRequest, User, P], HttpResponse],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """Hand the view the signed-in user; send visitors to the sign-in page and back to where they were."""

    @wraps(view)
    def asked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        user = request.user
        if isinstance(user, User):
            return view(request, user, *args, **kwargs)
        back = request.get_full_path() if request.method in ("GET", "HEAD") else reverse("accounts:account")
        return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?{urlencode({'next': back})}")

    return asked
