"""A body that is too long is neither kept nor cut: its sender is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings

from auth import tokens
from portal.asgi import application
from portal.bodies import Receive, bounded
from tests.factories.auth import UserFactory

MOST = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
HOST = settings.PORTAL_URL.partition("://")[2].encode()


async def post(path: str, chunks: list[bytes], *headers: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes]]:
    """Send a body in these chunks; returns status and headers."""
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("localhost", 8000),
        "headers": [(b"host", HOST), *headers],
    }  # fmt: skip
    asked = ApplicationCommunicator(application, scope)
    for number, chunk in enumerate(chunks):
        more = number < len(chunks) - 1
        await asked.send_input({"type": "http.request", "body": chunk, "more_body": more})
    start = await asked.receive_output(10)
    return start["status"], dict(start["headers"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("length", [(), ((b"content-length", b"%d" % (MOST * 3)),)], ids=["chunked", "announced"])
async def test_too_long_a_body_is_answered_with_413(length: tuple[tuple[bytes, bytes], ...]) -> None:
    form = (b"content-type", b"application/x-www-form-urlencoded")
    csrf = (b"cookie", b"__Host-csrf=" + b"a" * 32)
    status, headers = await post("/auth/logout/", [b"x" * MOST] * 3, form, csrf, *length)
    assert status == 413
    assert headers[b"X-Content-Type-Options"] == b"nosniff"


@pytest.mark.django_db(transaction=True)
async def test_json_that_is_too_long_is_answered_with_413_too() -> None:
    user = await sync_to_async(UserFactory)()
    _, token = await sync_to_async(tokens.issue)(user, scopes=tokens.SCOPES, lasts=timedelta(days=1))
    headers = (b"content-type", b"application/json"), (b"authorization", f"Bearer {token}".encode())
    status, _ = await post("/api/v1/instances", [b"[" + b"0" * MOST] * 3, *headers)
    assert status == 413


@pytest.mark.django_db(transaction=True)
async def test_one_that_just_fits_is_read() -> None:
    form = (b"content-type", b"application/x-www-form-urlencoded")
    csrf = (b"cookie", b"__Host-csrf=" + b"a" * 32)
    body = b"csrfmiddlewaretoken=" + b"a" * 32 + b"&x="
    rest = b"y" * (MOST - len(body))
    status, _ = await post("/auth/logout/", [body, rest], form, csrf, (b"content-length", b"%d" % MOST))
    assert status == 200


async def test_the_rest_of_what_is_too_long_is_passed_over() -> None:
    """Django takes a further piece of a body for an error of the server's, and answers 500."""
    heard = []

    async def listening(scope: object, receive: Receive, send: object) -> None:
        heard.extend([(await receive())["body"], (await receive())["type"]])

    asked = ApplicationCommunicator(bounded(listening), {"type": "http", "headers": []})
    for number in range(4):
        await asked.send_input({"type": "http.request", "body": b"x" * MOST, "more_body": number < 3})
    await asked.send_input({"type": "http.disconnect"})
    await asked.wait(10)
    assert heard == [b"", "http.disconnect"]
