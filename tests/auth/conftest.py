"""A portal whose only provider is the hostile one, and a browser to go through a sign-in step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from auth import providers
from auth.models import User
from auth.oidc import shelf
from auth.providers import Provider
from portal.audit import AuditEvent
from tests import canary
from tests.auth.hostile_op import HostileOP


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Provider]:
    """The providers that the portal knows; a test lays its own in."""
    known: dict[str, Provider] = {}
    monkeypatch.setattr(providers, "registry", lambda: known)
    return known


@pytest.fixture
def op(registered: dict[str, Provider]) -> Iterator[HostileOP]:
    with HostileOP() as op:
        canary.mark(op.client_secret, "a client secret")
        op.join(registered)
        forget(op)
        yield op
        forget(op)


@pytest.fixture
def other_op(registered: dict[str, Provider]) -> Iterator[HostileOP]:
    """A second provider, beside the first."""
    with HostileOP() as op:
        op.join(registered, "other")
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

    def start(self, next_path: str = "/", slug: str = "demo") -> str:
        """Press the button; return where it leads."""
        response = self.post(f"/auth/{slug}/login/", {"next": next_path})
        assert response.status_code == 200, response.content
        return leads_to(response)

    def come_back(self, parameters: dict[str, str], slug: str = "demo") -> Any:
        return self.get(f"/auth/{slug}/callback/", parameters)

    def sign_in(self, op: HostileOP, next_path: str = "/") -> Any:
        return self.come_back(op.authorize(self.start(next_path, op.slug)), op.slug)

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
