"""The portal's half of the way onto an instance's origin: sign-in, rights, ticket."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_GET

from auth.models import Session, User
from auth.roles import may_on_instance
from instances import entry
from instances.errors import RoleEnded
from instances.models import Instance, Member
from portal.lib.errors import BadRequest, Forbidden, NotFound

_NONCE_HASH = re.compile(r"[0-9a-f]{64}")
_LONGEST = 2000


@require_GET
def enter(request: HttpRequest, slug: str) -> HttpResponse:
    """Send somebody who may open an instance to its origin with a ticket.

    Unknown and not visible are one answer, and both come after sign-in. Only a navigation gets a ticket: no script
    of another origin can fetch one.
    """
    if request.headers.get("Sec-Fetch-Dest") != "document":
        raise Forbidden("An instance is opened by going to its address.", next_step="Open it in a browser tab.")
    nonce_hash = request.GET.get("n", "")
    if not _NONCE_HASH.fullmatch(nonce_hash):
        raise BadRequest("This address is not complete.", next_step="Open the instance from its page.")
    session: Session | None = getattr(request, "auth_session", None)
    user = request.user
    if session is None or not isinstance(user, User):
        return HttpResponseRedirect(f"{reverse('accounts:sign-in')}?next={quote(request.get_full_path())}")
    if (instance := Instance.objects.visible_to(user).filter(slug=slug).first()) is None:
        raise NotFound
    return _to_instance(request, session, user, instance, nonce_hash)


def _to_instance(
    request: HttpRequest, session: Session, user: User, instance: Instance, nonce_hash: str
) -> HttpResponse:
    role = Member.objects.filter(instance=instance, user=user).values_list("role", flat=True).first()
    if role is None or not may_on_instance(role, "open-jupyter"):
        raise Forbidden
    if not Instance.objects.usable().filter(pk=instance.pk).exists():
        raise RoleEnded
    ticket = entry.issue_ticket(session, user, instance, role, nonce_hash)
    query = {"t": ticket, "to": request.GET.get("to", "/")[:_LONGEST]}
    if "again" in request.GET:
        query["again"] = "1"
    scheme = urlsplit(settings.PORTAL_URL).scheme
    return HttpResponse(
        status=303,
        headers={
            "Location": f"{scheme}://{instance.slug}.{settings.APPS_DOMAIN}/.portal/enter?{urlencode(query)}",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )
