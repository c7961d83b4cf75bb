"""What must be true of a signed token, one rule each; without portal, network and database."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from structlog.testing import capture_logs

from auth.oidc import keys, shelf, tokens
from auth.oidc.discovery import Metadata
from auth.oidc.errors import SignInRefused
from auth.providers import Provider
from tests.auth.hostile_op import MISSING, base64url, changed, ec_key, public_jwk, rsa_key

NOW = 1_800_000_000
PROVIDER = Provider("sso", "Facility account", "https://login.example/realms/users", "beamport", "secret")
METADATA = Metadata("", "", "https://login.example/jwks", "", "", basic_auth=True, sends_iss=True)
ID_TOKEN = {
    "iss": PROVIDER.issuer, "sub": "7be41f", "aud": ["beamport"], "iat": NOW, "exp": NOW + 300, "nonce": "the nonce",
}  # fmt: skip
LOGOUT = {
    "iss": PROVIDER.issuer, "sub": "7be41f", "sid": "s1", "aud": "beamport", "iat": NOW, "exp": NOW + 120, "jti": "j1",
    "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
}  # fmt: skip
USERINFO = {"iss": PROVIDER.issuer, "sub": "7be41f", "aud": "beamport"}

Changes = dict[str, Any]


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


@pytest.fixture(autouse=True)
def announced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The keys that the provider lists."""
    listed: list[Any] = [public_jwk(rsa_key(), kid="one")]
    monkeypatch.setattr(shelf, "document", lambda *_, **__: {"keys": listed})
    return listed


def signed(claims: Changes, header: Changes | None = None, key: Any = None, alg: str = "RS256") -> str:
    headers = {"kid": "one"} if header is None else header
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key or rsa_key(), alg, headers=headers)


def id_token(provider: Provider = PROVIDER, access_token: str = "access", **changes: Any) -> Changes:
    token = signed(changed(ID_TOKEN, changes))
    return tokens.id_token_claims(provider, METADATA, token, nonce="the nonce", access_token=access_token)


def logout(provider: Provider = PROVIDER, **changes: Any) -> Changes:
    return tokens.logout_claims(provider, METADATA, signed(changed(LOGOUT, changes)))


def userinfo(provider: Provider = PROVIDER, **changes: Any) -> Changes:
    return tokens.userinfo_claims(provider, METADATA, signed(changed(USERINFO, changes)))


READERS: dict[str, Callable[..., Changes]] = {"ID token": id_token, "logout token": logout, "userinfo": userinfo}


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(SignInRefused) as refusal:
        act()
    return refusal.value.reason


def test_what_is_right_is_returned() -> None:
    assert id_token() == ID_TOKEN
    assert logout() == LOGOUT
    assert userinfo() == USERINFO


# ---- rules of all three ----
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iat": -1}, "bad-iat"),
        ({"nbf": -1}, "bad-nbf"),
        ({"exp": 253_402_300_800}, "bad-exp"),
        ({"iss": MISSING}, "bad-iss"),
        ({"iss": ""}, "bad-iss"),
        ({"iss": "https://lögin.example"}, "bad-iss"),
        ({"iss": [PROVIDER.issuer]}, "bad-iss"),
        ({"iss": PROVIDER.issuer + "/"}, "wrong-issuer"),
        ({"aud": MISSING}, "bad-aud"),
        ({"aud": None}, "bad-aud"),
        ({"aud": ["beamport", 1]}, "bad-aud"),
        ({"aud": {"beamport": 1}}, "bad-aud"),
        ({"aud": []}, "wrong-audience"),
        ({"aud": "Beamport"}, "wrong-audience"),
        ({"aud": ["beamport", "other"], "azp": "beamport"}, "wrong-audience"),
        ({"azp": "other"}, "wrong-authorised-party"),
        ({"azp": None}, "wrong-authorised-party"),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": "soon"}, "bad-exp"),
        ({"exp": True}, "bad-exp"),
        ({"exp": None}, "bad-exp"),
        ({"iat": NOW + 61}, "issued-in-the-future"),
        ({"iat": "now"}, "bad-iat"),
        ({"nbf": NOW + 61}, "not-yet-valid"),
        ({"nbf": [NOW]}, "bad-nbf"),
    ],
    ids=str,
)
def test_issuer_audience_and_times(kind: str, changes: Changes, why: str) -> None:
    assert refused(lambda: READERS[kind](**changes)) == why


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "beamport"},
        {"aud": ["beamport", "beamport"]},
        {"aud": ["beamport"], "azp": "beamport"},
        {"exp": NOW - 59},
        {"exp": NOW + 0.5},
        {"iat": NOW + 60},
        {"nbf": NOW + 60},
        {"nbf": 0, "exp": 253_402_300_799},
    ],
    ids=str,
)
def test_what_may_differ(kind: str, changes: Changes) -> None:
    assert READERS[kind](**changes).items() >= changes.items()


