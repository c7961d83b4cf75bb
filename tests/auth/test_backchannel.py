"""What a provider says of its own accord: a signed-out session here ends; nothing else is believed."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.db import connection
from django.test import Client
from structlog.testing import capture_logs

from auth import access, limits
from auth.models import Identity, Session, UsedLogoutToken
from auth.oidc import tokens
from auth.sessions import SessionStore
from portal.audit import AuditEvent
from portal.lib.hashing import digest
from tests.auth.conftest import Browser, forget
from tests.auth.hostile_op import MISSING, HostileOP, Reply, base64url, changed, rsa_key
from tests.factories.auth import IdentityFactory, sign_in

pytestmark = pytest.mark.django_db

URL = "/auth/demo/backchannel-logout/"
FORM = "application/x-www-form-urlencoded"
EVENTS = {tokens.LOGOUT_EVENT: {}}


def token(op: HostileOP, header: dict[str, Any] | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": op.issuer, "aud": op.client_id, "iat": now, "exp": now + 120, "jti": uuid.uuid4().hex,
        "events": EVENTS, "sub": op.subject,
    }  # fmt: skip
    return op.sign({"kid": "one", "typ": "logout+jwt"} | (header or {}), changed(claims, changes))


def tell(op: HostileOP, text: str | None = None, *, url: str = URL, client: Client | None = None, **more: Any) -> Any:
    """Post as a provider's server does: no cookies, no Origin, no form token."""
    client = client or Client(enforce_csrf_checks=True)
    form = urlencode({"logout_token": token(op) if text is None else text})
    return client.post(url, form, content_type=FORM, **more)


def refused(op: HostileOP, browser: Browser, text: str, why: str) -> None:
    with capture_logs() as lines:
        response = tell(op, text)
    event = "logout token refused"
    assert {"event": event, "provider": "demo", "reason": why, "log_level": "warning"} in lines
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    said = response.json()
    assert said["status"] == 400
    if why in ("not-a-form", "not-one-token", "used-before"):
        assert (said["code"], said["title"]) == ("logout-refused", "This is no logout token that the portal takes.")
        assert said["detail"] == "The audit row `backchannel_logout` says which check it did not pass."
    assert "no-store" in response.headers["Cache-Control"]
    row = AuditEvent.objects.filter(action="backchannel_logout").latest("pk")
    assert (row.reason, row.result) == (why, AuditEvent.Result.REFUSED)
    assert (row.object_type, row.object_id) == ("provider", "demo")
    assert row.request_id == response.headers["X-Request-Id"] == response.json()["request_id"]
    assert browser.is_signed_in()
    assert not UsedLogoutToken.objects.exists() or why == "used-before"


@pytest.fixture
def signed_in(op: HostileOP, browser: Browser) -> Browser:
    browser.sign_in(op)
    return browser


# ---- what it ends ----
def test_the_session_ends_with_the_providers(op: HostileOP, signed_in: Browser) -> None:
    with capture_logs() as lines:
        response = tell(op)
    assert {"event": "logout by the provider", "provider": "demo", "sessions": 1, "log_level": "info"} in lines
    assert (response.status_code, response.content) == (200, b"")
    assert "no-store" in response.headers["Cache-Control"]
    assert not signed_in.is_signed_in()
    event = AuditEvent.objects.get(action="backchannel_logout")
    assert (event.result, event.detail, event.object_id) == (AuditEvent.Result.DONE, {"sessions": 1}, "demo")


def test_a_subject_ends_all_their_sessions_and_nobody_elses(op: HostileOP, signed_in: Browser) -> None:
    second, namesake, neighbour = Browser(), Browser(), Browser()
    second.sign_in(op)
    sign_in(namesake, IdentityFactory(subject=op.subject, issuer="https://other.example").user)
    op.subject = "somebody-else@provider.example"
    neighbour.sign_in(op)
    op.subject = Identity.objects.get(pk=Session.objects.earliest("pk").identity_id).subject
    assert tell(op).status_code == 200
    assert [each.is_signed_in() for each in (signed_in, second, namesake, neighbour)] == [False, False, True, True]


@pytest.mark.parametrize("also", [{}, {"sub": MISSING}], ids=["with sub", "alone"])
def test_a_sid_ends_that_session_alone(op: HostileOP, signed_in: Browser, also: dict[str, Any]) -> None:
    other = Browser()
    op.claims = {"sid": "another-session-at-op"}
    other.sign_in(op)
    assert tell(op, token(op, sid="session-at-op", **also)).status_code == 200
    assert (signed_in.is_signed_in(), other.is_signed_in()) == (False, True)


def test_the_same_sid_at_another_provider_is_another_session(
    op: HostileOP, other_op: HostileOP, signed_in: Browser
) -> None:
    said = token(other_op, sid="session-at-op", sub=MISSING)
    assert tell(op, said, url="/auth/other/backchannel-logout/").status_code == 200
    assert signed_in.is_signed_in()


def test_a_sid_of_somebody_else_ends_nothing(op: HostileOP, signed_in: Browser) -> None:
    assert tell(op, token(op, sid="session-at-op", sub="somebody-else")).status_code == 200
    assert signed_in.is_signed_in()


