"""Errors as RFC 9457 problem+json for programs and as pages for people, with the same code and request id."""

from __future__ import annotations

from typing import Any

import structlog
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from rest_framework import exceptions as drf
from rest_framework.response import Response

from portal.lib.errors import BadRequest, Blame, DatabaseAway, Forbidden, NotFound, PortalError, TooMany

log = structlog.get_logger("portal.problems")

#: codes whose pages offer another way on than home
_OF_THEIR_OWN = frozenset({"bad-pid", "form-too-old"})


def document(error: PortalError, request_id: str, **more: Any) -> dict[str, Any]:
    """Return the problem document; `type` is the anchor of the code in the errors reference."""
    return {
        "type": f"urn:beamport:error:{error.code}",
        "title": error.message,
        "status": error.status,
        "code": error.code,
        "detail": error.next_step,
        "request_id": request_id,
        **more,
    }


def of(error: BaseException | None) -> PortalError | None:
    """Return what people are told of an exception that nobody raised for them; None when that is nothing."""
    if isinstance(error, PortalError):
        return error
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("database away", error=str(error)[:200])
        return DatabaseAway()
    return None


def by_script(request: HttpRequest) -> bool:
    """Whether a program asks, or a script of a page; a redirect or a form would lead nobody anywhere."""
    return (
        request.path.startswith("/api/")
        or "HX-Request" in request.headers
        or request.headers.get("Sec-Fetch-Dest") == "empty"
    )


def respond(request: HttpRequest, error: PortalError) -> HttpResponse:
    """Answer a request with an error: JSON for programs and scripts, a page (or what htmx makes of it) for people."""
    if isinstance(error, DatabaseAway):
        return _try_again(request, error)
    if error.blame is not Blame.USER:
        log.error("problem", code=error.code, detail=str(error), exc_info=error.__cause__)
    return _answer(request, error)


def _try_again(request: HttpRequest, error: DatabaseAway) -> HttpResponse:
    """A page that was asked for comes back by itself; what was sent is never sent again by us."""
    safe = request.method in ("GET", "HEAD")
    if safe:
        error.next_step = "Running instances go on. This page tries again by itself."
    else:
        error.next_step = "Look whether it was done before you send it again. Running instances go on."
    response = _answer(request, error)
    response.headers["Retry-After"] = str(error.retry_after)
    if safe:
        response.headers["Refresh"] = str(error.retry_after)
    return response


def _answer(request: HttpRequest, error: PortalError) -> HttpResponse:
    response = _document_or_page(request, error)
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _document_or_page(request: HttpRequest, error: PortalError) -> HttpResponse:
    request_id = getattr(request, "request_id", "")
    if by_script(request) and "HX-Request" not in request.headers:
        return JsonResponse(document(error, request_id), status=error.status, content_type="application/problem+json")
    context = {"error": error, "request_id": request_id, **getattr(error, "context", {})}
    return render(
        request,
        f"errors/{error.code}.html" if error.code in _OF_THEIR_OWN else "errors/error.html",
        context,
        status=error.status,
    )


_DRF: dict[type[Exception], type[PortalError]] = {
    Http404: NotFound,
    drf.NotFound: NotFound,
    PermissionDenied: Forbidden,
    drf.PermissionDenied: Forbidden,
    drf.ParseError: BadRequest,
}


class NotSignedIn(PortalError):
    code, status, blame = "not-signed-in", 401, Blame.USER
    message = "You are not signed in."
    next_step = "Sign in, or send a valid token."


class Invalid(BadRequest):
    code = "invalid"
    message = "Some fields are not right."
    next_step = "Correct the fields named under `errors`."


def drf_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Turn what a DRF view raised into problem+json (settings.REST_FRAMEWORK EXCEPTION_HANDLER)."""
    request = context["request"]
    request_id = getattr(request._request, "request_id", "")
    more: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(error, PortalError):
        problem = error
        if isinstance(error, TooMany):
            headers["Retry-After"] = str(error.retry_after)
        if problem.blame is not Blame.USER:
            log.error("problem", code=problem.code, detail=str(problem), exc_info=error.__cause__)
    elif isinstance(error, drf.ValidationError):
        problem = Invalid()
        more["errors"] = error.detail
    elif isinstance(error, drf.NotAuthenticated | drf.AuthenticationFailed):
        problem = NotSignedIn()
        headers["WWW-Authenticate"] = "Bearer"
    elif type(error) in _DRF:
        problem = _DRF[type(error)]()
    elif isinstance(error, drf.APIException):
        problem = BadRequest(str(error.detail))
        problem.status = error.status_code
        problem.code = str(getattr(error, "default_code", "bad-request")).replace("_", "-")
        wait = getattr(error, "wait", None)
        if wait:
            headers["Retry-After"] = str(int(wait))
    else:
        return None
    return Response(
        document(problem, request_id, **more),
        status=problem.status,
        headers=headers,
        content_type="application/problem+json",
    )
