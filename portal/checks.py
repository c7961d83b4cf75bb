"""System checks: unsafe settings stop the start with a sentence. Django asks them, and so do web and worker."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register, run_checks

from auth.admin.networks import networks
from auth.providers import registry
from auth.providers_file import BadProviders
from portal import env
from portal.lib import sites

#: number, whether it is wrong, what is wrong, what to do
Rule = tuple[int, bool, str, str]
_MAKE_ONE = "Make one with `openssl rand -base64 48`."
_PROVIDERS = "Write one as docs/operate/sign-in.md says; deploy/providers/ has an example for each kind."
_SHORTEST = 32
#: those that the demo makes itself
_DEMO_VARIABLES = ("OIDC_CLIENT_SECRET", "OIDC_CLIENT_SECRET_FILE")
#: a random text of that length has more different characters
_FEWEST_CHARACTERS = 10
#: an API token lives that long without a sign-in
_SHORTEST_UNUSED = timedelta(days=90)


@register(Tags.security)
def refuse_unsafe(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse what would be unsafe; the demo may do on loopback what production may not."""
    common = [*_keys(), *_places(), *_providers(), *_administration(), *_unused()]
    if settings.DEMO:
        return _errors([*common, *_demo()])
    return [*_errors([*common, *_production()]), *_near(), *_warnings()]


def stop_if_unsafe() -> None:
    """End this process, before it serves anybody, when a check fails."""
    as_root = os.geteuid() == 0 and not settings.DEMO
    own = (30, as_root, "This process runs as root.", "Start it as a user of its own (systemd: User=beamport).")
    found = [problem for problem in (*run_checks(tags=[Tags.security]), *_errors([own])) if not problem.is_silenced()]
    problems = [problem for problem in found if problem.is_serious()]
    if found:
        print("Cannot start:" if problems else "Look at this:", *(problems or found), sep="\n  ", file=sys.stderr)
    if problems:
        sys.exit(1)


def _errors(rules: Iterable[Rule]) -> list[CheckMessage]:
    return [Error(text, hint=hint, id=f"portal.E{number:03}") for number, wrong, text, hint in rules if wrong]


def _guessable(key: str) -> bool:
    return len(key) < _SHORTEST or len(set(key)) < _FEWEST_CHARACTERS or key.startswith("django-insecure")


def _keys() -> list[Rule]:
    keys = [settings.SECRET_KEY, settings.INSTANCE_KEY.decode(errors="replace"), settings.GATEWAY_TOKEN]
    names = ("SECRET_KEY", "INSTANCE_KEY", "GATEWAY_TOKEN")
    short = "{} can be guessed: it is short, monotonous or an example."
    return [
        *(
            (number, _guessable(key), short.format(name), _MAKE_ONE)
            for number, name, key in zip((1, 2, 10), names, keys, strict=True)
        ),
        (11, len(set(keys)) < len(keys), f"Two of {', '.join(names)} are the same.", "Make each of them anew."),
        (12, not settings.DEPLOYMENT_ID, "DEPLOYMENT_ID is empty.", "It marks this portal's machines; " + _MAKE_ONE),
    ]


def _hosts() -> tuple[str, str]:
    """Return the portal's host and the instances' domain."""
    return urlsplit(settings.PORTAL_URL).hostname or "", settings.APPS_DOMAIN.rsplit(":", 1)[0].lower()


def _places() -> list[Rule]:
    portal, apps = _hosts()
    nameless = "*" in settings.ALLOWED_HOSTS or not all(settings.ALLOWED_HOSTS) or not portal
    address = "Set it to the address people type, e.g. https://portal.example."
    return [
        (3, nameless, "PORTAL_URL names no host.", address),
        (4, sites.within(portal, apps), "Instances would share the portal's domain and cookies.",
         "Give APPS_DOMAIN a domain of its own."),
        (13, _open(settings.STATE_DIR), "Everybody can write to the state folder.", f"chmod o-w {settings.STATE_DIR}"),
        (14, _open(settings.SECRETS_DIR, stat.S_IRWXO & ~stat.S_IXOTH), "Everybody can look into the secrets' folder.",
         f"chmod 0711 {settings.SECRETS_DIR}"),
    ]  # fmt: skip


def _near() -> list[CheckMessage]:
    """Warn of a sibling of the portal's host, which SameSite and the Domain of cookies do not tell from the portal."""
    portal, apps = _hosts()
    if sites.within(apps, portal) or sites.within(portal, apps) or not sites.same_site(portal, apps):
        return []
    text = f"To browsers {apps} and {portal} are one site: instances' pages can set cookies that the portal is sent."
    hint = "Give APPS_DOMAIN a registrable domain of its own. It does no harm once it is on the Public Suffix List."
    return [Warning(text, hint=hint, id="portal.W019")]


