"""Who gets a role goes on in the session they have, with a new key: one that was known before is worth nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from auth import grants
from auth.models import Session, User
from auth.roles import Role
from auth.sessions import SessionStore
from portal.lib.errors import Forbidden
from tests.factories.auth import RoleGrantFactory, UserFactory, sign_in
from tests.factories.rights import GroupFactory, GroupMemberFactory, GroupRoleFactory
from tests.races import ROUNDS, Racers

pytestmark = pytest.mark.django_db

PAGE = "/auth/account/"
COOKIE = settings.SESSION_COOKIE_NAME


def key(browser: Client) -> str:
    return browser.cookies[COOKIE].value


def with_key(value: str) -> Client:
    browser = Client()
    browser.cookies[COOKIE] = value
    return browser


@pytest.fixture
def operator(db: None) -> User:
    return RoleGrantFactory().user


@pytest.fixture
def user(db: None) -> User:
    return UserFactory()


def test_the_key_changes_with_the_next_page_and_the_session_goes_on(user: User, operator: User) -> None:
    browser, other = Client(), Client()
    row, _ = sign_in(browser, user), sign_in(other, user)
    stranger = Client()
    sign_in(stranger, UserFactory())
    before = {one: key(one) for one in (browser, other, stranger)}
    grants.grant(user, Role.STAFF, facility=None, until=None, by=operator)

    assert browser.get(PAGE).status_code == 200
    after = key(browser)
    assert after != before[browser]
    assert SessionStore(before[browser]).live_row() is None
    live = SessionStore(after).live_row()
    assert live is not None
    assert (live.pk, live.key_due) == (row.pk, False)

    assert browser.get(PAGE).status_code == 200
    assert key(browser) == after
    assert key(other) == before[other]
    other.get(PAGE)
    assert key(other) != before[other]
    stranger.get(PAGE)
    assert key(stranger) == before[stranger]


@pytest.mark.parametrize(
    "asked",
    [
        lambda browser: browser.get("/api/v1/me"),
        lambda browser: browser.get(PAGE, headers={"HX-Request": "true"}),
        lambda browser: browser.get(PAGE, headers={"Sec-Fetch-Dest": "image"}),
        lambda browser: browser.post("/auth/account/sessions/end-others/"),
    ],
    ids=["api", "fragment", "image", "form"],
)
def test_what_an_open_page_asks_for_changes_no_key(user: User, operator: User, asked: Callable[[Client], Any]) -> None:
    """Several are on their way at once: all but one would come with a key that is gone."""
    browser = Client()
    sign_in(browser, user)
    before = key(browser)
    grants.grant(user, Role.STAFF, facility=None, until=None, by=operator)
    assert asked(browser).status_code < 400
    assert key(browser) == before
    assert browser.get(PAGE, headers={"Sec-Fetch-Dest": "document"}).status_code == 200
    assert key(browser) != before


def _by_hand(user: User, by: User) -> None:
    grants.add_member(GroupRoleFactory(role="staff").group, user, until=None, by=by)


def _with_the_group(user: User, by: User) -> None:
    group = GroupFactory()
    GroupMemberFactory(user=user, group=group)
    grants.give_to_group(group, Role.STAFF, None, by=by)


@pytest.mark.parametrize("gain", [_by_hand, _with_the_group])
def test_so_it_is_with_what_a_group_gives(user: User, operator: User, gain: Callable[[User, User], None]) -> None:
    sign_in(Client(), user)
    gain(user, operator)
    assert Session.objects.get(user=user).key_due


def test_a_refused_grant_changes_no_key(user: User) -> None:
    sign_in(Client(), user)
    with pytest.raises(Forbidden):
        grants.grant(user, Role.STAFF, facility=None, until=None, by=UserFactory())
    assert not Session.objects.get(user=user).key_due


def test_a_dead_session_stays_dead(user: User, operator: User) -> None:
    browser = Client()
    row = sign_in(browser, user)
    before = key(browser)
    grants.grant(user, Role.STAFF, facility=None, until=None, by=operator)
    Session.objects.filter(pk=row.pk).update(ended_at=row.created_at)
    assert browser.get(PAGE).status_code == 302
    assert key(browser) == before


def test_a_request_that_was_on_its_way_does_not_sign_out(user: User, operator: User) -> None:
    """It comes with the old key after the new one was given; its answer must leave the browser's cookie alone."""
    browser = Client()
    sign_in(browser, user)
    late = with_key(key(browser))
    grants.grant(user, Role.STAFF, facility=None, until=None, by=operator)
    browser.get(PAGE)
    answer = late.get(PAGE)
    assert answer.status_code == 302
    assert COOKIE not in answer.cookies


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_of_eight_pages_at_once_one_brings_a_new_key(round_: int) -> None:
    racers = Racers(8)
    try:
        user, first = UserFactory(), Client()
        row = sign_in(first, user)
        grants.grant(user, Role.STAFF, facility=None, until=None, by=None)
        browsers = [with_key(key(first)) for _ in range(8)]
        answers: list[Any] = racers.run(*(lambda one=one: one.get(PAGE) for one in browsers))
    finally:
        racers.close()
    assert {answer.status_code for answer in answers} <= {200, 302}
    given = [answer.cookies[COOKIE].value for answer in answers if COOKIE in answer.cookies]
    assert len(given) == 1
    live = SessionStore(given[0]).live_row()
    assert live is not None
    assert live.pk == row.pk
