"""System checks: unsafe settings stop the start with a sentence."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security)
def refuse_unsafe(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse what would be unsafe; the demo may do on loopback what production may not."""
    return [
        Error(text, hint=hint, id=f"portal.E{number:03}")
        for number, wrong, text, hint in _always() + (_demo() if settings.DEMO else _production())
        if wrong
    ]


Rule = tuple[int, bool, str, str]


def _always() -> list[Rule]:
    make_one = "Make one with `openssl rand -base64 48`."
    portal_host = urlsplit(settings.PORTAL_URL).hostname
    nameless = "*" in settings.ALLOWED_HOSTS or not settings.ALLOWED_HOSTS[0]
    shared = settings.APPS_DOMAIN.rsplit(":", 1)[0] == portal_host
    address = "Set it to the address people type, e.g. https://portal.example."
    return [
        (1, len(settings.SECRET_KEY) < 32, "SECRET_KEY is shorter than 32 characters.", make_one),
        (2, len(settings.INSTANCE_KEY) < 32, "INSTANCE_KEY is shorter than 32 characters.", make_one),
        (3, nameless, "PORTAL_URL names no host.", address),
        (4, shared, "Instances would share the portal's origin.", "Give APPS_DOMAIN a domain of its own."),
    ]


def _demo() -> list[Rule]:
    outside = urlsplit(settings.PORTAL_URL).hostname not in ("localhost", "127.0.0.1", "::1")
    return [(5, outside, "BEAMPORT_DEMO is set on an address that is not loopback.", "Unset it, or use localhost.")]


def _production() -> list[Rule]:
    plain = not settings.PORTAL_URL.startswith("https://")
    tls = "Put TLS in front, or set BEAMPORT_DEMO=1 for a trial on loopback."
    issuer = not settings.OIDC_ISSUER.startswith("https://")
    exact = "Set it to your provider's issuer, exactly as it announces it."
    return [
        (6, settings.DEBUG, "DEBUG is on.", "It stays off; look into the logs under the request id."),
        (7, plain, "PORTAL_URL is not https.", tls),
        (8, issuer, "OIDC_ISSUER is not an https address.", exact),
        (9, not settings.OIDC_CLIENT_SECRET, "OIDC_CLIENT_SECRET is empty.", "Set OIDC_CLIENT_SECRET_FILE."),
    ]
