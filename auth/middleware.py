"""Ties a signed-in request to its session row; the engine has already refused dead sessions and suspended users."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from auth import access
from auth.models import Session
from auth.sessions import store_of
from portal import audit
from portal.lib.errors import BadRequest
from portal.problems import by_script, respond

Handler = Callable[[HttpRequest], HttpResponseBase]


class SessionPolicy:
    """Set `request.auth_session`, note the use, change a key that is due, and name the identity in audit rows."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.auth_session = None  # type: ignore[attr-defined]
        times = _times_sent(request, settings.SESSION_COOKIE_NAME)
        if times > 1:
            return respond(
                request,
                BadRequest(
                    "Your browser sent two sessions at once.", next_step="Close the browser and open the portal again."
                ),
            )
        if times and request.user.is_authenticated:
            session: Session | None = request.session.live_row()  # type: ignore[attr-defined]
            request.auth_session = session  # type: ignore[attr-defined]
            if session is not None:
                if getattr(session, "unused_lately", True) and not _refreshes_itself(request):
                    access.touch(session.pk)
                if _opens_a_page(request):
                    store_of(request).renew_key_if_due()
                name_identity(session)
        return self.get_response(request)


def _refreshes_itself(request: HttpRequest) -> bool:
    """An open page asks for its fragments again and again; that is nobody at work."""
    return request.method == "GET" and "HX-Request" in request.headers


def _opens_a_page(request: HttpRequest) -> bool:
    """What a page asks for while it is open comes several at once, and would lose to the first with a new key."""
    opens = request.headers.get("Sec-Fetch-Dest", "document") == "document" and not by_script(request)
    return request.method == "GET" and opens


def name_identity(session: Session) -> None:
    """Let the acts of this request carry the identity that is behind them."""
    where = audit.origin.get()
    audit.origin.set(audit.Origin(where.address, where.request_id, str(session.identity or "")))


def _times_sent(request: HttpRequest, name: str) -> int:
    pairs = request.META.get("HTTP_COOKIE", "").split(";")
    return sum(1 for pair in pairs if pair.split("=", 1)[0].strip() == name)
