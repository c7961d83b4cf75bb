"""Rules of use: versioned, public, in nobody's way until they are published, and in everybody's until accepted."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.test import Client

from auth import policies, tokens
from auth.models import Acceptance, Policy, User
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.errors import Conflict
from tests.auth.conftest import Browser
from tests.auth.hostile_op import HostileOP
from tests.factories.auth import UserFactory, bearer, sign_in
from tests.factories.instances import InstanceFactory

pytestmark = pytest.mark.django_db

ACCEPT = "/auth/policies/rules/accept/"


@pytest.fixture
def alice() -> User:
    return UserFactory()


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client()
    sign_in(client, alice)
    return client


@pytest.fixture
def rules() -> Policy:
    return policies.publish("rules", "1", "Rules of use", "Be kind.\n\nBe <b>careful</b>.")


def test_without_published_rules_nobody_is_asked(browser: Client) -> None:
    Policy.objects.create(kind="rules", version="draft", title="x", text="x")
    Policy.objects.create(
        kind="rules", version="next", title="x", text="x", published_at=clock.now() + timedelta(days=1)
    )
    policies.publish("privacy", "1", "Privacy", "What we hold.")
    assert browser.get("/instances/").status_code == 200


def test_they_are_read_accepted_and_then_out_of_the_way(browser: Client, alice: User, rules: Policy) -> None:
    led = browser.get("/instances/?after=x")
    assert led.status_code == 302
    assert led.headers["Location"] == f"{ACCEPT}?next=%2Finstances%2F%3Fafter%3Dx"
    page = browser.get(led.headers["Location"])
    assert "Be &lt;b&gt;careful" in page.text
    answer = browser.post(ACCEPT, {"version": "1", "next": "/instances/?after=x"})
    assert answer.headers["Location"] == "/instances/?after=x"
    assert browser.get("/instances/").status_code == 200
    assert Acceptance.objects.get().policy == rules
    row = AuditEvent.objects.get(action="policy_accepted")
    assert (row.actor_uid, row.object_id) == (alice.uid, "1")


def test_a_new_version_asks_again_and_a_yes_to_the_old_one_does_not_count(browser: Client, rules: Policy) -> None:
    browser.post(ACCEPT, {"version": "1"})
    policies.publish("rules", "2", "Rules of use", "Be kinder.")
    assert browser.get("/instances/").status_code == 302
    assert "since you accepted version 1" in browser.post(ACCEPT, {"version": "1"}).text
    assert browser.get("/instances/").status_code == 302
    browser.post(ACCEPT, {"version": "2"})
    assert browser.get("/instances/").status_code == 200
    assert Acceptance.objects.count() == 2


def test_it_leads_to_no_other_site(browser: Client, rules: Policy) -> None:
    for wanted in ("https://evil.example", "//evil.example", "/\\evil.example"):
        assert browser.post(ACCEPT, {"version": "1", "next": wanted}).headers["Location"] == "/"


def test_reading_accepts_nothing(browser: Client, rules: Policy) -> None:
    browser.get(ACCEPT, {"version": "1"})
    browser.get("/auth/policies/rules/")
    assert browser.get("/instances/").status_code == 302


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/api/v1/me", {}), ("/instances/", {"Sec-Fetch-Dest": "empty"}), ("/instances/", {"HX-Request": "true"})],
)
def test_programs_and_scripts_are_refused(browser: Client, rules: Policy, path: str, headers: Any) -> None:
    answer = browser.get(path, headers=headers)
    assert answer.status_code == 403
    assert "rules-not-accepted" in answer.text


def test_acts_are_refused_and_not_done(browser: Client, alice: User, rules: Policy) -> None:
    instance = InstanceFactory(owner=alice, state="active")
    assert browser.post(f"{instance.get_absolute_url()}stop/").status_code == 403
    assert browser.post(f"/api/v1/instances/{instance.uid}/stop").status_code == 403
    instance.refresh_from_db()
    assert instance.target == "active"


def test_a_token_is_refused_too(client: Client, alice: User, rules: Policy) -> None:
    text = tokens.issue(alice, scopes=["me:read"], lasts=timedelta(days=1))[1]
    answer = client.get("/api/v1/me", headers=bearer(text))
    assert answer.status_code == 403
    assert answer.json()["code"] == "rules-not-accepted"
    policies.accept(alice, rules)
    assert client.get("/api/v1/me", headers=bearer(text)).status_code == 200


def test_nobody_enters_an_instance(browser: Client, alice: User, rules: Policy) -> None:
    instance = InstanceFactory(owner=alice, state="active")
    answer = browser.get(f"/enter/{instance.slug}?n={'0' * 64}", headers={"Sec-Fetch-Dest": "document"})
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(ACCEPT)


def test_one_may_read_leave_export_and_be_erased(browser: Client, rules: Policy) -> None:
    for path in ("/auth/policies/privacy/", "/auth/policies/rules/1/", "/auth/account/data/export/"):
        assert browser.get(path).status_code == 200
    assert browser.post("/auth/account/data/export/").status_code == 200
    assert browser.post("/auth/account/data/erasure/").status_code == 302
    assert browser.get("/auth/account/data/erasure/").status_code == 200
    assert browser.post("/auth/account/data/erasure/withdraw/").status_code == 302
    assert browser.post("/auth/logout/").status_code == 200


def test_visitors_are_in_nobodys_way(client: Client, rules: Policy) -> None:
    assert client.get("/experiments").status_code == 200
    assert client.get(ACCEPT).status_code == 302


def test_every_version_stays_to_be_read(client: Client, rules: Policy) -> None:
    policies.publish("rules", "2", "Rules, second", "Be kinder.")
    page = client.get("/auth/policies/rules/")
    assert "Be kinder" in page.text
    assert "/auth/policies/rules/1/" in page.text
    assert "not the version in force" in client.get("/auth/policies/rules/1/").text
    Policy.objects.create(kind="rules", version="draft", title="x", text="x")
    for path in ("rules/draft/", "rules/9/", "cookies/"):
        assert client.get(f"/auth/policies/{path}").status_code == 404


@pytest.mark.parametrize("change", [{"text": "Pay me."}, {"version": "0"}, {"published_at": None}])
def test_a_published_version_is_never_changed(rules: Policy, change: dict[str, Any]) -> None:
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
        Policy.objects.update(**change)
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
        Policy.objects.all()._raw_delete("default")
    with pytest.raises(Conflict):
        policies.publish("rules", "1", "Other rules", "Pay me.")


AGREEMENTS = {"https://aai.example/aup/1": "1"}


@pytest.mark.parametrize(
    ("agreements", "said", "counts"),
    [
        (AGREEMENTS, "https://aai.example/aup/1", True),
        (AGREEMENTS, ["https://x.example", "https://aai.example/aup/1"], True),
        (AGREEMENTS, "https://aai.example/aup/10", False),
        (AGREEMENTS, ["https://aai.example/aup/"], False),
        (AGREEMENTS, None, False),
        (AGREEMENTS, [{}, 5, None], False),
        ({}, "https://aai.example/aup/1", False),
        ({"https://aai.example/aup/1": "0"}, "https://aai.example/aup/1", False),
    ],
)
def test_a_yes_given_to_the_provider_counts_where_it_is_configured(
    browser: Client, alice: User, rules: Policy, agreements: dict[str, str], said: Any, counts: bool
) -> None:
    policies.honour(alice, agreements, said, "umbrella")
    assert browser.get("/instances/").status_code == (200 if counts else 302)
    assert [row.detail for row in AuditEvent.objects.filter(action="policy_accepted")] == (
        [{"said_by": "umbrella"}] if counts else []
    )


def test_the_command_publishes(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "rules.txt"
    file.write_text("Be kind.")
    call_command("publish_policy", "rules", "1.0", str(file), stdout=StringIO())
    assert "Be kind." in client.get("/auth/policies/rules/").text
    with pytest.raises(CommandError, match="already"):
        call_command("publish_policy", "rules", "1.0", str(file))
    with pytest.raises(CommandError, match="No such file"):
        call_command("publish_policy", "rules", "1.1", str(tmp_path / "none"))


def test_and_does_so_at_the_sign_in(op: HostileOP, rules: Policy) -> None:
    op.configure(policy_agreements=AGREEMENTS)
    op.userinfo["voperson_policy_agreement"] = ["https://aai.example/aup/1"]
    browser = Browser()
    browser.sign_in(op)
    assert browser.get("/instances/").status_code == 200
    assert Acceptance.objects.count() == 1
