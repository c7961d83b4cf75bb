"""Where a sign-in leads back to: a path of this portal, never another site."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlsplit

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
