"""No secret and no endless value reaches a log line."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from structlog.stdlib import ProcessorFormatter

from portal.logs import redact


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, Any]]:
    """What the portal's own handler writes of the records of a logger and those below it."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one.formatter, ProcessorFormatter)]
    texts = [handlers[0].format(record) for record in caplog.records if record.name.startswith(logger)]
    assert all("\n" not in text for text in texts)
    return [json.loads(text) for text in texts]


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


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["TooManyFieldsSent", "RequestDataTooBig"])
def test_a_request_that_is_too_much_is_one_warning_without_a_traceback(
    caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    fields = {f"f{number}": "x" for number in range(settings.DATA_UPLOAD_MAX_NUMBER_FIELDS + 1)}
    long = {"f": "x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE}
    body = "&".join(f"{name}={value}" for name, value in (fields if kind == "TooManyFieldsSent" else long).items())
    browser = Client(enforce_csrf_checks=True)
    browser.cookies[settings.CSRF_COOKIE_NAME] = "x" * 32  # so that the token is looked for in the body
    browser.post("/auth/logout/", body, content_type="application/x-www-form-urlencoded")
    (line,) = lines(caplog, "django.security")
    assert line["logger"] == f"django.security.{kind}"
    assert line["level"] == "warning"
    assert "Traceback" not in json.dumps(line)
    assert line.keys() == {"event", "level", "logger", "timestamp"}


def test_an_error_of_our_own_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("marked")
    except ValueError:
        logging.getLogger("django.request").exception("failed")
    (line,) = lines(caplog, "django.request")
    assert line["level"] == "error"
    assert "ValueError: marked" in line["exception"]
