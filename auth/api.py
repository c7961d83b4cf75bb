"""How the API knows who asks, and what a token may do. (Imported by DRF's settings: no views in here.)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.encoding import force_str
from rest_framework import authentication, exceptions
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from auth import limits, policies, tokens
from auth.models import ApiToken, User
from portal import audit
from portal.audit import AuditEvent

if TYPE_CHECKING:
    from rest_framework.views import APIView


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer bpt_…`, our own hashed tokens alone; a token in a query string is not looked at.

    An address that shows too many bad ones is told to wait; a good one always counts, as it cannot be guessed and
    others behind the same address are not to suffer.
    """

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, text = force_str(authentication.get_authorization_header(request), errors="replace").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = tokens.find(text.strip())
        if token is None:
            limits.check("token_refused")
            audit.record("token_refused", result=AuditEvent.Result.REFUSED, reason="bad-token")
            raise exceptions.AuthenticationFailed
        if policies.unaccepted_rules(token.user) is not None:  # sessions are asked by auth.policies.AcceptedPolicies
            raise policies.RulesNotAccepted
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionAuthentication(authentication.SessionAuthentication):
    """The signed-in page's own calls: session cookie and, for unsafe methods, the CSRF token."""


class HasScope(BasePermission):
    """A token does only what its scopes say: `scope = "instances"` on the view asks `instances:read` or `:write`.

    A view that names no scope is closed to tokens. People's own sessions have no scopes and pass.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, ApiToken):
            return True
        act = "read" if request.method in SAFE_METHODS else "write"
        return f"{getattr(view, 'scope', None)}:{act}" in request.auth.scopes


class NoToken(BasePermission):
    """For acts of people alone: a token does not make tokens, or what is lost with one would never be over."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return not isinstance(request.auth, ApiToken)
