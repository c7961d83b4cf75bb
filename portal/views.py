"""The home page and the pages for errors that Django itself finds."""

from __future__ import annotations

import sys

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

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


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The form is older than the session, or came from elsewhere."""
    return respond(
        request,
        Forbidden("This form is no longer valid.", next_step="Go back, reload the page and send it again."),
    )
