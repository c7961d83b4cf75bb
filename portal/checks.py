"""System checks: unsafe settings stop the start with a sentence."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security)
def refuse_unsafe(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse what would be unsafe outside the demo (facts: security §10)."""
    problems: list[CheckMessage] = []

    def refuse(number: int, text: str, hint: str) -> None:
        problems.append(Error(text, hint=hint, id=f"portal.E{number:03}"))

    portal = urlsplit(settings.PORTAL_URL)
    apps_host = settings.APPS_DOMAIN.rsplit(":", 1)[0]
    if len(settings.SECRET_KEY) < 32:
        refuse(1, "SECRET_KEY is shorter than 32 characters.", "Make one with `openssl rand -base64 48`.")
    if len(settings.INSTANCE_KEY) < 32:
        refuse(2, "INSTANCE_KEY is shorter than 32 characters.", "Make one with `openssl rand -base64 48`.")
    if "*" in settings.ALLOWED_HOSTS or not settings.ALLOWED_HOSTS[0]:
        refuse(3, "PORTAL_URL names no host.", "Set it to the address people type, e.g. https://portal.example.")
    if apps_host == portal.hostname:
        refuse(4, "Instances would share the portal's origin.", "Give APPS_DOMAIN a domain of its own.")
    if settings.DEMO:
        if portal.hostname not in ("localhost", "127.0.0.1", "::1"):
            refuse(5, "BEAMPORT_DEMO is set on an address that is not loopback.", "Unset it, or use http://localhost.")
        return problems
    if settings.DEBUG:
        refuse(6, "DEBUG is on.", "It stays off; use the logs under the request id.")
    if portal.scheme != "https":
        refuse(7, "PORTAL_URL is not https.", "Put TLS in front, or set BEAMPORT_DEMO=1 for a trial on loopback.")
    if not settings.OIDC_ISSUER.startswith("https://"):
        refuse(8, "OIDC_ISSUER is not an https address.", "Set it to your provider's issuer, exactly as it announces it.")
    return problems
