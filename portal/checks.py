"""System checks: unsafe settings stop the start with a sentence. Django asks them, and so do web and worker."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register, run_checks

#: number, whether it is wrong, what is wrong, what to do
Rule = tuple[int, bool, str, str]
_MAKE_ONE = "Make one with `openssl rand -base64 48`."
_SHORTEST = 32
#: a random text of that length has more different characters
_FEWEST_CHARACTERS = 10


@register(Tags.security)
def refuse_unsafe(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Refuse what would be unsafe; the demo may do on loopback what production may not."""
    return _errors([*_keys(), *_places(), *(_demo() if settings.DEMO else _production())])


def stop_if_unsafe() -> None:
    """End this process, before it serves anybody, when a check fails."""
    as_root = os.geteuid() == 0 and not settings.DEMO
    own = (30, as_root, "This process runs as root.", "Start it as a user of its own (systemd: User=beamport).")
    problems = [problem for problem in (*run_checks(tags=[Tags.security]), *_errors([own])) if problem.is_serious()]
    if problems:
        print("Cannot start:", *problems, sep="\n  ", file=sys.stderr)
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


def _places() -> list[Rule]:
    portal, apps = urlsplit(settings.PORTAL_URL).hostname or "", settings.APPS_DOMAIN.rsplit(":", 1)[0].lower()
    nameless = "*" in settings.ALLOWED_HOSTS or not all(settings.ALLOWED_HOSTS) or not portal
    address = "Set it to the address people type, e.g. https://portal.example."
    parent = f".{portal}".endswith(f".{apps}")
    return [
        (3, nameless, "PORTAL_URL names no host.", address),
        (4, parent, "Instances would share the portal's domain and cookies.", "Give APPS_DOMAIN a domain of its own."),
        (13, _open(settings.STATE_DIR), "Everybody can write to the state folder.", f"chmod o-w {settings.STATE_DIR}"),
        (14, _open(settings.SECRETS_DIR, stat.S_IRWXO & ~stat.S_IXOTH), "Everybody can look into the secrets' folder.",
         f"chmod 0711 {settings.SECRETS_DIR}"),
    ]  # fmt: skip


def _open(folder: Path, bits: int = stat.S_IWOTH) -> bool:
    try:
        return bool(folder.stat().st_mode & bits)
    except OSError:  # not there, or not ours to see
        return False


def _demo() -> list[Rule]:
    outside = urlsplit(settings.PORTAL_URL).hostname not in ("localhost", "127.0.0.1", "::1")
    return [(5, outside, "BEAMPORT_DEMO is set on an address that is not loopback.", "Unset it, or use localhost.")]


def _production() -> list[Rule]:
    plain = not settings.PORTAL_URL.startswith("https://")
    tls = "Give the gateway a certificate or put TLS in front, or set BEAMPORT_DEMO=1 for a trial on loopback."
    issuer = not settings.OIDC_ISSUER.startswith("https://")
    exact = "Set it to your provider's issuer, exactly as it announces it."
    memory = any(path.startswith("instances.providers.memory.") for path in settings.PROVIDER_KINDS.values())
    return [
        (6, settings.DEBUG, "DEBUG is on.", "It stays off; look into the logs under the request id."),
        (7, plain, "PORTAL_URL is not https.", tls),
        (8, issuer, "OIDC_ISSUER is not an https address.", exact),
        (9, not settings.OIDC_CLIENT_SECRET, "OIDC_CLIENT_SECRET is empty.", "Set OIDC_CLIENT_SECRET_FILE."),
        (15, _open_database(), "DATABASE_URL reaches PostgreSQL over TCP without a password.",
         "Give its user a password or a client certificate (sslcert), or use its unix socket."),
        (16, _open_redis(), "REDIS_URL reaches Redis over TCP without a password.",
         "Set requirepass in redis.conf and name it: redis://:password@host:6379/0."),
        (17, memory, "The memory provider is offered, whose machines are not real.", "Take it out of PROVIDER_KINDS."),
    ]  # fmt: skip


def _open_database() -> bool:
    database = settings.DATABASES["default"]
    host = str(database.get("HOST") or "")
    by_certificate = "sslcert" in database.get("OPTIONS", {})
    return bool(host) and not host.startswith("/") and not database.get("PASSWORD") and not by_certificate


def _open_redis() -> bool:
    parts = urlsplit(settings.REDIS_URL)
    return parts.scheme != "unix" and not parts.password
