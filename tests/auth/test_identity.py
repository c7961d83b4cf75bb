"""Who somebody is: userinfo about the same subject, and (issuer, subject) alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from auth import groups, identities
from auth.models import ErasedIdentity, GroupRule, Identity, User
from portal.audit import AuditEvent
from portal.lib.clock import Now
from portal.lib.hashing import digest
from tests.auth.conftest import Browser, reason, refused
from tests.auth.hostile_op import MISSING, HostileOP, Reply, rsa_key
from tests.factories.rights import claim_rule

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


# ---- who was erased while suspended ----
def erase(identity: Identity, *, suspended: bool) -> None:
    """As far as sign-in sees it: the identity is gone, its keyed hash is kept."""
    identities.remember_erased(identity, suspended=suspended)
    identity.delete()


@pytest.mark.parametrize("letters", [str, str.upper])
def test_who_was_erased_while_suspended_does_not_come_back_as_new(
    op: HostileOP, browser: Browser, letters: Callable[[str], str]
) -> None:
    browser.sign_in(op)
    erase(Identity.objects.get(), suspended=True)
    op.subject = letters(op.subject)
    again = Browser()
    assert again.sign_in(op).status_code == 403
    assert reason() == "erased-while-suspended"
    assert not again.is_signed_in()
    assert (User.objects.count(), Identity.objects.count()) == (1, 0)


def test_who_was_erased_by_wish_comes_back_as_somebody_new(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    erase(Identity.objects.get(), suspended=False)
    assert Browser().sign_in(op).status_code == 200
    assert User.objects.count() == 2


def test_a_hash_is_forgotten_in_time_and_says_nothing(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    erase(Identity.objects.get(), suspended=True)
    row = ErasedIdentity.objects.get()
    assert op.subject not in str(row.__dict__)
    assert digest(f"{op.issuer}\n{op.subject}") != row.key_hash
    assert timedelta(days=547) < row.expires_at - row.erased_at < timedelta(days=549)
    ErasedIdentity.objects.update(expires_at=Now())
    assert Browser().sign_in(op).status_code == 200


def test_another_subject_or_issuer_is_somebody_else(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    identity = Identity.objects.get()
    Identity.objects.update(issuer="https://other.example")
    identity.refresh_from_db()
    erase(identity, suspended=True)
    assert Browser().sign_in(op).status_code == 200


def test_a_new_secret_key_forgets_nobody(op: HostileOP, browser: Browser, settings: Any) -> None:
    browser.sign_in(op)
    erase(Identity.objects.get(), suspended=True)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new" * 20, [settings.SECRET_KEY]
    assert Browser().sign_in(op).status_code == 403


# ---- races ----
@pytest.mark.django_db(transaction=True)
def test_two_first_sign_ins_at_once_are_one_user(op: HostileOP) -> None:
    op.userinfo = {"name": "Jana"}
    count, outcomes = 6, []
    together = threading.Barrier(count)
    browsers = [Browser() for _ in range(count)]
    answers = [op.authorize(browser.start()) for browser in browsers]

    def come_back(browser: Browser, answer: dict[str, str]) -> None:
        try:
            together.wait(30)
            outcomes.append(browser.come_back(answer).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=come_back, args=pair) for pair in zip(browsers, answers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [200] * count
    assert (User.objects.count(), Identity.objects.count()) == (1, 1)
    assert AuditEvent.objects.filter(action="user_created").count() == 1
    assert all(browser.is_signed_in() for browser in browsers)


@pytest.mark.django_db(transaction=True)
def test_a_rule_deleted_during_a_sign_in_asks_to_start_again(op: HostileOP, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, settle = claim_rule(), groups._settle
    op.userinfo = {"groups": ["beam"]}

    def delete() -> None:
        GroupRule.objects.filter(pk=rule.pk).delete()
        connection.close()

    def deleted_meanwhile(identity: Identity, given: Any) -> None:
        thread = threading.Thread(target=delete)
        thread.start()
        thread.join()
        settle(identity, given)

    with monkeypatch.context() as patched:
        patched.setattr(groups, "_settle", deleted_meanwhile)
        assert Browser().sign_in(op).status_code == 400
    assert reason() == "changed-meanwhile"
    assert not User.objects.exists()
    assert Browser().sign_in(op).status_code == 200
