"""Which header fields and cookies pass between browser, portal and instance, and which of ours are set.

An instance never sees a credential of the portal and can set nothing that outlives or leaves its own origin.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from instances.gateway.bodies import Refused
from instances.gateway.http1 import Fields, Request, Response
from instances.gateway.names import NOT_FROM_INSTANCES

#: cookies of ours: they never reach an instance, and no instance may set them
OURS = frozenset({b"__host-inst", b"__host-entry", b"__host-sid", b"__host-csrf"})
#: a host as browsers take it, without what they would decode or fold into another one
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_COOKIE_NAME = re.compile(rb"[ \t]*([^=; \t]*)[ \t]*(?:=|$)")


class Tossed(Refused):
    """One of our cookies came twice: another site has set one of its name."""

    def __init__(self) -> None:
        super().__init__(400, "a cookie was sent twice")


def cookies(header: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Return our own cookies (lower-case name → value) and the header with the others, byte for byte.

    One of ours sent twice is a cookie tossed in from elsewhere: refused.
    """
    found: dict[bytes, bytes] = {}
    others: list[bytes] = []
    for part in header.split(b";"):
        name, _, value = part.partition(b"=")
        key = name.strip(b" \t").lower()
        if key in OURS:
            if key in found:
                raise Tossed
            found[key] = value.strip(b" \t")
        elif part.strip(b" \t"):
            others.append(part.strip(b" \t"))
    return found, b"; ".join(others)


def request_to_instance(request: Request, cookie: bytes, origin: bytes) -> Fields:
    """Return the fields of a request that an instance may see; Host comes first, ours come after them."""
    fields = [(b"Host", request.host), *request.passed]
    if cookie:
        fields.append((b"Cookie", cookie))
    referer = request.fields.get(b"referer", b"")
    if referer == origin or referer.startswith(origin + b"/"):
        fields.append((b"Referer", referer))
    return fields


def request_to_portal(request: Request) -> Fields:
    """Return the fields of a request to the portal: all but what only a proxy may say."""
    fields = [(b"Host", request.host), *request.passed]
    for name in (b"cookie", b"authorization", b"referer"):
        if name in request.fields:
            fields.append((name.title(), request.fields[name]))
    return fields


def framing(request: Request) -> bytes:
    """Return the one framing line of a request, or the upgrade lines."""
    if request.websocket:
        return b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    if request.chunked:
        return b"Transfer-Encoding: chunked\r\n"
    if request.length is not None:
        return b"Content-Length: %d\r\n" % request.length
    return b""


def response_from_instance(response: Response, site: bytes, portal_host: str) -> Fields:
    """Return the fields of an instance's response that may reach the browser.

    Raises Refused when it redirects out of its own origin into ours or to no web address.
    """
    fields: Fields = []
    for pair in response.passed:
        key = pair[0].lower()
        if key in NOT_FROM_INSTANCES or (key == b"set-cookie" and not _may_set(pair[1])):
            continue
        if key == b"location" and not _may_redirect(pair[1], site, portal_host):
            raise Refused(502, "redirect refused")
        fields.append(pair)
    return fields


def is_shared(response: Response) -> bool:
    """Whether a cache between us and the browser might keep it for others: no place for a session cookie."""
    values = [value.lower() for name, value in response.passed if name.lower() == b"cache-control"]
    return any(b"public" in value or b"s-maxage" in value for value in values)


def _may_set(cookie: bytes) -> bool:
    """No cookie of our names, none for a domain (siblings would get it)."""
    first, *attributes = cookie.split(b";")
    match = _COOKIE_NAME.match(first)
    name = match.group(1).lower() if match else b""
    if not name or name in OURS:
        return False
    return all(part.partition(b"=")[0].strip(b" \t").lower() != b"domain" for part in attributes)


def _may_redirect(location: bytes, site: bytes, portal_host: str) -> bool:
    """Relative, or to this very origin, or to a web page that is neither the portal's nor on the reader's machine."""
    text = location.strip().decode("latin-1")
    if re.search(r"[\x00-\x20\\]", text):
        return False
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not parts.scheme and not parts.netloc:
        return not text.startswith("//")
    if parts.scheme not in ("http", "https") or not _AUTHORITY.fullmatch(parts.netloc):
        return False
    return parts.netloc.lower().encode() == site or not (host.rstrip(".") == portal_host or _local(host.rstrip(".")))


def _local(host: str) -> bool:
    """Whether a browser would look for this host on the reader's own machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a number in another notation is an address too
        return host.rpartition(".")[2][:1].isdigit()
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified or mapped.is_link_local)


Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def is_within(address: str, networks: Networks) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def client_address(peer: str, request: Request, proxies: Networks) -> str:
    """Return who asks: the peer, or what a configured proxy in front of us says, read from the right."""
    if not proxies or not is_within(peer, proxies):
        return peer
    for hop in reversed(request.forwarded_for.split(b",")):
        address = hop.strip().decode("latin-1")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return peer
        if not is_within(address, proxies):
            return address
        peer = address
    return peer
