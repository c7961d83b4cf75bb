"""Who gets into the administration: by network, role and second factor. Everybody else finds nothing there."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from auth import roles
from auth.admin.networks import is_near
from auth.claims import clean
from auth.models import Session, User
from auth.roles import Held
from portal import audit
from portal.audit import AuditEvent
from portal.lib.errors import Blame, NotFound, PortalError
from portal.problems import NotSignedIn


class SecondFactorNeeded(PortalError):
    code, status, blame = "second-factor-needed", 403, Blame.USER
    message = "The administration opens only after a sign-in with a second factor."
    next_step = "Sign out, then sign in with an account and a provider that ask you for one."


def check(request: HttpRequest) -> None:
    """Let in who may open the administration; NotFound, NotSignedIn or SecondFactorNeeded for all others."""
    if not is_near(request.META.get("REMOTE_ADDR", "")):
        raise refusal(request, "network")
    session: Session | None = getattr(request, "auth_session", None)
    if session is None:
        raise NotSignedIn
    if roles.reach(held(request), "open-admin") == frozenset():
        raise refusal(request, "role")
    if settings.ADMIN_ACR and session.provider_acr not in settings.ADMIN_ACR:
        raise SecondFactorNeeded


def held(request: HttpRequest) -> list[Held]:
    """Return the roles of who asks; looked up once a request."""
    found: list[Held] | None = getattr(request, "held_roles", None)
    if found is None:
        found = request.held_roles = roles.held_by(request.user)  # type: ignore[attr-defined]
    return found


def who(request: HttpRequest) -> User:
    user: Any = request.user
    assert isinstance(user, User)  # noqa: S101  (asked only behind `check`)
    return user


def refusal(request: HttpRequest, why: str) -> NotFound:
    """Return the one answer to who finds nothing; what was sent to be done is noted."""
    if request.method not in ("GET", "HEAD"):
        actor = request.user if isinstance(request.user, User) else None
        about, result = ("page", clean(request.path, 200)), AuditEvent.Result.REFUSED
        audit.record("admin_refused", actor=actor, about=about, result=result, reason=why)
    return NotFound()
