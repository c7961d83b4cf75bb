"""Headers on every answer, a request id, the fetch-metadata gate, and errors turned into pages or problem+json."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase

from portal import audit
from portal.lib import hsts, postgres
from portal.lib.errors import BadRequest, Forbidden, MethodNotAllowed
from portal.problems import of, respond

log = structlog.get_logger("portal.request")

Handler = Callable[[HttpRequest], HttpResponseBase]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[0-9a-f]{32}")


class SecurityHeaders:
    """The security headers that are no CSP, on every answer, errors included."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("X-Frame-Options", "DENY")
        response.headers.setdefault("Referrer-Policy", settings.SECURE_REFERRER_POLICY)
        response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault(
            "Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"
        )
        if settings.SECURE_HSTS_SECONDS:
            response.headers.setdefault("Strict-Transport-Security", hsts.value(settings.SECURE_HSTS_SECONDS))
        if not request.path.startswith("/static/"):
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response


class RequestId:
    """Give each request an id (the gateway's, when it sent one), log one line, and bind it to audit rows."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.request_id = request_id  # type: ignore[attr-defined]
        token = audit.set_origin(request, request_id)
        began = time.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                response = self.get_response(request)
            finally:
                audit.origin.reset(token)
                postgres.hand_back()  # before the answer is sent: somebody who reads slowly holds none
            response.headers["X-Request-Id"] = request_id
            log.info(
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                ms=round((time.monotonic() - began) * 1000, 1),
            )
        return response


class Utf8Only:
    """Refuse bodies that call themselves anything but UTF-8: Django takes the name of every Python codec, and those
    that are no text encoding (`rot13`, `zlib`) fail, or unpack, deep in a parser."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        charset = (request.content_params or {}).get("charset", "utf-8")
        if charset.lower() not in ("utf-8", "utf8"):
            return respond(request, BadRequest("The portal reads UTF-8 only.", next_step="Send it as UTF-8."))
        return self.get_response(request)


class FetchMetadataGate:
    """Refuse unsafe requests that are not same-origin, before CSRF.

    W3C Fetch Metadata; `Sec-Fetch-Mode` never counts (JupyterHub CVE-2026-40864).
    Without `Sec-Fetch-Site`: exactly our Origin; without both it is no browser, and only a bearer token (never a
    cookie) or the CSRF check can let it do anything.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method not in _SAFE and not self.same_origin(request):
            return respond(
                request,
                Forbidden("This request came from another site.", next_step="Open the portal and do it there."),
            )
        return self.get_response(request)

    @staticmethod
    def same_origin(request: HttpRequest) -> bool:
        site = request.headers.get("Sec-Fetch-Site")
        source = request.headers.get("Origin")
        if site is not None:
            return site == "same-origin" and source in (None, settings.PORTAL_URL)
        if source is not None:
            return source == settings.PORTAL_URL
        return True


class Problems:
    """Answer what a view raised, where people can be told, and a method that it does not know: a page for them,
    problem+json for programs."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if isinstance(response, HttpResponseNotAllowed):  # Django's own, which is empty
            allowed = response.headers["Allow"]
            response = respond(request, MethodNotAllowed())
            response.headers["Allow"] = allowed
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        known = of(error)
        return respond(request, known) if known is not None else None
