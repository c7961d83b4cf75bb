"""How long what a provider said is kept, and how often it is asked: with the shared cache and without."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.cache.backends.locmem import LocMemCache
from structlog.testing import capture_logs

from auth.oidc import shelf
from auth.oidc.errors import ProviderDisabled, ProviderFailed

URL = "https://login.example/jwks"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Away:
    """A cache that nobody reaches."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_: object) -> None:
            raise ConnectionError(name)

        return fail


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture(params=["cache", "no cache"], autouse=True)
def store(request: pytest.FixtureRequest, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = LocMemCache("shelf", {})
    cache.clear()
    monkeypatch.setattr(shelf, "_here", {})
    monkeypatch.setattr(shelf, "cache", cache if request.param == "cache" else Away())


class Provider:
    """What it says next, and how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.fault = 0, None

    fault: Exception | None

    def load(self) -> dict[str, Any]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return {"said": self.asked}

    def say(self, *, renew: bool = False, kind: str = "jwks") -> int:
        return int(shelf.document(kind, URL, self.load, renew=renew)["said"])


@pytest.fixture
def provider() -> Provider:
    return Provider()


def test_a_document_is_kept_for_an_hour(provider: Provider, clock: Clock) -> None:
    assert provider.say() == 1
    clock.now += 3599
    assert provider.say() == 1
    clock.now += 1
    assert provider.say() == 2
    assert provider.asked == 2


def test_kinds_and_addresses_have_places_of_their_own(provider: Provider) -> None:
    assert (provider.say(), provider.say(kind="discovery")) == (1, 2)
    assert shelf.key_of("jwks", URL) != shelf.key_of("jwks", URL + "/")
    assert URL not in shelf.key_of("jwks", URL)


def test_a_new_one_is_asked_for_at_most_once_in_thirty_seconds(provider: Provider, clock: Clock) -> None:
    assert provider.say() == 1
    assert provider.say(renew=True) == 1, "just asked"
    began = clock.now
    clock.now = began + 29.5
    assert provider.say(renew=True) == 1
    clock.now = began + 30
    assert provider.say(renew=True) == 2
    assert provider.say(renew=True) == 2
    assert provider.say() == 2


def test_an_old_one_serves_while_the_provider_fails_and_no_longer_than_a_day(provider: Provider, clock: Clock) -> None:
    assert provider.say() == 1
    began = clock.now
    provider.fault = ProviderFailed("http-503")
    clock.now = began + 3600
    assert provider.say() == 1
    assert provider.asked == 2
    assert provider.say() == 1
    assert provider.asked == 2, "not asked again at once"
    clock.now = began + 86_399
    assert provider.say() == 1
    assert provider.asked == 3
    clock.now = began + 86_400
    with pytest.raises(ProviderFailed):
        provider.say()
    provider.fault = None
    assert provider.say() == 5


def test_nobody_is_asked_for_a_new_one_unless_told_to(provider: Provider, clock: Clock) -> None:
    for _ in range(3):
        clock.now += 60
        assert shelf.document("jwks", URL, provider.load) == {"said": 1}


def test_that_an_old_one_serves_is_an_error_in_the_log(provider: Provider, clock: Clock) -> None:
    provider.say()
    clock.now += 3600
    provider.fault = ProviderFailed("http-503")
    with capture_logs() as logs:
        provider.say()
    (error,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (error["url"], error["reason"]) == (URL, "http-503")
    assert error["event"] == "provider out of order, going on with what it said before"


def test_a_cache_that_is_away_is_a_warning(provider: Provider, request: pytest.FixtureRequest) -> None:
    with capture_logs() as logs:
        provider.say()
    warnings = [(entry["event"], entry["error"]) for entry in logs if entry["log_level"] == "warning"]
    away = "no cache" in request.node.callspec.id
    assert warnings == ([("cache away", "ConnectionError")] * 3 if away else [])


def test_without_an_old_one_its_failure_is_told_each_time(provider: Provider) -> None:
    provider.fault = ProviderFailed("http-503")
    for _ in range(2):
        with pytest.raises(ProviderFailed):
            provider.say()
    assert provider.asked == 2
    provider.fault = None
    assert provider.say() == 3


def test_what_a_disabled_provider_said_before_is_dropped(provider: Provider, clock: Clock) -> None:
    assert provider.say() == 1
    clock.now += 3600
    provider.fault = ProviderDisabled("wrong-issuer-announced")
    with pytest.raises(ProviderDisabled):
        provider.say()
    provider.fault = ProviderFailed("http-503")
    with pytest.raises(ProviderFailed):
        provider.say()


def test_other_faults_are_not_hidden(provider: Provider, clock: Clock) -> None:
    assert provider.say() == 1
    clock.now += 3600
    provider.fault = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        provider.say()


def test_a_clock_that_steps_back_makes_nothing_older(provider: Provider, clock: Clock) -> None:
    assert provider.say() == 1
    clock.now -= 86_400
    assert provider.say() == 1


def test_many_at_once_ask_for_a_new_one_once(provider: Provider, clock: Clock) -> None:
    provider.say()
    clock.now += 31
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: provider.say(renew=True), range(40)))
    assert provider.asked == 2
    assert set(said) <= {1, 2}