def _open(folder: Path, bits: int = stat.S_IWOTH) -> bool:
    try:
        return bool(folder.stat().st_mode & bits)
    except OSError:  # not there, or not ours to see
        return False


def _providers() -> list[Rule]:
    """What is wrong with the file of providers; and variables of a portal that knew one provider only."""
    old = sorted(name for name in os.environ if name.startswith("OIDC_") and name not in _DEMO_VARIABLES)
    told = f"No longer read: {', '.join(old)}. Providers stand in the file that BEAMPORT_PROVIDERS names."
    return [
        (8, bool(old), told, _PROVIDERS),
        *((18, True, fault, _PROVIDERS) for fault in _provider_faults()),
    ]


def _provider_faults() -> list[str]:
    try:
        registry()
    except BadProviders as error:
        return error.faults
    return []


def _administration() -> list[Rule]:
    try:
        networks(tuple(settings.ADMIN_NETWORKS))
    except ValueError as error:
        return [(22, True, f"ADMIN_NETWORKS: {error}.", "Write networks as 10.1.0.0/16, 2001:db8::/32.")]
    return []


def _warnings() -> list[CheckMessage]:
    """Warn where nothing but a role guards the administration, and of roles that are given to nobody."""
    told: list[Rule] = [
        (20, not settings.ADMIN_NETWORKS, "/admin/ opens from everywhere.",
         "Name the networks of your operators in ADMIN_NETWORKS."),
        (21, not settings.ADMIN_ACR, "/admin/ opens without a second factor.",
         "Name what your provider says of one in ADMIN_ACR, e.g. https://refeds.org/profile/mfa."),
        (23, bool(env.words("PERSON_ROLES")), "PERSON_ROLES gives nobody a role: it is for the demo.",
         "Unset it. `manage.py grant_role` makes the first operator, who makes others in /admin/."),
    ]  # fmt: skip
    return [Warning(text, hint=hint, id=f"portal.W{number:03}") for number, wanting, text, hint in told if wanting]


def _unused() -> list[Rule]:
    """Whoever is away for a season would be given up."""
    short = [long for long in (settings.UNUSED_LAPSE, settings.UNUSED_FORGET) if long and long < _SHORTEST_UNUSED]
    return [
        (24, bool(short), f"Unused accounts would be given up within {_SHORTEST_UNUSED.days} days.",
         "Set UNUSED_LAPSE_DAYS and UNUSED_FORGET_DAYS to at least that, or to 0 for never."),
    ]  # fmt: skip


def _demo() -> list[Rule]:
    outside = urlsplit(settings.PORTAL_URL).hostname not in ("localhost", "127.0.0.1", "::1")
    return [(5, outside, "BEAMPORT_DEMO is set on an address that is not loopback.", "Unset it, or use localhost.")]


def _production() -> list[Rule]:
    portal, apps = _hosts()
    plain = not settings.PORTAL_URL.startswith("https://")
    tls = "Give the gateway a certificate or put TLS in front, or set BEAMPORT_DEMO=1 for a trial on loopback."
    memory = any(path.startswith("instances.providers.memory.") for path in settings.PROVIDER_KINDS.values())
    return [
        (6, settings.DEBUG, "DEBUG is on.", "It stays off; look into the logs under the request id."),
        (7, plain, "PORTAL_URL is not https.", tls),
        (9, not settings.PROVIDERS_FILE, "BEAMPORT_PROVIDERS names no file of sign-in providers.", _PROVIDERS),
        (15, _open_database(), "DATABASE_URL reaches PostgreSQL over TCP without a password.",
         "Give its user a password or a client certificate (sslcert), or use its unix socket."),
        (16, _open_redis(), "REDIS_URL reaches Redis over TCP without a password.",
         "Set requirepass in redis.conf and name it: redis://:password@host:6379/0."),
        (17, memory, "The memory provider is offered, whose machines are not real.", "Take it out of PROVIDER_KINDS."),
        (18, sites.within(apps, portal), "APPS_DOMAIN lies below the portal's host, whose cookies instances could set.",
         "Give it a registrable domain of its own, e.g. apps-example.org for portal.example.org."),
    ]  # fmt: skip


def _open_database() -> bool:
    database = settings.DATABASES["default"]
    host = str(database.get("HOST") or "")
    by_certificate = "sslcert" in database.get("OPTIONS", {})
    return bool(host) and not host.startswith("/") and not database.get("PASSWORD") and not by_certificate


def _open_redis() -> bool:
    parts = urlsplit(settings.REDIS_URL)
    return parts.scheme != "unix" and not parts.password
