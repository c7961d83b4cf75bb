"""Unsafe settings stop the start with a sentence."""

from __future__ import annotations

import pytest
from django.test import override_settings

from portal.checks import refuse_unsafe

SAFE = {
    "DEMO": False,
    "PORTAL_URL": "https://portal.example",
    "APPS_DOMAIN": "apps-example.net",
    "ALLOWED_HOSTS": ["portal.example"],
    "OIDC_ISSUER": "https://proxy.example",
    "OIDC_CLIENT_SECRET": "from the provider",
    "SECRET_KEY": "k" * 48,
    "INSTANCE_KEY": b"k" * 48,
    "DEBUG": False,
}


def ids(**changes: object) -> list[str]:
    with override_settings(**{**SAFE, **changes}):
        return [str(problem.id) for problem in refuse_unsafe(None)]


def test_safe_production_settings_pass() -> None:
    assert ids() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"SECRET_KEY": "short"}, "portal.E001"),
        ({"INSTANCE_KEY": b"short"}, "portal.E002"),
        ({"ALLOWED_HOSTS": ["*"]}, "portal.E003"),
        ({"APPS_DOMAIN": "portal.example"}, "portal.E004"),
        ({"DEMO": True}, "portal.E005"),
        ({"DEBUG": True}, "portal.E006"),
        ({"PORTAL_URL": "http://portal.example"}, "portal.E007"),
        ({"OIDC_ISSUER": "http://proxy.example"}, "portal.E008"),
        ({"OIDC_CLIENT_SECRET": ""}, "portal.E009"),
    ],
)
def test_each_unsafe_setting_is_refused(changes: dict[str, object], code: str) -> None:
    assert code in ids(**changes)


def test_the_demo_on_loopback_passes() -> None:
    assert ids(DEMO=True, PORTAL_URL="http://localhost:8000", OIDC_ISSUER="http://127.0.0.1:8001") == []
