"""The OpenID providers people may sign in with: configuration, not rows. One today, from settings; the rest of the
code knows them by slug, so that a file may list several."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.signals import setting_changed
from django.urls import reverse

from portal.lib.errors import NotFound

#: signature algorithms we accept: asymmetric ones only, whatever a provider announces
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


@dataclass(frozen=True)
class Provider:
    """One provider as configured; what it announces about itself comes from discovery."""

    slug: str
    title: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    algorithms: frozenset[str] = ALGORITHMS
    #: audiences of an ID token besides our own client id that are no offence
    extra_audiences: frozenset[str] = frozenset()
    #: where the part of `sub` after @ must lie; empty: not checked
    asserts_scopes: frozenset[str] = frozenset()
    #: hosts besides the issuer's own on which its endpoints may lie
    endpoint_hosts: frozenset[str] = frozenset()
    #: the claim that names a person at the user office of `person_facility` (a slug; empty: none)
    person_claim: str = ""
    person_facility: str = ""
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


@cache
def registry() -> dict[str, Provider]:
    if not settings.OIDC_ISSUER:
        return {}
    only = Provider(
        slug=settings.OIDC_SLUG,
        title=settings.OIDC_TITLE,
        issuer=settings.OIDC_ISSUER,
        client_id=settings.OIDC_CLIENT_ID,
        client_secret=settings.OIDC_CLIENT_SECRET,
        scopes=tuple(settings.OIDC_SCOPES),
        asserts_scopes=frozenset(scope.lower() for scope in settings.OIDC_ASSERTS_SCOPES),
        endpoint_hosts=frozenset(settings.OIDC_ENDPOINT_HOSTS),
        extra_audiences=frozenset(settings.OIDC_EXTRA_AUDIENCES),
        person_claim=settings.OIDC_PERSON_CLAIM,
        person_facility=settings.OIDC_PERSON_FACILITY,
        allow_private=settings.DEMO,
    )
    return {only.slug: only}


def every() -> list[Provider]:
    return list(registry().values())


def get(slug: str) -> Provider:
    """Return the provider of an address; unknown ones are no page."""
    try:
        return registry()[slug]
    except KeyError:
        raise NotFound from None


def _forget(*, setting: str, **_: object) -> None:
    if setting.startswith("OIDC_") or setting in ("DEMO", "PORTAL_URL"):
        registry.cache_clear()


setting_changed.connect(_forget)
