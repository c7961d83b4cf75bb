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
    """What a cookie opens, good until `until` (monotonic) as long as its session lives and its route stands."""

    __slots__ = ("cookie", "origin", "renew", "route", "service", "session", "until")

    def __init__(self, session: Session, route: Route, service: Service, origin: bytes, cookie: bytes) -> None:
        self.session = session
        self.route = route
        self.service = service
        self.origin = origin
        #: the cookies of the instance's own
        self.cookie = cookie
        #: whether the browser should get a fresh session cookie with the response
        self.renew = False
        self.until = 0.0


class Access:
    """`authorise()`, with a memory of what it has just granted."""

    def __init__(self, sessions: Sessions, routes: Routes, scheme: str) -> None:
        self._sessions = sessions
        self._routes = routes
        self._scheme = scheme.encode() + b"://"
        self._granted: dict[tuple[str, bytes], Grant] = {}

    def authorise(self, request: Request, slug: str) -> Grant:
        """Decide; raises Refused, NotSignedIn, Ask or NotServed."""
        grant = request.section.grant
        if grant is None or not self._holds(grant, slug):
            header = request.fields.get(b"cookie", b"")
            origin = self._scheme + request.host.lower()
            check_source(request, origin)
            grant = self._granted.get((slug, header))
            if grant is None or not self._holds(grant, slug):
                grant = self._decide(header, slug, origin)
        session = grant.session
        session.used = True
        if not session.worked and not request.by_itself:
            session.worked = True
        return grant

    def _holds(self, grant: Grant, slug: str) -> bool:
        return grant.until > time.monotonic() and grant.session.live and self._routes.get(slug) is grant.route

    def _decide(self, header: bytes, slug: str, origin: bytes) -> Grant:
        claim, cookie = self._claim(header, slug)
        session = claim.session
        if session is None:
            raise Ask(claim)
        route = self._routes.get(slug)
        if route is None or not route.served or route.instance != session.instance:
            raise NotServed(route)
        service = route.web
        if service is None or session.role not in service.roles:
            raise Refused(403, "your role does not open this")
        grant = Grant(session, route, service, origin, cookie)
        now = self._sessions.now()
        grant.until = time.monotonic() + min(_REMEMBER, session.expires - now)
        grant.renew = claim.expires - now < LIFE / 2 and session.expires > claim.expires + LIFE / 10
        if len(self._granted) >= _REMEMBERED:
            self._granted.clear()
        self._granted[slug, header] = grant
        return grant

    def _claim(self, header: bytes, slug: str) -> tuple[Claim, bytes]:
        """Return what the session cookie in a Cookie header says, and the other cookies."""
        own, others = cookies(header)
        value = own.get(b"__host-inst")
        claim = self._sessions.check(value.decode("latin-1"), slug) if value else None
        if claim is None:
            raise NotSignedIn
        return claim, others

    def knows(self, request: Request, slug: str) -> bool:
        """Whether the request carries a cookie that counts by itself."""
        try:
            return self._claim(request.fields.get(b"cookie", b""), slug)[0].session is not None
        except NotSignedIn:
            return False


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
