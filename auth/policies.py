"""Rules of use and privacy notice: versions in the database, the newest published one of a kind is in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from auth import roles
from auth.models import Acceptance, Policy, User
from portal import audit
from portal.lib.clock import Now
from portal.lib.errors import Blame, Conflict, PortalError
from portal.problems import by_script, respond


class RulesNotAccepted(PortalError):
    code, status, blame = "rules-not-accepted", 403, Blame.USER
    message = "The rules of use have to be accepted first."
    next_step = "Open the portal in a browser, read them and accept them."


def published(kind: str) -> QuerySet[Policy]:
    """Return the versions of a kind that are or were in force, newest first."""
    return Policy.objects.filter(kind=kind, published_at__lte=Now()).order_by("-published_at", "-pk")


def in_force(kind: str) -> Policy | None:
    return published(kind).first()


def unaccepted_rules(user: User) -> Policy | None:
    """Return the rules that this user has yet to accept; None when there are none, or these are accepted."""
    rules = in_force(Policy.Kind.RULES)
    return rules if rules is not None and rules.version != user.aup_version else None


def accept(user: User, rules: Policy, *, said_by: str = "") -> None:
    """Note somebody's yes; twice is once. `said_by`: the provider to whom it was given."""
    with transaction.atomic():
        _, new = Acceptance.objects.get_or_create(user=user, policy=rules)
        User.objects.filter(pk=user.pk).update(aup_version=rules.version, updated_at=Now())
        if new:
            audit.record("policy_accepted", actor=user, about=("policy", rules.version), said_by=said_by)


def honour(user: User, agreements: Mapping[str, str], said: Any, provider: str) -> None:
    """Take an agreement that a provider states (`voperson_policy_agreement`) for a yes to the version it stands for."""
    stated = {said} if isinstance(said, str) else {one for one in said or () if isinstance(one, str)}
    versions = {version for address, version in agreements.items() if address in stated}
    rules = unaccepted_rules(user) if versions else None
    if rules is not None and rules.version in versions:
        accept(user, rules, said_by=provider)


def publish(kind: str, version: str, title: str, text: str, *, by: User | None = None) -> Policy:
    """Put a new version in force, now and for ever: what was published is never changed."""
    with audit.attempt("policy_published", actor=by, about=("policy", version), kind=kind):
        if by is not None:
            roles.require(by, "manage-policies", None)
        if Policy.objects.filter(kind=kind, version=version).exists():
            raise Conflict(f"There is a version {version} already.")
        policy = Policy.objects.create(kind=kind, version=version, title=title, text=text)
        Policy.objects.filter(pk=policy.pk).update(published_at=Now())
    policy.refresh_from_db()
    return policy


# ---- the gate ----
#: pages that stay open to somebody who has not accepted: to read, to accept, to leave, and to take one's data along
_OPEN = frozenset(
    {
        "accounts:policy",
        "accounts:policy-version",
        "accounts:accept-rules",
        "accounts:logout",
        "accounts:signed-out",
        "accounts:sign-in",
        "accounts:login",
        "accounts:callback",
        "accounts:backchannel-logout",
        "accounts:export",
        "accounts:erasure",
        "accounts:withdraw-erasure",
        "health-live",
        "health-ready",
        "openapi",
    }
)


class AcceptedPolicies:
    """Lead everybody who has yet to accept the rules in force to their page; scripts and programs get a problem.

    API tokens never come by here with a user: auth.api.TokenAuthentication asks for them.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_view: Any) -> HttpResponse | None:
        user = request.user
        match = request.resolver_match
        if not isinstance(user, User) or (match and match.view_name in _OPEN) or unaccepted_rules(user) is None:
            return None
        if by_script(request) or request.method not in ("GET", "HEAD"):
            return respond(request, RulesNotAccepted())
        return HttpResponseRedirect(
            f"{reverse('accounts:accept-rules')}?{urlencode({'next': request.get_full_path()})}"
        )
