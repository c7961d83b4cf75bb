"""Fixtures that more than one folder of tests uses. Alice owns, Bob is in the team, Charlie is a stranger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.db import connections
from psycopg.pq import TransactionStatus

from tests import canary, emptying


def pytest_configure(config: pytest.Config) -> None:
    canary.arm_django()
    emptying.arm()
    settings.WHITENOISE_AUTOREFRESH = True  # else each test client looks for all static files when it is made
    config.addinivalue_line("markers", "leaks: sends secrets to where they do not belong, as a hostile client may")


@pytest.fixture(autouse=True)
def no_secret_is_seen(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may let a secret out: into a log, the database, Redis, or to an instance (tests/canary.py)."""
    canary.sightings.clear()
    yield
    if not request.node.get_closest_marker("leaks"):
        assert canary.sightings == []


def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """End a connection that a test which ran out of time has left in the middle of a query: the next needs another."""
    for one in connections.all(initialized_only=True) if call.excinfo else ():
        if one.connection and one.connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
            one.close()
