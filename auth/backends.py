"""What Django asks: who signs in (only ever through a provider), and who a session belongs to."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from mozilla_django_oidc.auth import OIDCAuthenticationBackend

from auth import access
from auth.models import User


class PortalOIDCBackend(OIDCAuthenticationBackend):
    """mozilla-django-oidc's backend without its global settings; auth.oidc verifies, this answers Django."""

    def __init__(self) -> None:
        # the base class reads one provider from global settings here; ours come from auth.providers
        self.UserModel = User

    def authenticate(self, request: HttpRequest | None, **kwargs: Any) -> None:
        """Nobody signs in by calling this: sign-in needs a provider's answer (auth.oidc.login)."""
        return

    def get_user(self, user_id: object) -> User | None:
        return access.active_user(user_id)
