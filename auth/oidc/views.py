"""Begin a sign-in and take the provider's answer: to sign in, to link another identity, to show once more who one is.

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
from django.urls import reverse
from mozilla_django_oidc.utils import generate_code_challenge
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from auth import claims, fresh, limits, linking, providers, services
from auth.backends import PortalOIDCBackend
from auth.claims import clean
from auth.fresh import SignInNotFresh
from auth.models import Identity, LoginState, Session
from auth.oidc import discovery, states
from auth.oidc.errors import LoginError, SignInDenied, SignInRefused, SignInStale, said_by_provider
from auth.oidc.proof import Answer
from auth.providers import Provider
from auth.redirects import safe_next
from auth.sessions import store_of
from portal import audit
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.errors import BadRequest, Blame, PortalError
from portal.lib.hashing import same
from portal.problems import NotSignedIn, respond

log = structlog.get_logger("auth.oidc")

Intent = LoginState.Intent


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
        limits.check("login_failed")
        try:
            intent = _intent(request, provider)
        except SignInNotFresh as error:
            return fresh.show_again(request, error)
        try:
            endpoint = discovery.of(provider).authorization_endpoint
        except LoginError as error:
            note_failure(provider, error)
            raise
        row = store_of(request).ensure_row()
        user = None if intent == Intent.LOGIN else row.user
        begun = states.begin(row, slug, safe_next(request.POST.get("next")), intent, user)
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
        if intent != Intent.LOGIN:
            query["max_age"] = "0"  # they show it now, whatever the provider remembers of this browser
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
        limits.check("login_failed")
        try:
            attempt, code = _answer(request, provider)
            return _ACTS[Intent(attempt.intent)](request, provider, attempt, code)
        except LoginError as error:
            note_failure(provider, error)
            raise
        except UpdateError:
            stale = SignInStale("session-ended-meanwhile")
            note_failure(provider, stale)
            raise stale from None


# ---- what is asked ----
def _intent(request: HttpRequest, provider: Provider) -> Intent:
    """Return what for; linking wants somebody who has just shown who they are, showing it again their own provider."""
    wanted = request.POST.get("intent", Intent.LOGIN)
    if wanted not in Intent.values:
        raise BadRequest
    intent = Intent(wanted)
    if intent == Intent.LINK:
        fresh.check(request)
    elif intent == Intent.REAUTH and _identity_here(request).provider != provider.slug:
        raise BadRequest("You did not sign in at this provider.", next_step="Confirm it where you signed in.")
    return intent


def _answer(request: HttpRequest, provider: Provider) -> tuple[LoginState, str]:
    if any(len(values) > 1 for _, values in request.GET.lists()):
        raise SignInRefused("repeated-parameter")
    attempt = states.consume(store_of(request).live_row(), provider.slug, request.GET.get("state", ""))
    _check_sender(provider, request.GET.get("iss"))
    error = clean(request.GET.get("error"), 60)
    if error:
        said = clean(request.GET.get("error_description"))
        sentence = f"{provider.title} did not sign you in" + (f": “{said}”" if said else ".")
        raise SignInDenied(said_by_provider(error), sentence)
    code = request.GET.get("code", "")
    if not code:
        raise SignInRefused("no-code")
    return attempt, code


def _check_sender(provider: Provider, issuer: str | None) -> None:
    """Refuse an answer of another provider before its code gets anywhere (RFC 9207)."""
    if issuer is None:
        if discovery.of(provider).sends_iss:
            raise SignInRefused("no-issuer-in-answer")
    elif not same(issuer, provider.issuer):
        raise SignInRefused("answer-of-another-issuer")


# ---- what is done with the answer ----
def _sign_in(request: HttpRequest, provider: Provider, attempt: LoginState, code: str) -> HttpResponse:
    identity, proof = PortalOIDCBackend(provider).identify(attempt, code)
    services.open_session(request, identity, proof)
    return move_on(request, safe_next(attempt.next), "You are signed in")


def _show_again(request: HttpRequest, provider: Provider, attempt: LoginState, code: str) -> HttpResponse:
    """Take it as shown by the same identity, and by nobody else."""
    answer = _fresh_answer(provider, attempt, code)
    identity = _identity_here(request)
    if (provider.issuer, answer.subject) != (identity.issuer, identity.subject):
        raise SignInRefused("another-identity", "This is not the account that you signed in with.")
    services.renew_session(request, _session_here(request), answer.proof)
    return move_on(request, safe_next(attempt.next), "Thank you")


def _hold_for_linking(request: HttpRequest, provider: Provider, attempt: LoginState, code: str) -> HttpResponse:
    """Keep the other identity, which nobody is signed in by, until its owner has said yes to both."""
    answer = _fresh_answer(provider, attempt, code)
    profile = claims.profile_of(answer.said, dict(provider.claims))
    request.session[linking.KEY] = {
        "provider": provider.slug,
        "issuer": provider.issuer,
        "subject": answer.subject,
        "name": profile.name,
        "email": profile.email,
        "at": clock.now().isoformat(),
    }
    request.session.save()
    return move_on(request, reverse("accounts:link-confirm"), "Nearly linked")


_ACTS = {Intent.LOGIN: _sign_in, Intent.LINK: _hold_for_linking, Intent.REAUTH: _show_again}


def _fresh_answer(provider: Provider, attempt: LoginState, code: str) -> Answer:
    """Return an answer that says that they showed who they are just now (OpenID Connect Core 3.1.2.1, `max_age`)."""
    answer = PortalOIDCBackend(provider).answer(attempt, code)
    shown = answer.proof.authenticated_at
    if shown is None:
        raise SignInRefused("no-auth-time", f"{provider.title} does not say when you showed who you are.")
    if not fresh.is_recent(shown):
        raise SignInRefused("not-shown-again")
    return answer


# ---- small things ----
def _session_here(request: HttpRequest) -> Session:
    session: Session | None = request.auth_session  # type: ignore[attr-defined]
    if session is None:
        raise NotSignedIn
    return session


def _identity_here(request: HttpRequest) -> Identity:
    identity = _session_here(request).identity
    if identity is None:  # unlinked meanwhile
        raise NotSignedIn
    return identity


def move_on(request: HttpRequest, url: str, title: str) -> HttpResponse:
    """Answer 200 with a page that goes on by itself; its link works where that is switched off."""
    response = render(request, "accounts/move_on.html", {"url": url, "title": title})
    response.headers["Refresh"] = f"0; url={url}"
    return response


def note_failure(provider: Provider, error: LoginError) -> None:
    """Leave a trace; what the provider is to blame for does not count against the address."""
    log.warning("sign-in failed", provider=provider.slug, reason=error.reason)
    result = AuditEvent.Result.FAILED if error.blame is Blame.OUTSIDE else AuditEvent.Result.REFUSED
    audit.record("login_failed", about=("provider", provider.slug), result=result, reason=error.reason)
