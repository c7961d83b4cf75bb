"""How near two hosts are to each other, as browsers see it: what a page of one may do to the other."""

from __future__ import annotations

#: second levels below which a country registers names: they are nobody's site
_REGISTRIES = frozenset({"ac", "co", "com", "edu", "gov", "net", "or", "org"})


def within(host: str, domain: str) -> bool:
    """Whether a host is this domain or lies below it: its pages may set cookies for the domain."""
    return f".{host}".endswith(f".{domain}")


def same_site(one: str, other: str) -> bool:
    """Whether two hosts have one registrable domain, as far as names tell without the Public Suffix List."""
    ours, theirs = one.rsplit(".", 2)[-2:], other.rsplit(".", 2)[-2:]
    if ours == theirs and len(ours) == 2 and len(ours[1]) == 2 and ours[0] in _REGISTRIES:
        ours, theirs = one.rsplit(".", 3)[-3:], other.rsplit(".", 3)[-3:]
    return ours == theirs
