"""Acts that want somebody who has just shown who they are: linking, export, erasure, the admin."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Concatenate, ParamSpec
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from auth import providers
from auth.models import Session
from auth.redirects import safe_next, sent_from
from portal.lib import clock
from portal.lib.errors import Blame, NotFound, PortalError
from portal.problems import NotSignedIn, by_script, respond

#: how long showing it counts; the leeway is for the provider's clock
LASTS = timedelta(minutes=5)
LEEWAY = timedelta(seconds=60)

P = ParamSpec("P")


class SignInNotFresh(PortalError):
    code, status, blame = "sign-in-not-fresh", 403, Blame.USER
    message = "For this you have to show once more who you are."
    next_step = "Confirm it at your sign-in provider; you come back here."


def is_fresh(session: Session) -> bool:
    """Whether this session's person showed who they are a moment ago; a provider that does not say when, never did."""
    return session.authenticated_at is not None and is_recent(session.authenticated_at)


def is_recent(shown: datetime) -> bool:
    return -LEEWAY <= clock.now() - shown <= LASTS + LEEWAY


def check(request: HttpRequest) -> Session:
    """Return the session, or raise NotSignedIn or SignInNotFresh. (For API views; pages take `required`.)

    An API token is nobody in front of a screen, and never fresh.
    """
    session: Session | None = getattr(request, "auth_session", None)
    if session is None:
        raise NotSignedIn
    if not is_fresh(session):
        raise SignInNotFresh
    return session


def required(
    view: Callable[Concatenate[HttpRequest, P], HttpResponseBase],
) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
    """Let a view of a page be asked only by somebody who showed who they are at most five minutes ago.

    Others get a page whose button leads through the provider and back here.
    """

    @wraps(view)
    def asked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            check(request)
        except NotSignedIn as error:
            if by_script(request):
                return respond(request, error)
            return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?{urlencode({'next': _back_to(request)})}")
        except SignInNotFresh as error:
            return show_again(request, error)
        return view(request, *args, **kwargs)

    return asked


def show_again(request: HttpRequest, error: SignInNotFresh) -> HttpResponse:
    """Answer with a form that leads through the provider and back."""
    if by_script(request):
        return respond(request, error)
    session: Session = request.auth_session  # type: ignore[attr-defined]
    slug = session.identity.provider if session.identity else ""
    try:
        provider = providers.get(slug)
    except NotFound:  # it is no longer configured: nobody can show anything there
        return respond(request, error)
    context = {"error": error, "provider": provider, "next": safe_next(_back_to(request))}
    return render(request, "accounts/show_again.html", context, status=error.status)


def _back_to(request: HttpRequest) -> str:
    """Return the page to come back to: this one, or for what was sent the page that it was sent from."""
    if request.method in ("GET", "HEAD"):
        return request.get_full_path()
    return sent_from(request) or reverse("accounts:account")
