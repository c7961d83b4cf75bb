"""The home page and the pages for errors that Django itself finds."""

from __future__ import annotations

import sys

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from auth.redirects import opened_anew
from portal.lib.errors import BadRequest, Forbidden, NotFound, PortalError, TooLarge
from portal.problems import of, respond


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "home.html")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, TooLarge() if isinstance(exception, RequestDataTooBig) else BadRequest())


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, Forbidden())


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return respond(request, NotFound())


def server_error(request: HttpRequest) -> HttpResponse:
    """What a middleware raised; Django calls this while the exception is being handled."""
    return respond(request, of(sys.exc_info()[1]) or PortalError())


_COOKIES_WANTED = "Nothing was done: your browser sent no cookie with it. Let it keep those of this portal, then go on."


class FormTooOld(Forbidden):
    code = "form-too-old"
    message = "This form was too old to be sent."
    next_step = (
        "Somebody has signed in with this browser since it was opened, perhaps you in another tab. "
        "Nothing was done; go on with a new one."
    )

    def __init__(self, request: HttpRequest) -> None:
        no_cookie = settings.CSRF_COOKIE_NAME not in request.COOKIES
        super().__init__(next_step=_COOKIES_WANTED if no_cookie else "")
        self.context = {"anew": opened_anew(request)}


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form without the token of this browser: older than its last sign-in, or made by somebody else.

    Its page can be opened anew. What was sent is neither shown nor offered to be sent again: nobody knows whose it is.
    """
    return respond(request, FormTooOld(request))
