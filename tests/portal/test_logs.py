"""No secret and no endless value reaches a log line."""

from __future__ import annotations

import pytest

from portal.logs import redact


@pytest.mark.parametrize(
    "key", ["token", "api_token", "Authorization", "cookie", "client_secret", "password", "ticket"]
)
def test_what_looks_like_a_credential_is_struck_out(key: str) -> None:
    assert redact(None, "", {key: "marked-value"}) == {key: "…"}


@pytest.mark.parametrize("name", ["t", "code", "state", "token", "ticket", "id_token"])
def test_secrets_in_query_strings_are_struck_out(name: str) -> None:
    line = redact(None, "", {"url": f"http://x/y?a=1&{name}=marked-value&b=2"})["url"]
    assert "marked-value" not in line
    assert "b=2" in line


def test_long_values_are_capped() -> None:
    assert len(redact(None, "", {"path": "x" * 100_000})["path"]) == 2000
