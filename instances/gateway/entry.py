"""How a browser gets onto an instance's origin: nonce cookie → portal → ticket → session cookie → clean address."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

from instances.gateway import pages
from instances.gateway.headers import cookies
from instances.gateway.http1 import Request
from portal.lib.hashing import digest

if TYPE_CHECKING:
    from instances.gateway.access import Access
    from instances.gateway.link import Link
    from instances.gateway.session import Sessions

#: the path prefix on an instance's origin that is the gateway's own
PREFIX = b"/.portal/"
COOKIE = "__Host-entry"
NONCE_LIFE = 600
_NONCE = re.compile(r"[A-Za-z0-9_-]{43}")
_TICKET = re.compile(r"[A-Za-z0-9_-]{20,128}")
_LONGEST = 2000


def safe_path(target: str) -> str:
    """Return a path on this origin to go on to, else "/"; nothing that a browser could read as another host."""
    if (
        not target.startswith("/")
        or target.startswith(("//", "/.portal/"))
        or len(target) > _LONGEST
        or re.search(r"[^!-~]|\\", target)
    ):
        return "/"
    return target


class Entry:
    """The two steps of the entry that happen here; rights are the portal's business."""

    def __init__(self, portal_url: str, access: Access, sessions: Sessions, link: Link) -> None:
        self._portal_url = portal_url
        self._access = access
        self._sessions = sessions
        self._link = link

    def begin(self, request: Request, slug: str, *, to: str = "", again: bool = False) -> pages.Answer:
        """Send a navigation to the portal, with the hash of a nonce that only this browser has.

        A nonce that is there is used again: several tabs may be on their way at once.
        """
        nonce = _nonce(request) or secrets.token_urlsafe(32)
        query = {"n": digest(nonce), "to": safe_path(to or request.target.decode())}
        if again:
            query["again"] = "1"
        return pages.redirect(
            f"{self._portal_url}/enter/{quote(slug)}?{urlencode(query)}",
            f"{COOKIE}={nonce}; Path=/; Max-Age={NONCE_LIFE}; Secure; HttpOnly; SameSite=Lax",
        )

    async def finish(self, request: Request, slug: str) -> pages.Answer:
        """Exchange a ticket for a session cookie."""
        try:
            query = parse_qs(request.target.partition(b"?")[2].decode(), max_num_fields=8)
        except ValueError:
            return pages.cannot_enter(self._portal_url)
        ticket = query.get("t", [""])[0]
        to = safe_path(query.get("to", ["/"])[0])
        again = "again" in query
        nonce = _nonce(request)
        if nonce is None:
            known = self._access.knows(request, slug)
            return pages.redirect(to) if known else pages.unsupported(self._portal_url)
        if not _TICKET.fullmatch(ticket):
            return pages.cannot_enter(self._portal_url)
        status, answer = await self._link.redeem(ticket, digest(nonce), slug)
        if status == 200:
            session = self._sessions.add(answer)
            if session is not None:
                return pages.redirect(to, self._sessions.cookie(session))
        if status == 409:  # the ticket belongs to another nonce: a tab that was on its way before this cookie
            if self._access.knows(request, slug):
                return pages.redirect(to)
            if not again:
                return self.begin(request, slug, to=to, again=True)
        if status >= 500:
            return pages.portal_away()
        return pages.cannot_enter(self._portal_url)


def _nonce(request: Request) -> str | None:
    """Return the nonce in the browser's entry cookie, if it is one that we could have made."""
    own, _others = cookies(request.fields.get(b"cookie", b""))
    value = own.get(b"__host-entry", b"").decode("latin-1")
    return value if _NONCE.fullmatch(value) else None
