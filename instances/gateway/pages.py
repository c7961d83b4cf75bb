"""The gateway's own answers: small pages without script, and one line of text for what is no navigation."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from http import HTTPStatus

from instances.gateway.http1 import Request, build
from portal.lib import hsts

_STYLE = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1rem}"
    "h1{font-size:1.5rem}:root{color-scheme:light dark;background:#fff;color:#1a1a1a}a{color:#0b5394}"
    "@media(prefers-color-scheme:dark){:root{background:#121212;color:#f0f0f0}a{color:#9fc5ff}}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_SAFE = (
    f"Content-Security-Policy: default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'\r\n"
    "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
).encode()
_HSTS = f"Strict-Transport-Security: {hsts.value(hsts.SECONDS)}\r\n".encode()
_STATES = {
    "requested": "is waiting for its turn",
    "building": "is being built",
    "starting": "is starting",
    "stopping": "is stopping",
    "stopped": "is stopped",
    "rebooting": "is rebooting",
    "error": "has a problem",
    "deleting": "is being deleted",
    "deleted": "has been deleted",
}
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_MOVING = frozenset({"requested", "building", "starting", "rebooting"})


def status_line(status: int) -> bytes:
    """Return a status line without its end; upstream's own words for it are not repeated."""
    return _LINES.get(status) or b"HTTP/1.1 %d " % status


def _link(url: str, text: str) -> str:
    return f'<p><a href="{escape(url)}">{escape(text)}</a></p>'


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html><html lang="en-GB"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    ).encode()


class Answer:
    """An answer of the gateway's own; `keep` allows another request after it."""

    __slots__ = ("content", "keep", "lines", "status")

    def __init__(self, status: int, content: bytes, lines: bytes = b"", *, keep: bool = False) -> None:
        self.status, self.content, self.lines, self.keep = status, content, lines, keep

    def render(self, *, keep: bool, head_only: bool, strict: bool = False) -> bytes:
        lines = _SAFE + (_HSTS if strict else b"") + self.lines + b"Content-Length: %d\r\n" % len(self.content)
        head = build(status_line(self.status), (), lines + (b"" if keep else b"Connection: close\r\n"))
        return head if head_only else head + self.content


def redirect(location: str, *cookies: str, status: int = 303) -> Answer:
    lines = f"Location: {location}\r\n" + "".join(f"Set-Cookie: {cookie}\r\n" for cookie in cookies)
    return Answer(status, b"", lines.encode(), keep=True)


def text(status: int, sentence: str, lines: bytes = b"") -> Answer:
    """A refusal for programs and scripts."""
    return Answer(status, f"{sentence}\n".encode(), lines + b"Content-Type: text/plain; charset=utf-8\r\n")


def page(status: int, title: str, body: str, lines: bytes = b"") -> Answer:
    return Answer(status, _page(title, body), lines + b"Content-Type: text/html; charset=utf-8\r\n")


def refusal(status: int, sentence: str, request: Request | None) -> Answer:
    """A refusal, as a page when a person sees it."""
    title = HTTPStatus(status).phrase
    if request is not None and request.navigation:
        return page(status, title, f"<p>{escape(sentence[:1].upper() + sentence[1:])}.</p>")
    return text(status, sentence)


def not_running(state: str, portal_url: str, instance: str, request: Request) -> Answer:
    """The instance cannot be reached: what it is doing, and where its own page is."""
    words = _STATES.get(state, "is not running")
    if not request.navigation:
        return text(503, f"the instance {words}", b"Retry-After: 3\r\n")
    url = f"{portal_url}/instances/{instance}/" if instance else f"{portal_url}/instances/"
    moving = state in _MOVING
    hint = "<p>This page opens it by itself as soon as it runs.</p>" if moving else ""
    return page(
        503,
        f"This instance {words}",
        hint + _link(url, "Go to its page on the portal"),
        b"Refresh: 2\r\n" if moving else b"",
    )


def not_answering(portal_url: str, instance: str, request: Request) -> Answer:
    """It runs, but what should answer inside does not."""
    if not request.navigation:
        return text(502, "the instance does not answer")
    return page(
        502,
        "This instance does not answer",
        "<p>It runs, but what serves this page inside it does not answer. Your files are safe.</p>"
        + _link(f"{portal_url}/instances/{instance}/", "Go to its page on the portal"),
    )


def interrupted(request: Request | None) -> Answer:
    """The gateway ends, or what the request was for has ended under it."""
    if request is None or not request.navigation:
        return text(503, "this request was interrupted; try it again", b"Retry-After: 1\r\n")
    return page(503, "This request was interrupted", "<p>The page opens again by itself.</p>", b"Refresh: 2\r\n")


def portal_away() -> Answer:
    return page(
        502,
        "The portal is not answering",
        "<p>It may be restarting. Running instances go on. Try again in a few seconds.</p>",
        b"Refresh: 3\r\n",
    )


def cannot_enter(portal_url: str) -> Answer:
    return page(
        403,
        "This way in has been used or has run out",
        "<p>Open the instance once more.</p>"
        + _link("/", "Open it again")
        + _link(f"{portal_url}/instances/", "My instances"),
    )


def unsupported(portal_url: str) -> Answer:
    """The browser kept none of our cookies, or says nothing of where its requests come from."""
    return page(
        403,
        "This browser cannot open instances",
        "<p>It does not keep the cookie that an instance needs, or it does not tell where its requests come from. "
        "Use a current Firefox, Chrome or Edge, or a current Safari over https, and allow cookies for this site.</p>"
        + _link(f"{portal_url}/instances/", "My instances"),
    )


_CLEAR = b'Clear-Site-Data: "cookies"\r\n'
_CLEARED = "<p>The cookies of this site have been removed.</p>" + _link("/", "Open it again")


def too_large(cookies: bool) -> Answer:
    """Too many or too large header fields. Too many `cookies` come from a neighbouring site, and the browser would
    send them for ever: it is told to drop them."""
    sentence = "<p>The browser sent more than can be accepted.</p>"
    if cookies:
        return page(431, "Too many cookies", sentence + _CLEARED, _CLEAR)
    return page(431, "Too many header fields", sentence)


def tossed() -> Answer:
    """A neighbouring site has set a cookie of ours: none of that name can be believed."""
    return page(400, "A cookie was sent twice", "<p>Another site has set a cookie of this one.</p>" + _CLEARED, _CLEAR)
