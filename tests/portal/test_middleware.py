"""What every answer carries, and what the portal refuses before any view runs."""

from __future__ import annotations

import json
import re

import pytest
from django.conf import settings
from django.test import Client, RequestFactory

from portal.middleware import FetchMetadataGate

pytestmark = pytest.mark.django_db

PAGES = ["/", "/nowhere", "/api/v1/nowhere", "/healthz"]


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-Id"])


def test_the_gateways_request_id_is_kept(client: Client) -> None:
    given = "0123456789abcdef" * 2
    assert client.get("/", headers={"x-request-id": given}).headers["X-Request-Id"] == given


def test_a_made_up_request_id_is_replaced(client: Client) -> None:
    assert client.get("/", headers={"x-request-id": "x\r\ny"}).headers["X-Request-Id"] != "x\r\ny"


def test_a_missing_page_says_so_in_words_and_with_the_request_id(client: Client) -> None:
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert "nothing here" in answer.text
    assert answer.headers["X-Request-Id"] in answer.text


def test_the_api_answers_problem_json(client: Client) -> None:
    answer = client.get("/api/v1/nowhere")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.content)
    assert problem["code"] == "not-found"
    assert problem["status"] == 404
    assert problem["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": settings.PORTAL_URL}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://x.apps.localhost:8000"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://evil.example"}, False),
        ({"origin": settings.PORTAL_URL}, True),
        ({"origin": "null"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
    ],
)
def test_unsafe_requests_must_be_same_origin(headers: dict[str, str], allowed: bool) -> None:
    request = RequestFactory().post("/", headers=headers)
    assert FetchMetadataGate.same_origin(request) is allowed


def test_a_cross_site_post_is_refused_before_the_view(client: Client) -> None:
    answer = client.post("/auth/logout/", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert "another site" in answer.text


def test_health_needs_no_sign_in_and_tells_nothing(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
