"""What was tried too often is answered with when to try again."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from portal import problems
from portal.lib.errors import TooMany


@pytest.mark.parametrize("path", ["/", "/api/v1/me"])
def test_it_says_when_to_try_again(path: str) -> None:
    answer = problems.respond(RequestFactory().get(path), TooMany(retry_after=30))
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "30"
