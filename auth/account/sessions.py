"""Where one is signed in, and how to end that."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from auth import access, linking, services
from auth.account.owner import for_owner
from auth.models import Session, User
from portal.lib.errors import NotFound


@require_safe
@for_owner
def index(request: HttpRequest, user: User) -> HttpResponse:
    """Every live session, this one first."""
    rows = access.live_sessions().filter(user=user).select_related("identity").order_by("-last_used_at")
    this = getattr(request, "auth_session", None)
    shown = [
        {"row": row, "title": linking.title_of(row.identity.provider) if row.identity else "", "this": row == this}
        for row in rows
    ]
    shown.sort(key=lambda one: not one["this"])
    return render(request, "accounts/sessions.html", {"sessions": shown, "others": len(shown) > 1})


@require_POST
def end(request: HttpRequest, uid: uuid.UUID) -> HttpResponse:
    """End one of my own sessions, this one or another browser's."""
    user = request.user
    session = Session.objects.filter(uid=uid, user=user).first() if isinstance(user, User) else None
    if session is None:
        raise NotFound
    services.end_session(session)
    return redirect("accounts:sessions")


@require_POST
@for_owner
def end_others(request: HttpRequest, user: User) -> HttpResponse:
    ended = services.end_other_sessions(request.auth_session)  # type: ignore[attr-defined]
    messages.success(request, f"Ended {ended} other session{'' if ended == 1 else 's'}.")
    return redirect("accounts:sessions")
