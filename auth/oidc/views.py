"""Begin a sign-in and take the provider's answer.

Both ends are pages that move on by themselves (`Refresh: 0`) and carry a link, not redirects: the policy `form-action`
governs the whole chain of redirects of a form, and a proxy's chain leads over hosts that nobody can list.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import structlog
from django.contrib.sessions.backends.base import UpdateError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from mozilla_django_oidc.utils import generate_code_challenge
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from auth import providers, services
from auth.backends import PortalOIDCBackend
from auth.claims import clean
from auth.models import Identity, LoginState
from auth.oidc import discovery, states
from auth.oidc.errors import LoginError, SignInDenied, SignInRefused, SignInStale
from auth.oidc.proof import SignInProof
from auth.providers import Provider
from auth.redirects import safe_next
from auth.sessions import SessionStore
from portal import audit
from portal.audit import AuditEvent
from portal.lib.errors import PortalError
from portal.lib.hashing import same
from portal.problems import respond

log = structlog.get_logger("auth.oidc")


class LoginView(OIDCAuthenticationRequestView):
    """POST: note an attempt and go to the provider. GET: only a page with a button."""

    http_method_names = ["get", "post"]

    def __init__(self, **kwargs: Any) -> None:
        # past the base class, which reads one provider from global settings here
        super(OIDCAuthenticationRequestView, self).__init__(**kwargs)

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        context = {"providers": [providers.get(slug)], "next": safe_next(request.GET.get("next"))}
        return render(request, "accounts/sign_in.html", context)

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        provider = providers.get(slug)
        try:
            endpoint = discovery.of(provider).authorization_endpoint
        except LoginError as error:
            note_failure(provider, error)
            raise
        store = session_of(request)
        begun = states.begin(store.ensure_row(), slug, safe_next(request.POST.get("next")))
        query = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": provider.redirect_uri,
            "scope": " ".join(provider.scopes),
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": generate_code_challenge(begun.verifier, "S256"),
            "code_challenge_method": "S256",
        }
        url = endpoint + ("&" if "?" in endpoint else "?") + urlencode(query)
        return move_on(request, url, f"Going to {provider.title}")


class CallbackView(OIDCAuthenticationCallbackView):
    """The provider's answer, once, from the browser that began."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Keep code and state, which are in this page's address, out of the next request's Referer."""
        try:
            response: HttpResponse = super().dispatch(request, *args, **kwargs)
        except PortalError as error:
            response = respond(request, error)
        # not `no-referrer`: forms of an error page would then say `Origin: null`
        response.headers["Referrer-Policy"] = "strict-origin"
        return response

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        provider = providers.get(slug)
        try:
            attempt, code = self._answer(request, provider)
            identity, proof = PortalOIDCBackend(provider).identify(attempt, code)
            self._open(request, identity, proof)
        except LoginError as error:
            note_failure(provider, error)
            raise
        return move_on(request, safe_next(attempt.next), "You are signed in")

    @staticmethod
    def _answer(request: HttpRequest, provider: Provider) -> tuple[LoginState, str]:
        if any(len(values) > 1 for _, values in request.GET.lists()):
            raise SignInRefused("repeated-parameter")
        attempt = states.consume(session_of(request).live_row(), provider.slug, request.GET.get("state", ""))
        _check_sender(provider, request.GET.get("iss"))
        error = clean(request.GET.get("error"), 60)
        if error:
            said = clean(request.GET.get("error_description"))
            sentence = f"{provider.title} did not sign you in" + (f": “{said}”" if said else ".")
            raise SignInDenied(f"provider-says {error}", sentence)
        code = request.GET.get("code", "")
        if not code:
            raise SignInRefused("no-code")
        return attempt, code

    @staticmethod
    def _open(request: HttpRequest, identity: Identity, proof: SignInProof) -> None:
        try:
            services.open_session(request, identity, proof)
        except UpdateError:
            raise SignInStale("session-ended-meanwhile") from None


def session_of(request: HttpRequest) -> SessionStore:
    store = request.session
    assert isinstance(store, SessionStore)  # noqa: S101  (settings.SESSION_ENGINE)
    return store


def move_on(request: HttpRequest, url: str, title: str) -> HttpResponse:
    """Answer 200 with a page that goes on by itself; its link works where that is switched off."""
    response = render(request, "accounts/move_on.html", {"url": url, "title": title})
    response.headers["Refresh"] = f"0; url={url}"
    return response


def note_failure(provider: Provider, error: LoginError) -> None:
    log.warning("sign-in failed", provider=provider.slug, reason=error.reason)
    audit.record(
        "login_failed", about=("provider", provider.slug), result=AuditEvent.Result.REFUSED, reason=error.reason
    )


def _check_sender(provider: Provider, issuer: str | None) -> None:
    """Refuse an answer of another provider before its code gets anywhere (RFC 9207)."""
    if issuer is None:
        if discovery.of(provider).sends_iss:
            raise SignInRefused("no-issuer-in-answer")
    elif not same(issuer, provider.issuer):
        raise SignInRefused("answer-of-another-issuer")