@pytest.mark.parametrize("named", [{"sid": "never-heard-of", "sub": MISSING}, {"sub": "never-heard-of"}])
def test_what_is_unknown_here_is_fine(op: HostileOP, signed_in: Browser, named: dict[str, Any]) -> None:
    assert tell(op, token(op, **named)).status_code == 200
    assert signed_in.is_signed_in()
    assert AuditEvent.objects.get(action="backchannel_logout").detail == {"sessions": 0}


def test_sessions_without_a_sid_are_not_what_a_sid_names(op: HostileOP, signed_in: Browser) -> None:
    Session.objects.update(provider_sid="")
    refused(op, signed_in, token(op, sid="", sub=MISSING), "bad-sid")


def test_a_request_in_flight_cannot_write_the_dead_session_back(op: HostileOP, signed_in: Browser) -> None:
    key = signed_in.cookies["__Host-sid"].value
    in_flight = SessionStore(key)
    in_flight["colour"] = "red"
    assert tell(op).status_code == 200
    with pytest.raises(UpdateError):
        in_flight.save()
    assert not access.live_sessions().exists()
    assert Session.objects.get().data == {}


# ---- what is not believed ----
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://other.example"}, "wrong-issuer"),
        ({"iss": MISSING}, "bad-iss"),
        ({"aud": "another-client"}, "wrong-audience"),
        ({"aud": ["beamport", "another-client"]}, "wrong-audience"),
        ({"azp": "another-client"}, "wrong-authorised-party"),
        ({"iat": MISSING}, "bad-iat"),
        ({"iat": "now"}, "bad-iat"),
        ({"iat": int(time.time()) + 86_400}, "issued-in-the-future"),
        ({"iat": int(time.time()) - 86_400, "exp": int(time.time()) + 86_400}, "too-old"),
        ({"exp": int(time.time()) - 86_400}, "expired"),
        ({"nbf": int(time.time()) + 86_400}, "not-yet-valid"),
        ({"events": MISSING}, "no-logout-event"),
        ({"events": {}}, "no-logout-event"),
        ({"events": [tokens.LOGOUT_EVENT]}, "no-logout-event"),
        ({"events": EVENTS | {"https://other.example/event": {}}}, "no-logout-event"),
        ({"events": {tokens.LOGOUT_EVENT: "yes"}}, "no-logout-event"),
        ({"nonce": "a nonce"}, "nonce-in-logout-token"),
        ({"nonce": None}, "nonce-in-logout-token"),
        ({"jti": MISSING}, "bad-jti"),
        ({"jti": ""}, "bad-jti"),
        ({"jti": 7}, "bad-jti"),
        ({"jti": "x" * 256}, "bad-jti"),
        ({"sub": MISSING}, "logout-of-nobody"),
        ({"sub": None}, "bad-sub"),
        ({"sid": ["session-at-op"]}, "bad-sid"),
        ({"sid": "x" * 256}, "bad-sid"),
    ],
)
def test_a_token_that_is_not_right_is_refused(
    op: HostileOP, signed_in: Browser, changes: dict[str, Any], why: str
) -> None:
    refused(op, signed_in, token(op, **changes), why)


@pytest.mark.parametrize("typ", ["at+jwt", "secevent+jwt", "id+jwt"])
def test_other_kinds_of_tokens_are_refused(op: HostileOP, signed_in: Browser, typ: str) -> None:
    refused(op, signed_in, token(op, {"typ": typ}), "wrong-token-type")


def test_an_id_token_is_no_logout_token(op: HostileOP, signed_in: Browser) -> None:
    refused(op, signed_in, op.id_token("nonce", "access"), "no-logout-event")


@pytest.mark.parametrize("text", ["", "a.b.c", "x", "é.é.é", "." * 1000])
def test_what_is_no_token_is_refused(op: HostileOP, signed_in: Browser, text: str) -> None:
    assert tell(op, text).status_code == 400
    assert signed_in.is_signed_in()


def test_somebody_elses_signature_is_refused(op: HostileOP, signed_in: Browser) -> None:
    op.key = rsa_key(1)
    forged = token(op)
    op.key = rsa_key()
    refused(op, signed_in, forged, "bad-signature")


@pytest.mark.parametrize("alg", ["none", "HS256"])
def test_only_asymmetric_signatures_count(op: HostileOP, signed_in: Browser, alg: str) -> None:
    _, body, _ = token(op).split(".")
    forged = f"{base64url(json.dumps({'alg': alg, 'typ': 'logout+jwt'}).encode())}.{body}."
    refused(op, signed_in, forged, "algorithm-not-allowed")


def test_a_token_for_another_provider_of_ours_is_refused(
    op: HostileOP, other_op: HostileOP, signed_in: Browser
) -> None:
    refused(op, signed_in, token(other_op), "wrong-issuer")


# ---- once ----
def test_a_token_counts_once(op: HostileOP, signed_in: Browser) -> None:
    text = token(op)
    assert tell(op, text).status_code == 200
    signed_in.sign_in(op)
    refused(op, signed_in, text, "used-before")


