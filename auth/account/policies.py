"""Rules of use and privacy notice, for everybody to read; the rules, for people to accept."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from auth import policies
from auth.account.owner import for_owner
from auth.models import Policy, User
from auth.redirects import safe_next
from portal.lib.errors import NotFound


@require_safe
def show(request: HttpRequest, kind: str, version: str = "") -> HttpResponse:
    """The version in force, or an earlier one by its name."""
    if kind not in Policy.Kind.values:
        raise NotFound
    versions = list(policies.published(kind))
    found = next((policy for policy in versions if policy.version == version), None) if version else None
    if version and found is None:
        raise NotFound
    policy = found or (versions[0] if versions else None)
    context = {"kind": Policy.Kind(kind), "policy": policy, "versions": versions, "newest": versions[:1] == [policy]}
    return render(request, "accounts/policy.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@for_owner
def accept(request: HttpRequest, user: User) -> HttpResponse:
    """Show the rules in force with a yes and a way out; a yes counts for the version that was on the page."""
    sent = request.POST if request.method == "POST" else request.GET
    wanted = safe_next(sent.get("next"))
    rules = policies.unaccepted_rules(user)
    if rules is None:
        return HttpResponseRedirect(wanted)
    if request.method == "POST" and sent.get("version") == rules.version:
        policies.accept(user, rules)
        return HttpResponseRedirect(wanted)
    return render(request, "accounts/accept_rules.html", {"policy": rules, "next": wanted})
