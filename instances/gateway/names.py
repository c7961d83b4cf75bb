"""What becomes of a header field, by its name: passed on, dropped, or read by us."""

from __future__ import annotations

from collections.abc import Callable

PASS, DROP = b"pass", b"drop"
#: a response's field that only the portal may send as it likes (headers.py judges it)
CHECK = b"check"

#: read in requests and passed on as well
READ = frozenset(
    {
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-dest",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)
#: read in requests, and written anew by whoever sends the message on
_TAKEN = frozenset(
    {
        b"host",
        b"cookie",
        b"authorization",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"connection",
        b"upgrade",
        b"referer",
        b"x-forwarded-for",
    }
)
#: read fields that may come in several lines
LISTS = frozenset({b"connection", b"x-forwarded-for"})
_HOP_BY_HOP = frozenset({b"keep-alive", b"te", b"trailer", b"http2-settings", b"x-http2-settings"})
#: what only a proxy may say (X-Forwarded-*, Proxy-* and names with an underscore go by pattern)
_FORWARDING = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-remote-user",
        b"remote-user",
        b"x-auth-request-user",
        b"x-request-id",
        b"x-scheme",
        b"x-url-scheme",
        b"front-end-https",
        b"proxy",  # CVE-2016-5385: CGI makes HTTP_PROXY of it
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
    }
)
_DROPPED_PREFIXES = (b"x-forwarded-", b"proxy-", b"x-original-", b"x-rewrite-")

#: read in responses, and written anew
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"upgrade"})
_RESPONSE_HOP_BY_HOP = frozenset(
    {
        b"keep-alive",
        b"te",
        b"trailer",
        b"server",
    }
)
#: what an instance may not tell a browser, because it outlives or leaves the instance's origin
NOT_FROM_INSTANCES = frozenset(
    {
        b"service-worker-allowed",
        b"clear-site-data",
        b"strict-transport-security",
        b"public-key-pins",
        b"alt-svc",
        b"refresh",
        b"www-authenticate",  # Authorization never reaches an instance: it could only ask people for a password
    }
)
_LIMIT = 2000


class Kinds(dict[bytes, bytes]):
    """Kind by name as it was sent; remembers the names it has seen, up to a limit."""

    def __init__(self, judge: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._judge = judge

    def __missing__(self, name: bytes) -> bytes:
        kind = self._judge(name.lower())
        if len(self) < _LIMIT:
            self[name] = kind
        return kind


def _of_request(name: bytes) -> bytes:
    if name in READ or name in _TAKEN:
        return name
    dropped = (
        name in _HOP_BY_HOP
        or name in _FORWARDING
        or name.startswith(_DROPPED_PREFIXES)
        or b"_" in name  # X_Forwarded_For and X-Forwarded-For are one variable to CGI-like servers
    )
    return DROP if dropped else PASS


def _of_response(name: bytes) -> bytes:
    if name in _FRAMING:
        return name
    if name in _RESPONSE_HOP_BY_HOP or name.startswith(b"proxy-"):
        return DROP
    return CHECK if name in NOT_FROM_INSTANCES or name in (b"set-cookie", b"location") else PASS


REQUEST = Kinds(_of_request)
RESPONSE = Kinds(_of_response)