@pytest.mark.parametrize("kind", READERS)
def test_other_audiences_are_named_in_the_file_and_want_our_azp(kind: str) -> None:
    provider = replace(PROVIDER, extra_audiences=frozenset({"archive"}))
    both = ["beamport", "archive"]
    assert READERS[kind](provider, aud=both, azp="beamport")["aud"] == both
    assert refused(lambda: READERS[kind](provider, aud=both)) == "wrong-authorised-party"
    assert refused(lambda: READERS[kind](provider, aud=both, azp="archive")) == "wrong-authorised-party"
    assert refused(lambda: READERS[kind](provider, aud=["archive"], azp="beamport")) == "wrong-audience"


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "1" + "0" * 400])
def test_times_are_numbers(number: str) -> None:
    text = json.dumps(ID_TOKEN | {"exp": "HERE"}).replace('"HERE"', number)
    token = jwt.PyJWS().encode(text.encode(), rsa_key(), "RS256", headers={"kid": "one"})
    why = refused(lambda: tokens.id_token_claims(PROVIDER, METADATA, token, nonce="the nonce", access_token=""))
    assert why in ("bad-token", "bad-exp")


# ---- ID tokens ----
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": MISSING}, "bad-exp"),
        ({"iat": MISSING}, "bad-iat"),
        ({"sub": MISSING}, "bad-sub"),
        ({"sub": ""}, "bad-sub"),
        ({"sub": "ü"}, "bad-sub"),
        ({"sub": 5}, "bad-sub"),
        ({"sub": "x" * 256}, "bad-subject"),
        ({"sub": "a\nb"}, "bad-subject"),
        ({"sub": "a\x7f"}, "bad-subject"),
        ({"nonce": MISSING}, "bad-nonce"),
        ({"nonce": "another"}, "wrong-nonce"),
        ({"at_hash": ""}, "bad-at_hash"),
        ({"at_hash": None}, "bad-at_hash"),
        ({"at_hash": "another"}, "wrong-at-hash"),
    ],
    ids=str,
)
def test_an_id_token_names_a_subject_and_this_attempt(changes: Changes, why: str) -> None:
    assert refused(lambda: id_token(**changes)) == why


@pytest.mark.parametrize("subject", ["x", "x" * 255, " ", "~", "a@b@c"])
def test_a_subject_has_up_to_255_characters(subject: str) -> None:
    assert id_token(sub=subject)["sub"] == subject


