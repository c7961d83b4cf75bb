"""Who may ask what: every request, HTTP and WebSocket alike, passes `authorise()` before a byte goes anywhere.

A navigation is GET with `Sec-Fetch-Dest: document` and may come from anywhere; all else must be same-origin, because
the instance's secret that the gateway adds switches the instance's own request forgery check off. `Sec-Fetch-Mode`
is never consulted (CVE-2026-40864).
"""

from __future__ import annotations

import time
from enum import Enum

from instances.gateway.bodies import Refused
from instances.gateway.headers import cookies
from instances.gateway.http1 import Request
from instances.gateway.routes import SLUG, Route, Routes, Service
from instances.gateway.session import LIFE, Claim, Session, Sessions

_REMEMBER = 5.0
_REMEMBERED = 4096


class NotSignedIn(Exception):
    """No valid session: a navigation goes to the portal, all else is refused."""


class Ask(Exception):
    """The cookie is well signed, but only the portal can tell whether its session lives."""

    def __init__(self, claim: Claim) -> None:
        super().__init__("ask the portal")
        self.claim = claim


class NotServed(Exception):
    """The session is fine, the instance is not reachable now."""

    def __init__(self, route: Route | None) -> None:
        super().__init__("not served")
        self.route = route


class Site(Enum):
    PORTAL = "portal"
    ALIAS = "alias"
    INSTANCE = "instance"


class Sites:
    """Which host is what. Hosts are compared whole, port included."""

    def __init__(self, portal_site: str, apps_domain: str, aliases: frozenset[str]) -> None:
        self._portal = portal_site.encode()
        self._found: dict[bytes, tuple[Site, str]] = {}
        self._suffix = b"." + apps_domain.encode()
        self._aliases = frozenset(alias.encode() for alias in aliases) - {self._portal}

    def find(self, host: bytes) -> tuple[Site, str]:
        """Return what the host is, and the slug of an instance's; raises Refused for hosts that are not ours."""
        found = self._found.get(host)
        if found is None:
            found = self._look(host)
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[host] = found
        return found

    def _look(self, host: bytes) -> tuple[Site, str]:
        if host == self._portal:
            return Site.PORTAL, ""
        if host.endswith(self._suffix):
            slug = host[: -len(self._suffix)].decode("latin-1")
            if SLUG.fullmatch(slug):
                return Site.INSTANCE, slug
        lower = host.lower()
        if lower != host:
            return self._look(lower)
        if host in self._aliases:
            return Site.ALIAS, ""
        raise Refused(421, "this host is not served here")


class Grant:
    """What a request may reach, and the cookies of the instance's own that go with it."""

    __slots__ = ("cookie", "origin", "renew", "route", "service", "session")

    def __init__(
        self, session: Session, route: Route, service: Service, origin: bytes, cookie: bytes, renew: bool
    ) -> None:
        self.session, self.route, self.service, self.origin, self.cookie = session, route, service, origin, cookie
        #: whether the browser should get a fresh session cookie with the response
        self.renew = renew


class Access:
    """`authorise()`, with a memory of the cookies it has just checked."""

    def __init__(self, sessions: Sessions, routes: Routes, scheme: str) -> None:
        self._sessions = sessions
        self._routes = routes
        self._scheme = scheme.encode() + b"://"
        self._checked: dict[tuple[str, bytes], tuple[float, Session, bytes, float]] = {}

    def authorise(self, request: Request, slug: str) -> Grant:
        """Decide; raises Refused, NotSignedIn, Ask or NotServed."""
        origin = self._scheme + request.host.lower()
        check_source(request, origin)
        session, cookie, expires = self._session(request.fields.get(b"cookie", b""), slug)
        route = self._routes.get(slug)
        if route is None or not route.served or route.instance != session.instance:
            raise NotServed(route)
        service = route.web
        if service is None or session.role not in service.roles:
            raise Refused(403, "your role does not open this")
        session.used = True
        renew = session.expires > expires + LIFE / 10 and expires - self._sessions.now() < LIFE / 2
        return Grant(session, route, service, origin, cookie, renew)

    def _session(self, header: bytes, slug: str) -> tuple[Session, bytes, float]:
        """Return the living session of a Cookie header, its other cookies, and when the cookie expires."""
        now = time.monotonic()
        known = self._checked.get((slug, header))
        if known is not None and known[0] > now and known[1].live:
            return known[1], known[2], known[3]
        own, others = cookies(header)
        value = own.get(b"__host-inst")
        claim = self._sessions.check(value.decode("latin-1"), slug) if value else None
        if claim is None:
            raise NotSignedIn
        if claim.session is None:
            raise Ask(claim)
        if len(self._checked) >= _REMEMBERED:
            self._checked.clear()
        left = claim.session.expires - self._sessions.now()
        self._checked[slug, header] = (now + min(_REMEMBER, left), claim.session, others, claim.expires)
        return claim.session, others, claim.expires

    def knows(self, request: Request, slug: str) -> bool:
        """Whether the request carries a cookie that counts by itself."""
        try:
            self._session(request.fields.get(b"cookie", b""), slug)
        except (NotSignedIn, Ask):
            return False
        return True


def check_source(request: Request, origin: bytes) -> None:
    """Refuse what did not come from this origin itself, navigations apart; raises Refused."""
    fields = request.fields
    source = fields.get(b"origin")
    site = fields.get(b"sec-fetch-site")
    if source is not None and source != origin:
        raise Refused(403, "this request came from another site")
    if request.websocket:
        allowed = source is not None and site in (None, b"same-origin")
    elif site is None:
        allowed = source is not None  # no browser that we support, or a program: it must name the origin
    else:
        allowed = site == b"same-origin" or request.navigation
    if not allowed:
        raise Refused(403, "this request came from another site")
