"""Signing out: the session here ends first, then its owner is led to the provider to sign out there too (OpenID
Connect RP-Initiated Logout 1.0). What the provider says of its own accord is in `backchannel`."""

from __future__ import annotations

from urllib.parse import urlencode

import structlog
from django.conf import settings
from django.contrib.auth import logout as forget_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from auth import providers, services
from auth.models import Session
from auth.oidc import discovery, kept
from auth.oidc.errors import LoginError
from auth.oidc.views import move_on
from auth.providers import Provider
from portal.lib.errors import NotFound
from portal.lib.hashing import random_secret, same

log = structlog.get_logger("auth.oidc")

#: what the browser keeps while it is at the provider, to know its answer by
STATE_COOKIE = "__Host-signed-out"
STATE_SECONDS = 600


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End the session here first; then go and end the provider's, where the provider has an address for that."""
    session: Session | None = request.auth_session  # type: ignore[attr-defined]
    id_token = kept.unseal(session.id_token) if session else ""
    if session is not None:
        services.end_session(session)
    forget_login(request)
    provider = _provider_of(session)
    endpoint = _end_session_endpoint(provider) if provider else ""
    if provider is None or not endpoint:
        return _signed_out(request, provider)
    state = random_secret()
    response = move_on(request, _at_provider(provider, endpoint, state, id_token), "You are signed out here")
    response.set_cookie(STATE_COOKIE, state, max_age=STATE_SECONDS, secure=True, httponly=True, samesite="Lax")
    return response


@require_safe
def signed_out(request: HttpRequest) -> HttpResponse:
    """Where the provider sends people back to. What it says changes nothing: they were signed out before they went."""
    if request.user.is_authenticated:  # somebody else's link, or signed in again since
        return HttpResponseRedirect(reverse("home"))
    sent, kept_here = request.GET.get("state", ""), request.COOKIES.get(STATE_COOKIE, "")
    response = _signed_out(request, None, there_too=bool(kept_here) and same(sent, kept_here))
    response.delete_cookie(STATE_COOKIE, samesite="Lax")
    return response


def _signed_out(request: HttpRequest, provider: Provider | None, *, there_too: bool = False) -> HttpResponse:
    known = [provider] if provider else providers.every()
    return render(request, "accounts/signed_out.html", {"providers": known, "there_too": there_too})


def _provider_of(session: Session | None) -> Provider | None:
    if session is None or session.identity is None:
        return None
    try:
        return providers.get(session.identity.provider)
    except NotFound:  # taken out of the configuration since
        return None


def _end_session_endpoint(provider: Provider) -> str:
    if not provider.end_session:
        return ""
    try:
        return discovery.of(provider).end_session_endpoint
    except LoginError as error:  # nobody stays signed in here because a provider is away
        log.warning("provider not told of a logout", provider=provider.slug, reason=error.reason)
        return ""


def _at_provider(provider: Provider, endpoint: str, state: str, id_token: str) -> str:
    query = {
        "client_id": provider.client_id,
        "post_logout_redirect_uri": settings.PORTAL_URL + reverse("accounts:signed-out"),
        "state": state,
    }
    if id_token:
        query["id_token_hint"] = id_token
    return endpoint + ("&" if "?" in endpoint else "?") + urlencode(query)
