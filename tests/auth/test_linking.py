"""A second way in: only by its owner's own sign-in and yes, never one that is somebody else's, never the last away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from auth import linking
from auth.models import Group, GroupMember, GroupRule, Identity, Notice, Session, User
from auth.sessions import SessionStore
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.errors import Conflict
from tests.factories.auth import IdentityFactory, UserFactory, sign_in
from tests.races import ROUNDS, Racers

CONFIRM = "/auth/account/identities/link/"
SUBJECT = "bob@other.example"


def shown(subject: str = SUBJECT, ago: timedelta = timedelta(), **more: Any) -> dict[str, str]:
    """What the callback leaves in the session."""
    return {
        "provider": "demo",
        "issuer": "https://provider.example",
        "subject": subject,
        "name": "Bob <b>Elsewhere</b>",
        "email": "bob@other.example",
        "at": (clock.now() - ago).isoformat(),
        **more,
    }


def leave(client: Client, pending: Any) -> None:
    """Put it where the callback puts it: into this browser's session."""
    store = SessionStore(client.cookies["__Host-sid"].value)
    store[linking.KEY] = pending
    store.save()


@pytest.fixture
def alice(db: None) -> User:
    return UserFactory(handle="alice")


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client()
    sign_in(client, alice, IdentityFactory(user=alice, subject="alice@provider.example"))
    return client


def wanted(subject: str = SUBJECT) -> linking.Pending:
    return linking.Pending("demo", "https://provider.example", subject, "Bob", "")


def refusal() -> tuple[str, str]:
    row = AuditEvent.objects.get(result=AuditEvent.Result.REFUSED)
    return row.action, row.reason


# ---- adding ----
def test_the_page_names_both_and_only_a_yes_adds(browser: Client, alice: User) -> None:
    leave(browser, shown())
    page = browser.get(CONFIRM)
    for text in ("alice@provider.example", SUBJECT, "Bob &lt;b&gt;Elsewhere"):
        assert text in page.text
    assert alice.identities.count() == 1
    assert browser.post(CONFIRM).headers["Location"] == "/auth/account/identities/"
    added = alice.identities.get(subject=SUBJECT)
    row = AuditEvent.objects.get(action="identity_linked")
    assert (row.actor_uid, row.object_id, row.result) == (alice.uid, str(added.uid), "done")
    assert "was added" in Notice.objects.get(user=alice).text
    assert "was added" in browser.get("/auth/account/").text
    assert browser.post(CONFIRM).status_code == 409  # once


def test_nobody_else_can_send_the_yes(alice: User) -> None:
    """A form of another site has no token of ours, and no session's but the one that was shown it."""
    strict = Client(enforce_csrf_checks=True)
    sign_in(strict, alice)
    leave(strict, shown())
    assert strict.post(CONFIRM).status_code == 403
    stranger = Client()
    sign_in(stranger, UserFactory())
    assert stranger.post(CONFIRM).status_code == 409
    assert Client().post(CONFIRM).status_code == 302
    assert not Identity.objects.filter(subject=SUBJECT).exists()


@pytest.mark.parametrize("pending", [None, "text", {}, {"at": "soon"}, {"at": 5}, {"at": "2026-11-21T00:00:00"}])
def test_nothing_sensible_was_shown(browser: Client, pending: Any) -> None:
    leave(browser, pending)
    assert browser.get(CONFIRM).status_code == 409
    assert browser.post(CONFIRM).status_code == 409


@pytest.mark.parametrize(("ago", "status"), [(timedelta(minutes=4), 302), (timedelta(minutes=5, seconds=1), 409)])
def test_a_yes_counts_for_five_minutes(browser: Client, alice: User, ago: timedelta, status: int) -> None:
    leave(browser, shown(ago=ago))
    assert browser.post(CONFIRM).status_code == status
    assert alice.identities.count() == (2 if status == 302 else 1)


@pytest.mark.parametrize("subject", [SUBJECT, SUBJECT.upper()])
def test_somebody_elses_is_refused_and_both_are_told(browser: Client, alice: User, subject: str) -> None:
    owner = IdentityFactory(subject=SUBJECT).user
    leave(browser, shown(subject))
    page = browser.post(CONFIRM)
    assert page.status_code == 409
    assert "identity-taken" in page.text
    assert owner.handle not in page.text
    assert Identity.objects.get(subject=SUBJECT).user == owner
    assert "tried to add it" in Notice.objects.get(user=owner).text
    assert alice.handle not in Notice.objects.get(user=owner).text
    assert refusal() == ("identity_linked", "taken")


