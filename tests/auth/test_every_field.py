"""Every field that a provider or a stranger can send, in every wrong shape: a page with a reason, and never a 500.

The suite takes some of the shapes for each field, by turns, so that each comes to each kind of document; the long run
takes all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from portal.audit import AuditEvent
from tests.auth.conftest import Browser, forget
from tests.auth.hostile_op import MISSING, HostileOP, base64url, public_jwk, rsa_key

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>alert(1)</script>"


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


SHAPES: dict[str, Any] = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "a number": 7,
    "a huge number": 10**400,
    "a negative fraction": -1e-300,
    "nothing": "",
    "a blank": " ",
    "script": SCRIPT,
    "long": "x" * 20_000,
    "long script": SCRIPT * 400,
    "a null character": "a\x00b",
    "lines": "a\r\nSet-Cookie: b=c",
    "half a character": "\ud800",
    "right to left": "\u202eabc",
    "an empty list": [],
    "a list of nothing": [None],
    "a list of scripts": [SCRIPT] * 3,
    "a list of lists": [[["x"]]],
    "a deep list": deep(15),
    "a list too deep": deep(40),
    "an empty object": {},
    "an object": {"a": {"b": 1}, "": None},
    "an address": "https://evil.example/",
}
#: what may be sent in an address is text
TEXTS = {name: shape for name, shape in SHAPES.items() if shape is MISSING or isinstance(shape, str)}
TEXTS |= {"the same again": ["x", "x"]}
del TEXTS["half a character"]

FIELDS: dict[str, list[str]] = {
    "discovery": [
        *("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"),
        *("end_session_endpoint", "token_endpoint_auth_methods_supported", "code_challenge_methods_supported"),
        *("authorization_response_iss_parameter_supported", "id_token_signing_alg_values_supported"),
    ],
    "jwks": ["keys"],
    "key": ["kty", "kid", "use", "alg", "n", "e", "key_ops", "x5c", "d"],
    "token_answer": ["access_token", "token_type", "id_token", "expires_in", "refresh_token", "scope", "error"],
    "header": ["alg", "kid", "typ", "cty", "crit", "jku", "jwk", "x5u", "x5c", "x5t", "b64", "zip"],
    "claims": [
        *("iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "azp", "at_hash", "c_hash", "sid", "jti", "events"),
        *("acr", "amr", "auth_time"),
    ],
    "userinfo": [
        *("sub", "name", "given_name", "family_name", "email", "email_verified", "voperson_verified_email"),
        *("voperson_id", "org_domain", "schac_home_organization", "orcid", "eduperson_orcid", "acr"),
        *("eduperson_assurance", "eduperson_scoped_affiliation", "voperson_external_affiliation"),
        *("eduperson_entitlement", "entitlements", "entitlement", "facility_person_id", "groups", "iss", "aud", ""),
    ],
    "callback": ["code", "state", "iss", "error", "error_description", "error_uri", "session_state", "", "x" * 300],
}
EVERY = [(document, name) for document, names in FIELDS.items() for name in names]

#: what a page or an audit row may call a failure: words of ours, whatever was sent
REASON = re.compile(r"[a-z][a-z0-9_-]{1,40}")


@dataclass
class Liar:
    """The provider, and one lie of it."""

    op: HostileOP
    document: str
    name: str
    lie: Any = None
    header: dict[str, Any] = field(default_factory=dict)

    def tell(self) -> Any:
        """Sign in with the lie told; each time from the beginning."""
        op, lie = self.op, {self.name: self.lie}
        forget(op)
        op.discovery, op.claims, op.userinfo, op.token_answer, op.callback = {}, {}, {}, {}, {}
        op.replies.clear()
        key = public_jwk(rsa_key(), kid="one", alg="RS256")
        op.jwks, op.make_token = [key], self._sign
        self.header = lie if self.document == "header" else {}
        if self.document == "jwks":
            op.jwks = self.lie
        elif self.document == "key":
            op.jwks = [{name: value for name, value in (key | lie).items() if value is not MISSING}]
        elif self.document != "header":
            setattr(op, self.document, lie)
        browser = Browser()
        begun = browser.post("/auth/demo/login/", {"next": "/"})
        if begun.status_code != 200:
            return begun
        return browser.come_back(op.authorize(begun.headers["Refresh"].partition("url=")[2]))

    def _sign(self, base: dict[str, Any], claims: dict[str, Any]) -> str:
        """Sign what no library would: the header as it is told."""
        header = {"typ": "JWT", "alg": "RS256", **base, **self.header}
        head = json.dumps({name: value for name, value in header.items() if value is not MISSING})
        text = f"{base64url(head.encode())}.{base64url(json.dumps(claims).encode())}"
        signature = rsa_key().sign(text.encode(), PKCS1v15(), SHA256())
        return f"{text}.{base64url(signature)}"


def judge(response: Any, before: int) -> None:
    """One page; and where nobody was signed in, one row that says why in our words."""
    failures = list(AuditEvent.objects.filter(action="login_failed", pk__gt=before))
    if response.status_code == 200:
        assert failures == []
        return
    assert response.status_code in (400, 403, 502)
    assert [bool(REASON.fullmatch(failure.reason)) for failure in failures] == [True], failures[0].reason
    page = response.content.decode()
    assert response.headers["X-Request-Id"] in page
    assert failures[0].request_id == response.headers["X-Request-Id"]
    assert SCRIPT not in page
    assert "Set-Cookie: b=c" not in str(response.headers)
    assert "x" * 201 not in page
    assert page.count("&lt;script&gt;") <= 8
    assert "Traceback" not in page


def tell_all(op: HostileOP, document: str, name: str, shapes: dict[str, Any]) -> None:
    for shape, lie in shapes.items():
        before = AuditEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        try:
            judge(Liar(op, document, name, lie).tell(), before)
        except AssertionError as error:
            raise AssertionError(f"{document}: {name} is {shape}") from error


def shapes_of(document: str) -> dict[str, Any]:
    return TEXTS if document == "callback" else SHAPES


_turn = count()


def some(document: str) -> Iterator[tuple[str, Any]]:
    """The next two shapes in turn."""
    shapes = list(shapes_of(document).items())
    for _ in range(2):
        yield shapes[next(_turn) % len(shapes)]


SOME = [(document, name, dict(some(document))) for document, name in EVERY]


@pytest.mark.parametrize(
    ("document", "name", "shapes"), SOME, ids=[f"{document}-{name[:40]}" for document, name, _ in SOME]
)
def test_a_field_of_a_wrong_shape_is_a_page_with_a_reason(
    op: HostileOP, document: str, name: str, shapes: dict[str, Any]
) -> None:
    op.configure(facility_claims={"facility_person_id": "xfel"})
    tell_all(op, document, name, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])  # twenty refusals in a minute would be too many
@pytest.mark.parametrize(("document", "name"), EVERY, ids=[f"{document}-{name[:40]}" for document, name in EVERY])
def test_every_field_in_every_wrong_shape(op: HostileOP, document: str, name: str, half: int) -> None:
    op.configure(facility_claims={"facility_person_id": "xfel"})
    tell_all(op, document, name, dict(list(shapes_of(document).items())[half::2]))


def test_without_a_lie_it_signs_in(op: HostileOP) -> None:
    assert Liar(op, "header", "typ", "JWT").tell().status_code == 200


def test_every_reason_is_on_the_operators_page() -> None:
    page = (ROOT / "docs" / "operate" / "sign-in.md").read_text()
    described = re.findall(r"`([a-z][a-z0-9_-]*…?)`", page[page.index("## When it does not work") :])
    sources = "\n".join(path.read_text() for path in (ROOT / "auth").rglob("*.py"))
    raised = set(re.findall(r'(?:SignIn\w+|AccountClosed|Provider\w+)\(\s*f?"([a-z][a-z_-]+)', sources))
    assert len(raised) > 30
    known = {word for word in described if not word.endswith("…")}
    families = tuple(word[:-1] for word in described if word.endswith("…"))
    assert sorted(reason for reason in raised - known if not reason.startswith(families)) == []