@pytest.mark.parametrize(
    ("alg", "key", "size"),
    [
        ("RS256", rsa_key, 256), ("RS384", rsa_key, 384), ("PS512", rsa_key, 512), ("ES256", ec_key, 256),
    ],
)  # fmt: skip
def test_at_hash_is_half_of_the_access_tokens_digest(
    announced: list[Any], alg: str, key: Callable[[], Any], size: int
) -> None:
    announced[:] = [public_jwk(key(), kid="one")]
    digest = hashlib.new(f"sha{size}", b"access").digest()
    right, wrong = (base64url(part) for part in (digest[: size // 16], digest))

    def check(at_hash: str) -> Changes:
        token = signed(ID_TOKEN | {"at_hash": at_hash}, key=key(), alg=alg)
        return tokens.id_token_claims(PROVIDER, METADATA, token, nonce="the nonce", access_token="access")

    assert check(right)["at_hash"] == right
    assert refused(lambda: check(wrong)) == "wrong-at-hash"


def test_at_hash_of_ed25519_is_of_sha512(announced: list[Any]) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    announced[:] = [json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())) | {"kid": "one"}]
    at_hash = base64url(hashlib.sha512(b"access").digest()[:32])
    token = signed(ID_TOKEN | {"at_hash": at_hash}, key=key, alg="EdDSA")
    assert tokens.id_token_claims(PROVIDER, METADATA, token, nonce="the nonce", access_token="access")


# ---- userinfo ----
def test_signed_userinfo_needs_no_times() -> None:
    assert "exp" not in userinfo()


# ---- logout tokens ----
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iat": MISSING}, "bad-iat"),
        ({"iat": NOW - 661}, "too-old"),
        ({"events": MISSING}, "no-logout-event"),
        ({"events": [tokens.LOGOUT_EVENT]}, "no-logout-event"),
        ({"events": tokens.LOGOUT_EVENT}, "no-logout-event"),
        ({"events": {}}, "no-logout-event"),
        ({"events": {"http://schemas.openid.net/event/other": {}}}, "no-logout-event"),
        ({"events": {tokens.LOGOUT_EVENT: {}, "http://schemas.openid.net/event/other": {}}}, "no-logout-event"),
        ({"events": {tokens.LOGOUT_EVENT: None}}, "no-logout-event"),
        ({"events": {tokens.LOGOUT_EVENT: []}}, "no-logout-event"),
        ({"nonce": "the nonce"}, "nonce-in-logout-token"),
        ({"nonce": None}, "nonce-in-logout-token"),
        ({"sub": MISSING, "sid": MISSING}, "logout-of-nobody"),
        ({"sub": ""}, "bad-sub"),
        ({"sub": None}, "bad-sub"),
        ({"sub": 7}, "bad-sub"),
        ({"sub": "x" * 256}, "bad-sub"),
        ({"sid": ""}, "bad-sid"),
        ({"sid": ["s1"]}, "bad-sid"),
        ({"sid": "x" * 256}, "bad-sid"),
        ({"jti": MISSING}, "bad-jti"),
        ({"jti": ""}, "bad-jti"),
        ({"jti": 1}, "bad-jti"),
        ({"jti": "x" * 256}, "bad-jti"),
    ],
    ids=str,
)
def test_what_is_no_logout_token_is_refused(changes: Changes, why: str) -> None:
    assert refused(lambda: logout(**changes)) == why


@pytest.mark.parametrize(
    "changes",
    [
        {"sid": MISSING},
        {"sub": MISSING},
        {"exp": MISSING},
        {"iat": NOW - 660, "exp": NOW - 59},
        {"jti": "x" * 255, "sub": "x" * 255, "sid": "x" * 255},
        {"events": {tokens.LOGOUT_EVENT: {"more": 1}}},
    ],
    ids=str,
)
def test_what_a_logout_token_may_lack_or_be(changes: Changes) -> None:
    assert logout(**changes) == changed(LOGOUT, changes)


def test_an_id_token_is_no_logout_token_and_the_reverse() -> None:
    assert refused(lambda: tokens.logout_claims(PROVIDER, METADATA, signed(ID_TOKEN))) == "no-logout-event"
    token = signed(LOGOUT | {"nonce": "the nonce"}, {"kid": "one", "typ": "logout+jwt"})
    why = refused(lambda: tokens.id_token_claims(PROVIDER, METADATA, token, nonce="the nonce", access_token=""))
    assert why == "wrong-token-type"


# ---- headers and signatures ----
def with_header(header: Changes, signature: str = "AAAA") -> str:
    return f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(LOGOUT).encode())}.{signature}"


