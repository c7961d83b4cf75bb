"""Who somebody is: userinfo about the same subject, and (issuer, subject) alone."""

from __future__ import annotations

from typing import Any

import pytest

from auth.models import Identity, User
from tests.auth.conftest import Browser, reason, refused
from tests.auth.hostile_op import MISSING, HostileOP, Reply, rsa_key

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("sub", ["victim@provider.example", "7BE41F09C2D84A6F@provider.example", MISSING, None, []])
def test_userinfo_about_somebody_else_is_refused(op: HostileOP, browser: Browser, sub: Any) -> None:
    op.userinfo = {"sub": sub}
    refused(op, browser, "userinfo-of-another")


def test_signed_userinfo_is_read(op: HostileOP, browser: Browser) -> None:
    claims = {"iss": op.issuer, "aud": "beamport", "sub": op.subject, "name": "Signed Name"}
    op.replies["/userinfo"] = Reply(op.sign({"kid": "one"}, claims).encode(), content_type="application/jwt")
    assert browser.sign_in(op).status_code == 200
    assert User.objects.get().display_name == "Signed Name"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://other.example"}, "wrong-issuer"),
        ({"aud": "other"}, "wrong-audience"),
        ({"sub": "victim"}, "userinfo-of-another"),
    ],
)
def test_signed_userinfo_obeys_the_same_rules(
    op: HostileOP, browser: Browser, changes: dict[str, Any], why: str
) -> None:
    claims = {"iss": op.issuer, "aud": "beamport", "sub": op.subject} | changes
    op.replies["/userinfo"] = Reply(op.sign({"kid": "one"}, claims).encode(), content_type="application/jwt")
    refused(op, browser, why)


def test_userinfo_signed_by_somebody_else_is_refused(op: HostileOP, browser: Browser) -> None:
    claims = {"iss": op.issuer, "aud": "beamport", "sub": op.subject}
    op.key = rsa_key(1)
    forged = op.sign({"kid": "one"}, claims)
    op.key = rsa_key()
    op.replies["/userinfo"] = Reply(forged.encode(), content_type="application/jwt")
    refused(op, browser, "bad-signature")


def test_a_provider_without_userinfo_serves(op: HostileOP, browser: Browser) -> None:
    op.discovery = {"userinfo_endpoint": MISSING}
    op.claims = {"name": "From the token"}
    assert browser.sign_in(op).status_code == 200
    assert User.objects.get().display_name == "From the token"


def test_the_same_e_mail_at_another_subject_is_another_user(op: HostileOP, browser: Browser) -> None:
    op.userinfo = {"email": "jana@facility.example", "email_verified": True}
    browser.sign_in(op)
    op.subject = "attacker@provider.example"
    Browser().sign_in(op)
    assert User.objects.filter(email="jana@facility.example").count() == 2


def test_a_changed_e_mail_is_the_same_user(op: HostileOP, browser: Browser) -> None:
    op.userinfo = {"email": "old@facility.example"}
    browser.sign_in(op)
    op.userinfo = {"email": "new@facility.example", "email_verified": True}
    Browser().sign_in(op)
    user = User.objects.get()
    assert (user.email, user.email_verified) == ("new@facility.example", True)


def test_no_e_mail_is_needed(op: HostileOP, browser: Browser) -> None:
    assert browser.sign_in(op).status_code == 200
    assert User.objects.get().email == ""


def test_another_letter_case_of_a_known_subject_is_refused(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    op.subject = op.subject.upper()
    assert Browser().sign_in(op).status_code == 400
    assert reason() == "subject-in-another-case"
    assert Identity.objects.count() == 1


@pytest.mark.parametrize(
    ("subject", "status"),
    [
        ("abc@umbrella.example", 200),
        ("abc@UMBRELLA.example", 200),
        ("abc@other.example", 403),
        ("abc@umbrella.example@other.example", 403),
        ("abc@umbrella.example.evil", 403),
        ("umbrella.example", 200),
    ],
)
def test_a_subject_must_lie_in_the_scopes_the_provider_may_assert(
    op: HostileOP, browser: Browser, subject: str, status: int
) -> None:
    op.configure(asserts_scopes=frozenset({"Umbrella.example", "urn:geant:umbrella.example"}))
    op.subject = subject
    assert browser.sign_in(op).status_code == status


def test_claims_of_any_shape_do_no_harm(op: HostileOP, browser: Browser) -> None:
    op.userinfo = {
        "name": "e\u0301va\u0000\u202e \ud83d\ude00" + "x" * 300, "email": ["a@b.example"], "email_verified": "true",
        "voperson_id": ["one", "two"], "eduperson_entitlement": ["x" * 3000, 7, None] + ["urn:x"] * 2000,
        "eduperson_assurance": "https://refeds.org/assurance", "acr": {}, "orcid": 5, "schac_home_organization": "\x00",
    }  # fmt: skip
    assert browser.sign_in(op).status_code == 200
    user = User.objects.get()
    assert user.display_name.startswith("éva")
    assert len(user.display_name) <= 200
    assert user.email_verified is False
