"""Open sessions and API tokens."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet

from auth import access, services, tokens
from auth.admin.acts import Act, Asked
from auth.admin.pages import Page
from auth.admin.site import site
from auth.models import ApiToken, Session
from auth.reach import Reach, users_within


def _end(asked: Asked) -> str:
    services.end_session_of(asked.row.user, asked.row, by=asked.by)
    return "The session is ended."


def _revoke(asked: Asked) -> str:
    tokens.revoke(asked.row.user, asked.row.prefix, by=asked.by)
    return "The token is revoked."


@admin.register(Session, site=site)
class SessionPage(Page):
    """Those that are open; what they hold is nobody's to see."""

    section, action, key, key_kind = "Sign-ins", "end-any-session", "uid", "uuid"
    list_display = ("user", "identity", "created_at", "last_used_at")
    list_select_related = ("user", "identity")
    search_fields = ("=user__handle",)
    search_help_text = "The whole handle."
    ordering = ("-last_used_at",)
    shown = ("user", "identity", "provider_acr", "authenticated_at", "created_at", "last_used_at", "user_agent")
    acts = (Act("end", "End", "end-any-session", _end, "Whoever uses it is signed out at once."),)

    def within(self, reach: Reach) -> QuerySet[Session]:
        open_ones = access.live_sessions().filter(user__in=users_within(reach))
        return open_ones.select_related("user", "identity").defer("data", "id_token", "key_hash")


@admin.register(ApiToken, site=site)
class TokenPage(Page):
    section, action, key, key_kind = "Sign-ins", "end-any-session", "prefix", "slug"
    list_display = ("prefix", "user", "name", "created_at", "expires_at", "last_used_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("=prefix", "=user__handle")
    search_help_text = "The whole prefix (between bpt_ and the next _) or handle."
    ordering = ("-created_at",)
    shown = ("prefix", "user", "name", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
    acts = (
        Act("revoke", "Revoke", "end-any-session", _revoke, "Programs that use it get 401 at once.",
            fits=lambda token: token.revoked_at is None),
    )  # fmt: skip

    def within(self, reach: Reach) -> QuerySet[ApiToken]:
        return ApiToken.objects.filter(user__in=users_within(reach)).select_related("user").defer("secret_hash")