@pytest.mark.parametrize("typ", [MISSING, "JWT", "jwt", "logout+jwt", "LOGOUT+JWT"])
def test_the_type_of_a_logout_token(typ: Any) -> None:
    token = signed(LOGOUT, changed({"kid": "one"}, {"typ": None if typ is MISSING else typ}))
    assert tokens.logout_claims(PROVIDER, METADATA, token) == LOGOUT


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"alg": "none"}, "algorithm-not-allowed"),
        ({"alg": "HS256"}, "algorithm-not-allowed"),
        ({"alg": "rs256"}, "algorithm-not-allowed"),
        ({"alg": ["RS256"]}, "algorithm-not-allowed"),
        ({}, "algorithm-not-allowed"),
        ({"alg": "RS256", "crit": []}, "critical-header"),
        ({"alg": "RS256", "crit": ["b64"], "b64": False}, "critical-header"),
        ({"alg": "RS256", "typ": "at+jwt"}, "wrong-token-type"),
        ({"alg": "RS256", "typ": None}, "wrong-token-type"),
        ({"alg": "RS256", "typ": 7}, "wrong-token-type"),
        ({"alg": "RS256", "kid": 7}, "bad-token"),
        ({"alg": "RS256", "kid": None}, "bad-token"),
        ({"alg": "RS256"}, "bad-signature"),
        ({"alg": "RS256", "kid": "two"}, "bad-signature"),
    ],
    ids=str,
)
def test_headers(header: Changes, why: str) -> None:
    assert refused(lambda: tokens.logout_claims(PROVIDER, METADATA, with_header(header))) == why


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c.d", "é.e30.AA", "W10.e30.AA", "bnVsbA.e30.AA", "e.e30.AA", "{}.e30.AA", "_w.e30.AA"],
)
def test_what_is_no_token(token: str) -> None:
    assert refused(lambda: tokens.logout_claims(PROVIDER, METADATA, token)) == "bad-token"


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b'{"a": NaN}', b"\xff", b'{"a":' * 30 + b"1" + b"}" * 30])
def test_a_signed_payload_that_is_no_object(payload: bytes) -> None:
    token = jwt.PyJWS().encode(payload, rsa_key(), "RS256", headers={"kid": "one"})
    assert refused(lambda: tokens.logout_claims(PROVIDER, METADATA, token)) == "bad-token"


def test_algorithms_are_those_of_the_provider() -> None:
    only = replace(PROVIDER, algorithms=frozenset({"ES256"}))
    assert refused(lambda: logout(only)) == "algorithm-not-allowed"


def test_a_signature_is_tried_with_the_kept_keys_and_then_with_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    new = [jwt.PyJWK(public_jwk(rsa_key(), kid="one"), algorithm="RS256")]
    old = [jwt.PyJWK(public_jwk(rsa_key(1), kid="one"), algorithm="RS256")]

    def suitable(_provider: Provider, _metadata: Metadata, header: Changes, *, renew: bool) -> list[jwt.PyJWK]:
        assert header["kid"] == "one"
        asked.append(renew)
        return new if renew else old

    monkeypatch.setattr(keys, "suitable", suitable)
    assert logout() == LOGOUT
    assert asked == [False, True]
    asked.clear()
    old[:] = new
    assert logout() == LOGOUT
    assert asked == [False]
    asked.clear()
    old[:], new[:] = [], []
    assert refused(logout) == "bad-signature"
    assert asked == [False, True]


def test_every_key_that_fits_is_tried(announced: list[Any]) -> None:
    announced.insert(0, public_jwk(rsa_key(1), kid="one"))
    assert logout() == LOGOUT


def test_moments() -> None:
    moment = tokens.moment({"auth_time": NOW}, "auth_time")
    assert moment is not None
    assert moment.timestamp() == NOW
    assert moment.tzinfo is not None
    for nonsense in (None, True, "1", [], 1e300, -1e300, float("nan"), 10**30):
        assert tokens.moment({"auth_time": nonsense}, "auth_time") is None
    assert tokens.moment({}, "auth_time") is None


