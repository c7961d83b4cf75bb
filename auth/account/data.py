"""What the portal holds about me: to see, to take along, to have erased."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from auth import erasure, export, fresh, registry
from auth.account.owner import for_owner
from auth.models import ErasureRequest, User
from portal.lib import clock


@require_safe
@for_owner
def index(request: HttpRequest, user: User) -> HttpResponse:
    return render(request, "accounts/data.html", {"held": registry.everything(), "asked": erasure.asked(user)})


@require_http_methods(["GET", "HEAD", "POST"])
def download(request: HttpRequest) -> HttpResponseBase:
    """A page with a button, whose answer is the file."""
    return _download(request) if request.method == "POST" else _export_page(request)


@for_owner
def _export_page(request: HttpRequest, user: User) -> HttpResponse:
    return render(request, "accounts/export.html", {"most": export.MOST_AN_HOUR})


@fresh.required
def _download(request: HttpRequest) -> HttpResponseBase:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (fresh.required has seen to it)
    response = StreamingHttpResponse(export.pieces(export.make(user)), content_type="application/json")
    name = f"beamport-{user.handle}-{clock.now():%Y-%m-%d}.json"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@require_http_methods(["GET", "HEAD", "POST"])
def erase(request: HttpRequest) -> HttpResponseBase:
    """What would be erased, what stands in the way, and how far the wish is; asking wants a fresh sign-in."""
    return _ask(request) if request.method == "POST" else _erasure_page(request)


@for_owner
def _erasure_page(request: HttpRequest, user: User) -> HttpResponse:
    asked = erasure.asked(user)
    context = {
        "asked": asked,
        "open": asked is not None and asked.outcome == ErasureRequest.Outcome.OPEN,
        "hindrances": registry.hindrances(user),
        "losses": registry.losses(user),
    }
    return render(request, "accounts/erasure.html", context)


@fresh.required
def _ask(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  (fresh.required has seen to it)
    erasure.ask(user, request.POST.get("reason", ""))
    messages.success(request, "Your request is with the operators of the portal. You can withdraw it until it is done.")
    return redirect("accounts:erasure")


@require_POST
@for_owner
def withdraw(request: HttpRequest, user: User) -> HttpResponse:
    erasure.withdraw(user)
    messages.success(request, "Your request is withdrawn. Your account stays.")
    return redirect("accounts:erasure")
