"""Where a sign-in, or a form that was refused, leads back to: a path of this portal, never another site."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.utils.encoding import iri_to_uri

HOME = "/"
LONGEST = 2000
#: what browsers read as the beginning of another host
_OTHER_HOST = re.compile(r"/?[/\\]{2}|/\\|[^/]")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff\u2028\u2029]")


def safe_next(wanted: str | None) -> str:
    """Return `wanted` as an ASCII path of this origin (query and fragment kept), or the home page.

    What is percent-encoded stays so: `/doi/10.1000/a%2Fb%23c` comes back whole. Everything that a browser, now or
    after one decoding, might read as another host falls back to the home page.
    """
    if not wanted or len(wanted) > LONGEST or _FORBIDDEN.search(wanted):
        return HOME
    for reading in (wanted, unquote(wanted), unicodedata.normalize("NFKC", unquote(wanted))):
        if _OTHER_HOST.match(reading):
            return HOME
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return HOME
    if parts.scheme or parts.netloc:
        return HOME
    path = iri_to_uri(wanted)
    return path if len(path) <= LONGEST else HOME


def sent_from(request: HttpRequest) -> str:
    """Return the page of this portal that something was sent from, as the browser says; empty when it says none."""
    try:
        page = urlsplit(request.headers.get("Referer", ""))
    except ValueError:
        return ""
    if f"{page.scheme}://{page.netloc}" != settings.PORTAL_URL:
        return ""
    return safe_next(page._replace(scheme="", netloc="", fragment="").geturl())


def opened_anew(request: HttpRequest) -> str:
    """Return where to go from a form that was not taken: its page, or where a sign-in leads that is done by now."""
    match = request.resolver_match
    if match is None or match.view_name != "accounts:login" or "intent" in request.POST:
        return sent_from(request) or HOME
    wanted = safe_next(request.POST.get("next"))
    return wanted if request.user.is_authenticated else f"{request.path}?{urlencode({'next': wanted})}"