def test_what_is_mine_already_stays_mine_once(browser: Client, alice: User) -> None:
    leave(browser, shown("alice@provider.example"))
    assert browser.post(CONFIRM).status_code == 409
    assert refusal() == ("identity_linked", "already-mine")
    assert not Notice.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", ROUNDS)
def test_of_two_users_at_once_one_gets_it(attempt: int) -> None:
    users = [UserFactory(), UserFactory()]
    racers = Racers(8)
    try:
        answers = racers.run(*[lambda user=user: linking.link(user, wanted()) for user in users])
    finally:
        racers.close()
    assert sum(isinstance(answer, Identity) for answer in answers) == 1
    assert all(isinstance(answer, Identity | Conflict) for answer in answers), answers
    assert Identity.objects.filter(subject=SUBJECT).count() == 1
    assert AuditEvent.objects.filter(action="identity_linked", result="done").count() == 1


# ---- taking away ----
@pytest.fixture
def second(alice: User) -> Identity:
    return IdentityFactory(user=alice, subject=SUBJECT)


def path(identity: Identity) -> str:
    return f"/auth/account/identities/{identity.uid}/unlink/"


def test_it_goes_with_its_sessions_and_the_others_stay(browser: Client, alice: User, second: Identity) -> None:
    elsewhere = Client()
    row = sign_in(elsewhere, alice, second)
    assert "Keep it" in browser.get(path(second)).text
    assert elsewhere.get("/api/v1/me").status_code == 200
    assert browser.post(path(second)).status_code == 302
    assert not Identity.objects.filter(pk=second.pk).exists()
    assert Session.objects.get(pk=row.pk).ended_at is not None
    assert elsewhere.get("/api/v1/me").status_code == 401
    assert browser.get("/api/v1/me").status_code == 200
    assert AuditEvent.objects.get(action="identity_unlinked").object_id == str(second.uid)
    assert "no longer signs you in" in Notice.objects.get(user=alice).text


def test_taking_away_the_one_in_use_signs_out(browser: Client, alice: User, second: Identity) -> None:
    first = alice.identities.get(subject="alice@provider.example")
    assert "you will be signed out" in browser.get(path(first)).text
    assert browser.post(path(first)).headers["Location"] == "/auth/sign-in/"
    assert browser.get("/api/v1/me").status_code == 401
    assert list(alice.identities.all()) == [second]


def test_the_last_one_stays(browser: Client, alice: User) -> None:
    only = alice.identities.get()
    assert "your only way" in browser.get(path(only)).text
    page = browser.post(path(only))
    assert page.status_code == 409
    assert "last-identity" in page.text
    assert refusal() == ("identity_unlinked", "last-identity")
    assert browser.get("/api/v1/me").status_code == 200


def test_nobody_takes_anothers_away(browser: Client) -> None:
    others = IdentityFactory()
    IdentityFactory(user=others.user)
    assert browser.get(path(others)).status_code == 404
    assert browser.post(path(others)).status_code == 404
    assert Identity.objects.filter(pk=others.pk).exists()


def test_it_wants_a_fresh_sign_in(alice: User, second: Identity) -> None:
    client = Client()
    sign_in(client, alice, IdentityFactory(user=alice), shown=timedelta(minutes=10))
    assert client.post(path(second)).status_code == 403
    assert Identity.objects.filter(pk=second.pk).exists()


def test_what_it_brought_goes_with_it(alice: User, second: Identity) -> None:
    group = Group.objects.create(slug="beamline", title="Beamline")
    rule = GroupRule.objects.create(provider="demo", group=group, kind="claim", claim="groups", value="x")
    later = clock.now() + timedelta(days=1)
    GroupMember.objects.create(user=alice, group=group, identity=second, rule=rule, expires_at=later)
    IdentityFactory(user=alice)
    linking.unlink(alice, second)
    assert not GroupMember.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", ROUNDS)
def test_both_at_once_leave_one(attempt: int) -> None:
    alice = UserFactory()
    both = [IdentityFactory(user=alice), IdentityFactory(user=alice)]
    racers = Racers(2)
    try:
        answers = racers.run(*[lambda one=one: linking.unlink(alice, one) for one in both])
    finally:
        racers.close()
    assert sorted(type(answer).__name__ for answer in answers) == ["LastIdentity", "NoneType"]
    assert alice.identities.count() == 1
