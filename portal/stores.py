"""Where PostgreSQL and Redis are: from the addresses in the environment to what Django, Celery and redis-py take."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

#: what an address may say besides (libpq's names)
_URL_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs", "application_name")

#: values go to the server apart from the statement, and what is asked often is kept there, planned
OPTIONS: dict[str, Any] = {"connect_timeout": 3, "server_side_binding": True, "prepare_threshold": 3}


def database(url: str, sockets: Path) -> dict[str, Any]:
    """Return Django's DATABASES entry; without address the embedded server's."""
    base: dict[str, Any] = {
        "ENGINE": "portal.lib.postgres",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": OPTIONS,
    }
    if not url:
        return base | {"NAME": "beamport", "USER": "beamport", "HOST": str(sockets)}
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"DATABASE_URL cannot be read: {error}.") from error
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured("DATABASE_URL must look like postgresql://user:password@host:5432/name")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(query.keys() - {"host", *_URL_OPTIONS}):
        raise ImproperlyConfigured(
            f"DATABASE_URL says {', '.join(unknown)}; known are host, {', '.join(_URL_OPTIONS)}."
        )
    host = query.pop("host", "")
    return base | {
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or "") or host,
        "PORT": str(port or ""),
        "OPTIONS": OPTIONS | query,
    }


def broker(redis_url: str) -> str:
    """Return Celery's name for a Redis: kombu wants unix sockets under a scheme of its own, and the TLS rule said."""
    join = "&" if "?" in redis_url else "?"
    if redis_url.startswith("unix://"):
        return f"redis+socket://{redis_url.removeprefix('unix://')}{join}virtual_host=0"
    if redis_url.startswith("rediss://"):
        return f"{redis_url}{join}ssl_cert_reqs=CERT_REQUIRED"
    if redis_url.startswith("redis://"):
        return redis_url
    raise ImproperlyConfigured("REDIS_URL must look like redis://:password@host:6379/0, rediss://… or unix:///path")
