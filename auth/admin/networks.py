"""The networks from which the administration opens. Imports no model: system checks ask it before apps are loaded."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from django.conf import settings


@cache
def networks(words: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read ADMIN_NETWORKS; raises ValueError for what is no network."""
    return tuple(ip_network(word) for word in words)


def is_near(address: str) -> bool:
    """Whether the administration may be opened from this address; from everywhere when no network is named."""
    allowed = networks(tuple(settings.ADMIN_NETWORKS))
    if not allowed:
        return True
    try:
        here = ip_address(address)
    except ValueError:
        return False
    here = getattr(here, "ipv4_mapped", None) or here
    return any(here in network for network in allowed)