# ---- keys ----
def fitting(listed: list[Any], **header: Any) -> list[Any]:
    chosen = keys.suitable(PROVIDER, METADATA, {"alg": "RS256", **header})
    return [next(at for at, entry in enumerate(listed) if entry["n"] == _modulus(key)) for key in chosen]


def _modulus(key: jwt.PyJWK) -> str:
    numbers = key.key.public_numbers()
    return base64.urlsafe_b64encode(numbers.n.to_bytes(256)).rstrip(b"=").decode()


def test_keys_fit_by_kid_type_use_and_algorithm(announced: list[Any]) -> None:
    announced[:] = [
        public_jwk(rsa_key(), kid="one"),
        public_jwk(rsa_key(1), kid="two", alg="RS256"),
        public_jwk(rsa_key(2)) | {"use": "enc"},
        public_jwk(rsa_key(3), alg="RS512"),
        public_jwk(rsa_key(4)),
    ]
    del announced[4]["use"]
    assert fitting(announced, kid="one") == [0]
    assert fitting(announced, kid="two") == [1]
    assert fitting(announced) == [0, 1, 4]
    assert fitting(announced, kid="five") == []
    assert keys.suitable(PROVIDER, METADATA, {"alg": "ES256"}) == []


def test_at_most_five_keys_are_tried_and_twenty_looked_at(announced: list[Any]) -> None:
    announced[:] = [public_jwk(rsa_key(), kid=str(number)) for number in range(6)]
    assert len(keys.suitable(PROVIDER, METADATA, {"alg": "RS256"})) == 5
    broken = {"kty": "RSA", "n": 5}
    announced[:] = [broken] * 19 + [public_jwk(rsa_key())]
    assert len(keys.suitable(PROVIDER, METADATA, {"alg": "RS256"})) == 1
    announced.insert(0, broken)
    assert keys.suitable(PROVIDER, METADATA, {"alg": "RS256"}) == []


@pytest.mark.parametrize("listed", [None, {}, "keys", [None], [[]], ["x"], [{"kty": "RSA"}]])
def test_what_is_no_list_of_keys_has_none(monkeypatch: pytest.MonkeyPatch, listed: Any) -> None:
    monkeypatch.setattr(shelf, "document", lambda *_, **__: {"keys": listed})
    assert keys.suitable(PROVIDER, METADATA, {"alg": "RS256"}) == []
    monkeypatch.setattr(shelf, "document", lambda *_, **__: {})
    assert keys.suitable(PROVIDER, METADATA, {"alg": "RS256"}) == []


def test_a_key_that_is_none_is_a_warning(announced: list[Any]) -> None:
    announced[:] = [{"kty": "RSA", "n": 5}, public_jwk(rsa_key())]
    with capture_logs() as logs:
        assert len(keys.suitable(PROVIDER, METADATA, {"alg": "RS256"})) == 1
    (warning,) = logs
    assert (warning["event"], warning["log_level"]) == ("unusable key of a provider", "warning")
    assert warning["error"].endswith("Error")


def test_short_keys_do_not_serve(announced: list[Any]) -> None:
    announced[:] = [public_jwk(rsa_key(9, 2040)), public_jwk(ec.generate_private_key(ec.SECP256R1()))]
    assert keys.suitable(PROVIDER, METADATA, {"alg": "RS256"}) == []


def test_the_keys_are_those_of_the_announced_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def document(kind: str, url: str, _load: object, *, renew: bool) -> Changes:
        asked.append((kind, url, renew))
        return {"keys": []}

    monkeypatch.setattr(shelf, "document", document)
    keys.suitable(PROVIDER, METADATA, {"alg": "RS256"})
    keys.suitable(PROVIDER, METADATA, {"alg": "RS256"}, renew=True)
    assert asked == [("jwks", METADATA.jwks_uri, False), ("jwks", METADATA.jwks_uri, True)]
