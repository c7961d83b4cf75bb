"""Every lie an ID token can tell is refused with a page and a reason, never with a stack trace."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.cache import cache

from auth.oidc import shelf
from tests.auth.conftest import Browser, forget, reason, refused
from tests.auth.hostile_op import MISSING, HostileOP, Reply, base64url, ec_key, public_jwk, rsa_key

pytestmark = pytest.mark.django_db

NOW = time.time


def deep() -> Any:
    value: Any = []
    for _ in range(60):
        value = [value]
    return value


CLAIMS: dict[str, tuple[Callable[[HostileOP], dict[str, Any]], str]] = {
    "wrong iss": (lambda op: {"iss": "https://other.example"}, "wrong-issuer"),
    "iss with a slash more": (lambda op: {"iss": op.issuer + "/"}, "wrong-issuer"),
    "no iss": (lambda op: {"iss": MISSING}, "bad-iss"),
    "iss as list": (lambda op: {"iss": [op.issuer]}, "bad-iss"),
    "wrong aud": (lambda op: {"aud": "somebody-else"}, "wrong-audience"),
    "aud only begins like ours": (lambda op: {"aud": "beamport-2"}, "wrong-audience"),
    "no aud": (lambda op: {"aud": MISSING}, "bad-aud"),
    "aud of numbers": (lambda op: {"aud": [1]}, "bad-aud"),
    "empty aud": (lambda op: {"aud": []}, "wrong-audience"),
    "a second, unknown aud": (lambda op: {"aud": ["beamport", "other"], "azp": "beamport"}, "wrong-audience"),
    "foreign azp": (lambda op: {"azp": "other"}, "wrong-authorised-party"),
    "azp of a wrong type": (lambda op: {"azp": ["beamport"]}, "wrong-authorised-party"),
    "no exp": (lambda op: {"exp": MISSING}, "bad-exp"),
    "exp as text": (lambda op: {"exp": "4000000000"}, "bad-exp"),
    "exp true": (lambda op: {"exp": True}, "bad-exp"),
    "expired": (lambda op: {"exp": NOW() - 65}, "expired"),
    "no iat": (lambda op: {"iat": MISSING}, "bad-iat"),
    "issued in the future": (lambda op: {"iat": NOW() + 65}, "issued-in-the-future"),
    "not yet valid": (lambda op: {"nbf": NOW() + 65}, "not-yet-valid"),
    "no sub": (lambda op: {"sub": MISSING}, "bad-sub"),
    "empty sub": (lambda op: {"sub": ""}, "bad-sub"),
    "sub as number": (lambda op: {"sub": 7}, "bad-sub"),
    "sub too long": (lambda op: {"sub": "x" * 256}, "bad-subject"),
    "sub with a control character": (lambda op: {"sub": "a\x00b"}, "bad-subject"),
    "sub not ASCII": (lambda op: {"sub": "jаna"}, "bad-sub"),
    "sub with half a character": (lambda op: {"sub": "\ud800"}, "bad-sub"),
    "wrong nonce": (lambda op: {"nonce": "other"}, "wrong-nonce"),
    "no nonce": (lambda op: {"nonce": MISSING}, "bad-nonce"),
    "nonce as list": (lambda op: {"nonce": ["x"]}, "bad-nonce"),
    "wrong at_hash": (lambda op: {"at_hash": "AAAA"}, "wrong-at-hash"),
    "at_hash as number": (lambda op: {"at_hash": 1}, "bad-at_hash"),
    "endless depth": (lambda op: {"more": deep()}, "bad-token"),
}


@pytest.mark.parametrize("lie", CLAIMS)
def test_a_false_claim_is_refused(op: HostileOP, browser: Browser, lie: str) -> None:
    claims, why = CLAIMS[lie]
    op.claims = claims(op)
    refused(op, browser, why)


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999", "1" + "0" * 5000])
def test_numbers_that_are_none_are_refused(op: HostileOP, browser: Browser, name: str, number: str) -> None:
    def with_number(header: dict[str, Any], claims: dict[str, Any]) -> str:
        text = json.dumps(claims | {name: "HERE"}).replace('"HERE"', number)
        return jwt.PyJWS().encode(text.encode(), op.key, op.alg, headers=header)

    op.make_token = with_number
    assert browser.sign_in(op).status_code == 400
    assert not browser.is_signed_in()


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": lambda: NOW() - 50},
        {"iat": lambda: NOW() + 50},
        {"nbf": lambda: NOW() + 50},
        {"exp": lambda: NOW() + 300.75},
    ],
    ids=["exp", "iat", "nbf", "float"],
)
def test_clocks_may_differ_by_a_minute(op: HostileOP, browser: Browser, claims: dict[str, Callable[[], float]]) -> None:
    op.claims = {name: value() for name, value in claims.items()}
    assert browser.sign_in(op).status_code == 200


def test_aud_may_be_one_text(op: HostileOP, browser: Browser) -> None:
    op.claims = {"aud": "beamport", "at_hash": MISSING, "sid": MISSING}
    assert browser.sign_in(op).status_code == 200


def test_configured_extra_audiences_pass_with_our_azp_only(op: HostileOP, browser: Browser) -> None:
    op.configure(extra_audiences=frozenset({"archive"}))
    op.claims = {"aud": ["beamport", "archive"]}
    refused(op, browser, "wrong-authorised-party")
    op.claims["azp"] = "beamport"
    assert browser.sign_in(op).status_code == 200


# ---- signature, algorithm, key ----
def unsigned(spelling: str) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    def make(header: dict[str, Any], claims: dict[str, Any]) -> str:
        parts = ({"typ": "JWT", **header, "alg": spelling}, claims)
        return ".".join(base64url(json.dumps(part).encode()) for part in parts) + "."

    return make


@pytest.mark.parametrize("spelling", ["none", "None", "NONE", "nOnE", "", None, 7, ["RS256"]])
def test_an_unsigned_token_is_refused(op: HostileOP, browser: Browser, spelling: Any) -> None:
    op.make_token = unsigned(spelling)
    refused(op, browser, "algorithm-not-allowed")


@pytest.mark.parametrize("secret", ["client secret", "public key"])
def test_a_token_signed_with_a_shared_secret_is_refused(op: HostileOP, browser: Browser, secret: str) -> None:
    pem = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key = pem if secret == "public key" else op.client_secret.encode()

    def make(header: dict[str, Any], claims: dict[str, Any]) -> str:
        head = base64url(json.dumps({**header, "alg": "HS256"}).encode())
        signed = f"{head}.{base64url(json.dumps(claims).encode())}"
        return f"{signed}.{base64url(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"

    op.make_token = make
    refused(op, browser, "algorithm-not-allowed")


def test_a_signature_by_another_key_is_refused(op: HostileOP, browser: Browser) -> None:
    op.key = rsa_key(1)
    refused(op, browser, "bad-signature")


def test_a_changed_payload_is_refused(op: HostileOP, browser: Browser) -> None:
    def tampered(header: dict[str, Any], claims: dict[str, Any]) -> str:
        head, _, signature = op.sign(header, claims).split(".")
        return f"{head}.{base64url(json.dumps(claims | {'sub': 'admin'}).encode())}.{signature}"

    op.make_token = tampered
    refused(op, browser, "bad-signature")


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "HERE/evil-keys"},
        {"x5u": "HERE/evil-keys"},
        {"jwk": public_jwk(rsa_key(1))},
        {"x5c": ["AAAA"]},
    ],
    ids=["jku", "x5u", "jwk", "x5c"],
)
def test_keys_named_by_the_token_are_never_used(op: HostileOP, browser: Browser, header: dict[str, Any]) -> None:
    op.key = rsa_key(1)
    op.replies["/evil-keys"] = Reply.of({"keys": [public_jwk(rsa_key(1), kid="one")]})
    op.header |= {
        name: value.replace("HERE", op.issuer) if isinstance(value, str) else value for name, value in header.items()
    }
    refused(op, browser, "bad-signature")
    assert "/evil-keys" not in op.asked


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"crit": ["exp"]}, "critical-header"),
        ({"crit": []}, "critical-header"),
        ({"typ": "logout+jwt"}, "wrong-token-type"),
        ({"typ": "at+jwt"}, "wrong-token-type"),
        ({"kid": 5}, "bad-token"),
    ],
)
def test_a_header_we_do_not_understand_is_refused(
    op: HostileOP, browser: Browser, header: dict[str, Any], why: str
) -> None:
    def make(base: dict[str, Any], claims: dict[str, Any]) -> str:
        head = base64url(json.dumps({"alg": "RS256", **base, **header}).encode())
        return f"{head}.{base64url(json.dumps(claims).encode())}.AAAA"

    op.make_token = make
    refused(op, browser, why)


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c.d", "....", "é.é.é", "!!.!!.!!", "bnVsbA.e30.AA", "W10.e30.AA"])
def test_what_is_no_token_is_refused(op: HostileOP, browser: Browser, token: str) -> None:
    op.make_token = lambda header, claims: token
    assert browser.sign_in(op).status_code == 400
    assert not browser.is_signed_in()


@pytest.mark.parametrize("id_token", [MISSING, None, 5, {}, []])
def test_an_answer_without_id_token_is_refused(op: HostileOP, browser: Browser, id_token: Any) -> None:
    op.token_answer = {"id_token": id_token}
    refused(op, browser, "no-id-token")


@pytest.mark.parametrize("access_token", [MISSING, None, "", "two words", "line\r\nX-Evil: 1", "é"])
def test_an_answer_without_a_usable_access_token_is_refused(op: HostileOP, browser: Browser, access_token: Any) -> None:
    op.token_answer = {"access_token": access_token}
    op.claims = {"at_hash": MISSING}
    refused(op, browser, "no-access-token")


def test_a_token_without_kid_is_taken_when_one_of_the_keys_fits(op: HostileOP, browser: Browser) -> None:
    op.header = {}
    op.jwks = [public_jwk(rsa_key(1)), public_jwk(rsa_key())]
    assert browser.sign_in(op).status_code == 200


def test_without_kid_at_most_five_keys_are_tried(op: HostileOP, browser: Browser) -> None:
    op.header = {}
    op.jwks = [public_jwk(rsa_key(1))] * 5 + [public_jwk(rsa_key())]
    refused(op, browser, "bad-signature")


def test_an_unknown_kid_is_refused_after_one_more_look(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    assert op.asked["/jwks"] == 1
    op.header = {"kid": "two"}
    assert Browser().sign_in(op).status_code == 400
    assert reason() == "bad-signature"


def test_new_keys_are_found_under_a_new_kid(op: HostileOP, browser: Browser, clock_moves: Callable[[], None]) -> None:
    browser.sign_in(op)
    op.key, op.header, op.jwks = rsa_key(1), {"kid": "two"}, [public_jwk(rsa_key(1), kid="two")]
    clock_moves()
    assert Browser().sign_in(op).status_code == 200
    assert op.asked["/jwks"] == 2


def test_new_keys_are_found_under_the_old_kid_or_none(
    op: HostileOP, browser: Browser, clock_moves: Callable[[], None]
) -> None:
    browser.sign_in(op)
    op.key, op.jwks = rsa_key(1), [public_jwk(rsa_key(1), kid="one")]
    clock_moves()
    assert Browser().sign_in(op).status_code == 200
    op.key, op.header, op.jwks = rsa_key(), {}, [public_jwk(rsa_key())]
    clock_moves()
    assert Browser().sign_in(op).status_code == 200


def test_keys_are_asked_for_again_at_most_once_in_thirty_seconds(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    op.key = rsa_key(1)
    for _ in range(4):
        assert Browser().sign_in(op).status_code == 400
    assert op.asked["/jwks"] == 1


@pytest.fixture
def clock_moves(op: HostileOP) -> Callable[[], None]:
    """Let the thirty seconds between two looks at the keys pass."""
    return lambda: cache.delete_many([f"{shelf.key_of('jwks', op.issuer + '/jwks')}:asked"])


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "RSA", "kid": "one"},
        {"kty": "RSA", "kid": "one", "n": 5, "e": []},
        {"kty": "oct", "kid": "one", "k": "c2VjcmV0"},
        public_jwk(rsa_key(), kid="one") | {"use": "enc"},
        public_jwk(rsa_key(), kid="one", alg="RS512"),
        public_jwk(rsa_key(9, 1024), kid="one"),
        "text",
        None,
    ],
)
def test_keys_that_do_not_serve_are_passed_over(op: HostileOP, browser: Browser, jwk: Any) -> None:
    op.jwks = [jwk]
    if isinstance(jwk, dict) and jwk.get("n") == public_jwk(rsa_key(9, 1024))["n"]:
        op.key = rsa_key(9, 1024)
    refused(op, browser, "bad-signature")
    forget(op)
    op.key = rsa_key()
    op.jwks = [jwk, public_jwk(rsa_key(), kid="one")]
    assert browser.sign_in(op).status_code == 200


def test_elliptic_keys_serve(op: HostileOP, browser: Browser) -> None:
    op.key, op.alg, op.header = ec_key(), "ES256", {"kid": "e"}
    op.jwks = [public_jwk(ec_key(), kid="e")]
    assert browser.sign_in(op).status_code == 200


def test_an_rsa_key_does_not_verify_an_elliptic_algorithm(op: HostileOP, browser: Browser) -> None:
    op.key, op.alg = ec_key(), "ES256"
    refused(op, browser, "bad-signature")
