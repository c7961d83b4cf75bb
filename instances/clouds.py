"""From a Provider row to the object that talks to the cloud; the one place that hands settings to providers."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from instances import models
from instances.providers import base, registry


def options_of(row: models.Provider) -> dict[str, Any]:
    """Return the site's options with the row's own over them."""
    site = {
        "name": row.name,
        "deployment": settings.DEPLOYMENT_ID,
        "state_dir": str(settings.STATE_DIR),
        "supervisor_socket": settings.SUPERVISOR_SOCKET,
        "production": not settings.DEMO,
    }
    return site | dict(row.options)


def cloud_of(row: models.Provider) -> base.Provider:
    """Return the provider object of a row; ProviderUnavailable when this installation does not know its kind."""
    try:
        return registry.get(row.kind, options_of(row), settings.PROVIDER_KINDS)
    except (KeyError, ImportError, AttributeError) as error:
        raise base.ProviderUnavailable(f"provider {row.name}: kind {row.kind!r} cannot be used") from error


def rules_of(kind: str) -> base.Options:
    """Return what rows of a kind may say; ProviderUnavailable when this installation does not know it."""
    try:
        return registry.rules(kind, settings.PROVIDER_KINDS)
    except (KeyError, ImportError, AttributeError) as error:
        raise base.ProviderUnavailable(f"kind {kind!r} cannot be used here") from error


def drop(row: models.Provider) -> None:
    """End the row's provider object in this process; where there is none that is fine."""
    if row.kind in settings.PROVIDER_KINDS:
        registry.drop(row.kind, options_of(row), settings.PROVIDER_KINDS)


def home_of(home: models.Home) -> base.Home:
    return base.Home(key=home.key, limit=home.limit)
