"""Attempts to sign in: ten a session, ten minutes each, of one browser and one provider, taken once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from auth import identities
from auth.claims import Profile
from auth.models import Identity, LoginState, Session, User
from auth.oidc import states
from auth.oidc.errors import SignInStale
from auth.providers import Provider
from portal.lib.clock import Now
from portal.lib.hashing import digest
from tests.factories.auth import UserFactory
from tests.races import ROUNDS, Racers

pytestmark = pytest.mark.django_db


def browser(name: str = "a") -> Session:
    return Session.objects.create(key_hash=digest(name), expires_at=Now() + timedelta(hours=1))


@pytest.fixture
def session() -> Session:
    return browser()


def refused(*given: Any) -> str:
    with pytest.raises(SignInStale) as refusal:
        states.consume(*given)
    return refusal.value.reason


def test_an_attempt_is_kept_as_a_hash_and_given_back_once(session: Session) -> None:
    begun = states.begin(session, "sso", "/doi/10.1/x")
    row = LoginState.objects.get()
    assert row.state_hash == digest(begun.state)
    assert begun.state not in str(LoginState.objects.values().get())
    attempt = states.consume(session, "sso", begun.state)
    assert (attempt.nonce, attempt.verifier, attempt.next) == (begun.nonce, begun.verifier, "/doi/10.1/x")
    assert refused(session, "sso", begun.state) == "unknown-state"


def test_what_was_taken_keeps_no_secret(session: Session) -> None:
    """The row stays for a day, for its owner's export; neither it nor a backup can be used for anything."""
    begun, other = states.begin(session, "sso", "/"), states.begin(session, "sso", "/")
    states.consume(session, "sso", begun.state)
    refused(browser("b"), "sso", other.state)
    taken, left = LoginState.objects.order_by("pk")
    assert taken.consumed_at is not None
    assert (taken.nonce, taken.verifier) == ("", "")
    assert (left.nonce, left.verifier) == (other.nonce, other.verifier)


def test_state_nonce_and_verifier_cannot_be_guessed(session: Session) -> None:
    one, two = states.begin(session, "sso", "/"), states.begin(session, "sso", "/")
    words = [one.state, one.nonce, one.verifier, two.state, two.nonce, two.verifier]
    assert len(set(words)) == 6
    assert all(len(word) >= 22 for word in words)
    assert 43 <= len(one.verifier) <= 128  # RFC 7636 §4.1


def test_an_attempt_is_of_one_browser_and_one_provider(session: Session) -> None:
    begun = states.begin(session, "sso", "/")
    assert refused(browser("b"), "sso", begun.state) == "unknown-state"
    assert refused(session, "other", begun.state) == "unknown-state"
    assert refused(session, "sso", begun.state.swapcase()) == "unknown-state"
    assert refused(None, "sso", begun.state) == "no-attempt"
    assert refused(session, "sso", "") == "no-attempt"
    assert states.consume(session, "sso", begun.state)


@pytest.mark.parametrize(("age", "taken"), [(599, True), (600, False), (601, False)])
def test_an_attempt_lasts_ten_minutes(session: Session, age: int, taken: bool) -> None:
    begun = states.begin(session, "sso", "/")
    LoginState.objects.update(created_at=Now() - timedelta(seconds=age))
    if taken:
        assert states.consume(session, "sso", begun.state)
    else:
        assert refused(session, "sso", begun.state) == "unknown-state"


def test_of_more_than_ten_the_oldest_go_in_this_browser_only(session: Session) -> None:
    other = states.begin(browser("b"), "sso", "/")
    begun = [states.begin(session, "sso", f"/{number}") for number in range(12)]
    kept = LoginState.objects.filter(session=session).order_by("pk").values_list("next", flat=True)
    assert list(kept) == [f"/{number}" for number in range(2, 12)]
    assert LoginState.objects.filter(state_hash=digest(other.state)).exists()
    assert refused(session, "sso", begun[1].state) == "unknown-state"
    assert states.consume(session, "sso", begun[2].state).next == "/2"


def test_of_the_same_moment_the_first_rows_go(session: Session) -> None:
    for number in range(10):
        states.begin(session, "sso", f"/{number}")
    soon = datetime.now(UTC) + timedelta(seconds=60)
    LoginState.objects.update(created_at=soon)
    states.begin(session, "sso", "/early")
    assert not LoginState.objects.filter(next="/early").exists()
    for goes, comes in enumerate(("/a", "/b")):
        LoginState.objects.update(created_at=soon - timedelta(seconds=90))
        states.begin(session, "sso", comes)
        assert LoginState.objects.filter(next=comes).exists()
        assert not LoginState.objects.filter(next=f"/{goes}").exists()


# ---- at the same moment ----
@pytest.fixture(scope="module")
def eight() -> Any:
    racers = Racers(8)
    yield racers
    racers.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_one_state_taken_at_once_is_taken_once(eight: Racers, round_: int) -> None:
    session = browser()
    begun = states.begin(session, "sso", "/")
    results = eight.run(lambda: states.consume(session, "sso", begun.state))
    assert [type(result) for result in results].count(LoginState) == 1
    assert [type(result) for result in results].count(SignInStale) == 7


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_eight_states_of_one_browser_taken_at_once_are_all_taken(eight: Racers, round_: int) -> None:
    session = browser()
    begun = [states.begin(session, "sso", f"/{number}") for number in range(8)]
    works = [lambda one=one: states.consume(session, "sso", one.state).next for one in begun]
    assert sorted(map(str, eight.run(*works))) == [f"/{number}" for number in range(8)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_beginning_at_once_leaves_ten(eight: Racers, round_: int) -> None:
    session = browser()
    for _ in range(6):
        states.begin(session, "sso", "/")
    results = eight.run(lambda: states.begin(session, "sso", "/"))
    assert all(isinstance(result, states.Begun) for result in results), results
    assert LoginState.objects.filter(session=session).count() == 10


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_first_sign_ins_at_once_in_other_letters_make_one_identity(eight: Racers, round_: int) -> None:
    provider = Provider("sso", "x", "https://login.example", "b", "s")

    def sign_in(subject: str) -> Identity:
        with transaction.atomic():
            return identities.signed_in(provider, subject, Profile(name="Jana"))

    works = [lambda subject=subject: sign_in(subject) for subject in ("jana@x.example", "JANA@x.example")]
    results = eight.run(*works)
    assert Identity.objects.count() == User.objects.count() == 1
    kept = Identity.objects.get().subject
    assert {result.subject for result in results if isinstance(result, Identity)} == {kept}
    assert {str(getattr(result, "reason", "")) for result in results} - {""} == {"subject-in-another-case"}


# ---- what an attempt is for ----
def test_an_attempt_for_more_than_a_sign_in_is_of_one_user(session: Session) -> None:
    alice, bob = UserFactory(), UserFactory()
    for intent in (LoginState.Intent.LINK, LoginState.Intent.REAUTH):
        Session.objects.filter(pk=session.pk).update(user=alice)
        session.refresh_from_db()
        begun = [states.begin(session, "sso", "/", intent, alice) for _ in range(2)]
        taken = states.consume(session, "sso", begun[0].state)
        assert (taken.intent, taken.user) == (intent, alice)
        session.user = bob
        assert refused(session, "sso", begun[1].state) == "state-of-another-user"
        session.user = None
        nobodys = states.begin(session, "sso", "/", intent)
        assert refused(session, "sso", nobodys.state) == "state-of-another-user"
