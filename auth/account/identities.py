"""How one signs in: the accounts at providers, adding another one, taking one away."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth import logout as end_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from auth import fresh, linking, providers
from auth.account.owner import for_owner
from auth.models import Identity, User
from portal.lib.errors import NotFound


@require_safe
@for_owner
def index(request: HttpRequest, user: User) -> HttpResponse:
    identities = list(user.identities.order_by("first_login_at"))
    shown = [{"row": row, "title": linking.title_of(row.provider)} for row in identities]
    return render(request, "accounts/identities.html", {"identities": shown, "providers": providers.every()})


@require_http_methods(["GET", "HEAD", "POST"])
@for_owner
def confirm_link(request: HttpRequest, user: User) -> HttpResponse:
    """Name both accounts; a yes within five minutes of the second sign-in makes them one user's."""
    wanted = linking.pending(request.session)
    if request.method != "POST":
        current = getattr(request, "auth_session").identity  # noqa: B009  (set by a middleware)
        title = linking.title_of(current.provider) if current else ""
        return render(request, "accounts/link.html", {"wanted": wanted, "current": current, "title": title})
    del request.session[linking.KEY]
    linking.link(user, wanted)
    messages.success(request, f"You can now sign in with your account at {wanted.title} too.")
    return redirect("accounts:identities")


@require_http_methods(["GET", "HEAD", "POST"])
@fresh.required
@for_owner
def unlink(request: HttpRequest, user: User, uid: uuid.UUID) -> HttpResponse:
    """Ask once more, then take an account away; the sessions that it opened end, this one too if it is one of them."""
    identity = Identity.objects.filter(uid=uid, user=user).first()
    if identity is None:
        raise NotFound
    own = request.auth_session.identity_id == identity.pk  # type: ignore[attr-defined]
    if request.method != "POST":
        context = {
            "identity": identity,
            "title": linking.title_of(identity.provider),
            "last": user.identities.count() == 1,
            "own": own,
        }
        return render(request, "accounts/unlink.html", context)
    linking.unlink(user, identity)
    if own:
        end_login(request)
        return redirect("accounts:sign-in")
    messages.success(request, f"Your account at {linking.title_of(identity.provider)} no longer signs you in here.")
    return redirect("accounts:identities")