def test_the_jti_is_kept_hashed_and_longer_than_the_token_is_taken(op: HostileOP, signed_in: Browser) -> None:
    now = int(time.time())
    assert tell(op, token(op, jti="once", iat=now)).status_code == 200
    row = UsedLogoutToken.objects.get()
    assert (row.issuer, row.jti_hash) == (op.issuer, digest("once"))
    assert row.expires_at.timestamp() == now + 2 * (600 + 60)


def test_two_providers_may_use_one_jti(op: HostileOP, other_op: HostileOP, signed_in: Browser) -> None:
    assert tell(op, token(op, jti="first")).status_code == 200
    said = token(other_op, jti="first")
    assert tell(op, said, url="/auth/other/backchannel-logout/").status_code == 200


def test_nothing_is_noted_when_the_end_fails(
    op: HostileOP, signed_in: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError

    text = token(op)
    with monkeypatch.context() as broken:
        broken.setattr(access, "end", fails)
        with pytest.raises(RuntimeError):
            tell(op, text)
    assert not UsedLogoutToken.objects.exists()
    assert tell(op, text).status_code == 200
    assert not signed_in.is_signed_in()


@pytest.mark.django_db(transaction=True)
def test_one_token_posted_eight_times_at_once_counts_once(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    text, gate, statuses = token(op), threading.Barrier(8), list[int]()

    def send() -> None:
        gate.wait()
        try:
            statuses.append(tell(op, text).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [400] * 7
    assert UsedLogoutToken.objects.count() == 1
    assert AuditEvent.objects.filter(action="backchannel_logout", result="done").count() == 1


# ---- how it is asked ----
@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete"])
def test_only_a_post_is_looked_at(op: HostileOP, signed_in: Browser, method: str) -> None:
    response = getattr(Client(), method)(f"{URL}?logout_token={token(op)}")
    assert response.status_code == 405
    assert "no-store" in response.headers["Cache-Control"]
    assert signed_in.is_signed_in()


def test_a_token_in_the_address_is_not_looked_at(op: HostileOP, signed_in: Browser) -> None:
    response = Client().post(f"{URL}?logout_token={token(op)}", "", content_type=FORM)
    assert response.status_code == 400
    assert signed_in.is_signed_in()


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data; boundary=x"])
def test_only_a_form_is_read(op: HostileOP, signed_in: Browser, kind: str) -> None:
    response = Client().post(URL, f"logout_token={token(op)}", content_type=kind)
    assert response.status_code == 400
    assert AuditEvent.objects.get(action="backchannel_logout").reason == "not-a-form"
    assert signed_in.is_signed_in()


def test_two_tokens_at_once_are_none(op: HostileOP, signed_in: Browser) -> None:
    body = f"logout_token={token(op)}&logout_token={token(op)}"
    assert Client().post(URL, body, content_type=FORM).status_code == 400
    assert signed_in.is_signed_in()


def test_other_fields_of_the_form_are_passed_over(op: HostileOP, signed_in: Browser) -> None:
    assert Client().post(URL, f"more=1&logout_token={token(op)}", content_type=FORM).status_code == 200
    assert not signed_in.is_signed_in()


@pytest.mark.parametrize(("size", "status"), [(65_536, 400), (65_537, 413), (3_000_000, 413)])
def test_a_large_body_is_too_large(op: HostileOP, signed_in: Browser, size: int, status: int) -> None:
    body = b"logout_token=".ljust(size, b"x")
    response = Client().post(URL, body, content_type=FORM)
    assert response.status_code == status
    assert "no-store" in response.headers["Cache-Control"]
    assert signed_in.is_signed_in()


def test_an_unknown_provider_is_no_address(op: HostileOP, signed_in: Browser) -> None:
    assert tell(op, url="/auth/nowhere/backchannel-logout/").status_code == 404
    assert signed_in.is_signed_in()


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
def test_a_browser_of_another_site_gets_nowhere(op: HostileOP, signed_in: Browser, headers: dict[str, str]) -> None:
    assert tell(op, headers=headers).status_code == 403
    assert signed_in.is_signed_in()


def test_a_provider_out_of_order_is_told_to_try_again(op: HostileOP, signed_in: Browser) -> None:
    text = token(op)
    forget(op)
    op.replies["/.well-known/openid-configuration"] = Reply(status=503)
    response = tell(op, text)
    assert response.status_code == 502
    event = AuditEvent.objects.get(action="backchannel_logout")
    assert (event.result, event.reason) == (AuditEvent.Result.FAILED, "http-503")
    assert signed_in.is_signed_in()


def test_bad_posts_are_limited_for_each_address(op: HostileOP, signed_in: Browser) -> None:
    here = Client(REMOTE_ADDR="192.0.2.9")
    statuses = [tell(op, "x", client=here).status_code for _ in range(limits.MOST + 1)]
    assert statuses == [400] * limits.MOST + [429]
    assert int(tell(op, client=here).headers["Retry-After"]) >= 1
    assert AuditEvent.objects.filter(action="backchannel_logout").count() == limits.MOST
    assert signed_in.is_signed_in()
    assert tell(op).status_code == 200
    assert not signed_in.is_signed_in()
