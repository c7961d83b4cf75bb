"""One escaped JSON line per event on standard error; values capped, secrets struck out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from django.db import InterfaceError, OperationalError

_SECRET_KEYS = re.compile(r"(token|secret|password|cookie|authorization|ticket|verifier|nonce|session_key|code)$", re.I)
_SECRET_QUERY = re.compile(r"([?&](?:t|code|state|token|ticket|id_token)=)[^&\s\"']+", re.I)
_LONGEST = 2000


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_QUERY.sub(r"\1…", value)[:_LONGEST]
    return value


def redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Strike out what looks like a credential, by key and in query strings; cap long values."""
    return {key: "…" if _SECRET_KEYS.search(key) else _clean(value) for key, value in event.items()}


def calm(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make what Django refused for safety's sake (too many fields, too long a body, a wrong host) one warning.

    Anybody can send it, as often as he likes; Django logs each as an error with a traceback. The same goes for every
    request while the database is away.
    """
    raised = event.get("exc_info")
    away = isinstance(raised, tuple) and isinstance(raised[1], OperationalError | InterfaceError)
    if away or str(event.get("logger", "")).startswith("django.security."):
        event["level"] = "warning"
        event.pop("exc_info", None)
    return event


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    calm,
    structlog.processors.format_exc_info,
    redact,
]


def configure(_settings: dict[str, Any]) -> None:
    """Set up logging for Django, Celery and our own code alike (settings.LOGGING_CONFIG)."""
    from django.conf import settings

    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.LOG_LEVEL)
    for noisy in ("uvicorn.access", "httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
