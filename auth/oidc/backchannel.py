"""A provider says that somebody signed out there (OpenID Connect Back-Channel Logout 1.0)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from django.core.exceptions import RequestDataTooBig
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from auth import access, limits, providers
from auth.models import Session, UsedLogoutToken
from auth.oidc import discovery, tokens
from auth.oidc.errors import LoginError
from auth.providers import Provider
from portal import audit
from portal.audit import AuditEvent
from portal.lib.errors import Blame, PortalError, TooLarge, TooMany
from portal.lib.hashing import digest
from portal.problems import document

log = structlog.get_logger("auth.oidc")

#: a logout token has less than a kilobyte
LARGEST = 64 * 1024
#: twice as long as a token is taken after its making
KEEP_USED = timedelta(seconds=2 * (tokens.LOGOUT_AGE + tokens.LEEWAY))


class LogoutRefused(LoginError):
    code = "logout-refused"
    message = "This is no logout token that the portal takes."
    next_step = "The audit row `backchannel_logout` says which check it did not pass."


@csrf_exempt  # it comes from the provider's server: its signature is what counts, and no cookie is looked at
@require_POST
def receive(request: HttpRequest, slug: str) -> HttpResponse:
    """End the sessions that a provider's logout token names: 200 once done, 400 and nothing for any other token."""
    provider = providers.get(slug)
    try:
        limits.check("backchannel_logout")
        ended = _take(provider, _token(request))
    except LoginError as error:
        log.warning("logout token refused", provider=slug, reason=error.reason)
        result = AuditEvent.Result.FAILED if error.blame is Blame.OUTSIDE else AuditEvent.Result.REFUSED
        audit.record("backchannel_logout", about=("provider", slug), result=result, reason=error.reason)
        return _problem(request, error)
    except PortalError as error:
        return _problem(request, error)
    log.info("logout by the provider", provider=slug, sessions=ended)
    return HttpResponse()


def _token(request: HttpRequest) -> str:
    try:
        if len(request.body) > LARGEST:
            raise TooLarge
    except RequestDataTooBig:
        raise TooLarge from None
    if request.content_type != "application/x-www-form-urlencoded":
        raise LogoutRefused("not-a-form")
    given = request.POST.getlist("logout_token")
    if len(given) != 1:
        raise LogoutRefused("not-one-token")
    return given[0]


def _take(provider: Provider, token: str) -> int:
    """Check a logout token, note it as used and end its sessions, all or nothing; return how many were open."""
    claims = tokens.logout_claims(provider, discovery.of(provider), token)
    with transaction.atomic():
        _use_once(provider, claims)
        ended = access.end(_named(provider, claims))
        audit.record("backchannel_logout", about=("provider", provider.slug), sessions=len(ended))
    return len(ended)


def _use_once(provider: Provider, claims: dict[str, Any]) -> None:
    """Note the token's `jti` for longer than it is taken. Of two posts at once, one waits for the other and fails."""
    until = datetime.fromtimestamp(claims["iat"], UTC) + KEEP_USED
    try:
        with transaction.atomic():
            UsedLogoutToken.objects.create(issuer=provider.issuer, jti_hash=digest(claims["jti"]), expires_at=until)
    except IntegrityError:
        raise LogoutRefused("used-before") from None


def _named(provider: Provider, claims: dict[str, Any]) -> QuerySet[Session]:
    """Return the sessions of (issuer, subject), or with `sid` the one that the provider calls so."""
    sessions = Session.objects.filter(identity__issuer=provider.issuer)
    if "sub" in claims:
        sessions = sessions.filter(identity__subject=claims["sub"])
    return sessions.filter(provider_sid=claims["sid"]) if "sid" in claims else sessions


def _problem(request: HttpRequest, error: PortalError) -> HttpResponse:
    response = JsonResponse(
        document(error, request.request_id),  # type: ignore[attr-defined]
        status=error.status,
        content_type="application/problem+json",
    )
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    return response
