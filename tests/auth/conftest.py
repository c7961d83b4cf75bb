"""A portal whose only provider is the hostile one, and a browser to go through a sign-in step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from auth.models import User
from auth.oidc import shelf
from portal.audit import AuditEvent
from tests.auth.hostile_op import HostileOP


@pytest.fixture
def op(settings: Any) -> Iterator[HostileOP]:
    with HostileOP() as op:
        settings.OIDC_SLUG = "demo"
        settings.OIDC_ISSUER = op.issuer
        settings.OIDC_CLIENT_ID = op.client_id
        settings.OIDC_CLIENT_SECRET = op.client_secret
        settings.OIDC_PERSON_FACILITY = ""
        forget(op)
        yield op
        forget(op)


def forget(op: HostileOP) -> None:
    """Drop what is kept of this provider (ports come back); other tests' entries stay."""
    for kind, path in (("discovery", "/.well-known/openid-configuration"), ("jwks", "/jwks")):
        key = shelf.key_of(kind, op.issuer + path)
        shelf._here.pop(key, None)
        shelf._here.pop(f"{key}:asked", None)
        cache.delete_many([key, f"{key}:asked"])


class Browser(Client):
    """Django's test client, going through a sign-in at the hostile provider."""

    def start(self, next_path: str = "/") -> str:
        """Press the button; return where it leads."""
        response = self.post("/auth/demo/login/", {"next": next_path})
        assert response.status_code == 200, response.content
        return leads_to(response)

    def come_back(self, parameters: dict[str, str]) -> Any:
        return self.get("/auth/demo/callback/", parameters)

    def sign_in(self, op: HostileOP, next_path: str = "/") -> Any:
        return self.come_back(op.authorize(self.start(next_path)))

    def is_signed_in(self) -> bool:
        return self.get("/api/v1/me").status_code == 200


@pytest.fixture
def browser() -> Browser:
    return Browser()


def leads_to(response: Any) -> str:
    delay, _, url = response.headers["Refresh"].partition("; url=")
    assert delay == "0"
    return url


def reason() -> str:
    """Return the reason of the last failed sign-in."""
    return AuditEvent.objects.filter(action="login_failed").latest("pk").reason


def refused(op: HostileOP, browser: Browser, why: str, status: int = 400) -> None:
    response = browser.sign_in(op)
    assert response.status_code == status
    assert reason() == why
    assert not browser.is_signed_in()
    assert not User.objects.exists()
