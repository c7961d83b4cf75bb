"""The OpenID providers people may sign in with, side by side: configuration, not rows.

They come from the file that BEAMPORT_PROVIDERS names; in the demo its own provider stands beside them. The rest of the
code knows a provider by its slug.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from django.conf import settings
from django.core.signals import setting_changed
from django.urls import reverse

from auth import providers_file
from auth.providers_file import ALGORITHMS
from portal.lib.errors import NotFound

#: what community proxies and their monitoring sign in with to see whether a service is up; they are nobody
MONITORING: Final = frozenset({"test@eduteams.org"})
SCOPES: Final = ("openid", "profile", "email", "eduperson_entitlement", "eduperson_assurance", "voperson_id")


@dataclass(frozen=True)
class Provider:
    """One provider as configured; what it announces about itself comes from discovery."""

    slug: str
    title: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    #: for whom it is, under the button
    description: str = ""
    #: a picture as a data: address
    logo: str = field(default="", repr=False)
    scopes: tuple[str, ...] = SCOPES
    algorithms: frozenset[str] = ALGORITHMS
    #: audiences of an ID token besides our own client id that are no offence
    extra_audiences: frozenset[str] = frozenset()
    #: what it may speak for: parts of `sub` after @, and `urn:` namespaces of entitlements
    asserts_scopes: frozenset[str] = frozenset()
    #: hosts besides the issuer's own on which its endpoints may lie
    endpoint_hosts: frozenset[str] = frozenset()
    #: networks that are not public and may hold it all the same
    private_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    #: PKCE is always sent; `require`: and the provider must announce that it checks it
    pkce: Literal["send", "require"] = "send"
    monitoring_subjects: frozenset[str] = MONITORING
    #: how well it must know an account (REFEDS identity proofing: low, medium, high), and how that may have signed in
    required_assurance: str = ""
    required_acr: tuple[str, ...] = ()
    #: claims that name a person at the user office of a facility (by its slug), for which the provider is authoritative
    facility_claims: Mapping[str, str] = field(default_factory=dict)
    #: names of claims where they differ from the usual: our field → theirs (auth/claims.py)
    claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: policies that people agree to there (`voperson_policy_agreement`) → the version of our rules that each stands for
    policy_agreements: Mapping[str, str] = field(default_factory=dict)
    #: sign out there too when somebody signs out here
    end_session: bool = True
    #: its logout wants the ID token back (`id_token_hint`), which is then kept, encrypted
    keeps_id_token: bool = False
    #: who somebody is on a facility's file systems: facility → (uid, gid, groups, home → claim)
    posix_claims: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: http and private addresses: the demo only
    allow_private: bool = False

    @property
    def redirect_uri(self) -> str:
        """The address registered at the provider; the request's Host has no say in it."""
        return settings.PORTAL_URL + reverse("accounts:callback", args=[self.slug])

    @property
    def login_path(self) -> str:
        return reverse("accounts:login", args=[self.slug])

    @property
    def host(self) -> str:
        return urlsplit(self.issuer).hostname or ""

    @property
    def subject_scopes(self) -> frozenset[str]:
        """Where the part of `sub` after @ must lie, in small letters; empty: anywhere."""
        return frozenset(scope.lower() for scope in self.asserts_scopes if not scope.startswith("urn:"))

    @property
    def namespaces(self) -> frozenset[str]:
        """The entitlement namespaces that it may assert, byte for byte; empty: none."""
        return frozenset(scope for scope in self.asserts_scopes if scope.startswith("urn:"))


@cache
def registry() -> dict[str, Provider]:
    """Return the providers by slug, in the order of the file; raises BadProviders when the file is wrong."""
    demo = settings.DEMO
    found = {"demo": Provider(**settings.DEMO_PROVIDER, allow_private=True)} if settings.DEMO_PROVIDER else {}
    if settings.PROVIDERS_FILE:
        listed = providers_file.read(Path(settings.PROVIDERS_FILE), demo=demo)
        found |= {slug: Provider(slug=slug, **given, allow_private=demo) for slug, given in listed.items()}
    return found


def every() -> list[Provider]:
    return list(registry().values())


def get(slug: str) -> Provider:
    """Return the provider of an address; unknown ones are no page."""
    try:
        return registry()[slug]
    except KeyError:
        raise NotFound from None


_read_again = registry.cache_clear


def _forget(*, setting: str, **_: object) -> None:
    if setting in ("PROVIDERS_FILE", "DEMO_PROVIDER", "DEMO"):
        _read_again()


setting_changed.connect(_forget)
