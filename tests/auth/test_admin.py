"""The administration: who gets in, what they see there, and that every act is a service's with one audit row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from auth import erasure, persons, tokens
from auth.admin import log
from auth.models import (
    ApiToken,
    Facility,
    Group,
    GroupMember,
    GroupRole,
    GroupRule,
    Person,
    Policy,
    RoleGrant,
    Session,
    User,
)
from portal import audit
from portal.admin import site
from portal.audit import AuditEvent
from portal.lib import clock
from tests.factories.auth import FacilityFactory, IdentityFactory, PersonFactory, RoleGrantFactory, UserFactory, sign_in
from tests.factories.instances import InstanceFactory, ProviderFactory
from tests.factories.rights import GroupFactory, GroupMemberFactory, GroupRoleFactory, claim_rule

pytestmark = pytest.mark.django_db

PAGES: dict[str, Any] = dict(site.pages())


@dataclass
class Place:
    """A facility with one of everything, and a browser of its operator."""

    facility: Facility
    operator: User
    browser: Client
    user: User
    rows: dict[str, Any]

    def one(self, page: str) -> str:
        row = self.rows[page]
        return f"/admin/{page}/{getattr(row, PAGES[page].key)}/"


def place() -> Place:
    facility, user = FacilityFactory(), UserFactory()
    operator = UserFactory()
    RoleGrantFactory(user=operator, facility=facility)
    person = PersonFactory(facility=facility, user=user, name="Somebody Known")
    identity = IdentityFactory(user=user, claims_subset={"listed": {"groups": ["beam"]}})
    group = GroupFactory(facility=facility)
    rule = claim_rule(group=group, value="nobody says this")
    token, _ = tokens.issue(user, scopes=["me:read"], lasts=timedelta(days=1))
    browser = Client(headers={"Sec-Fetch-Dest": "document"}, raise_request_exception=False)
    sign_in(browser, operator)
    rows = {
        "users": user,
        "identities": identity,
        "persons": person,
        "role-grants": RoleGrantFactory(user=user, role="staff", facility=facility),
        "groups": group,
        "group-rules": rule,
        "sessions": sign_in(Client(), user, identity),
        "api-tokens": token,
        "instances": InstanceFactory(owner=user, facility=facility),
        "providers": ProviderFactory(facility=facility),
        "audit-events": audit.record("tried", actor=user, about=("user", user.uid)),
    }
    return Place(facility, operator, browser, user, rows)


@pytest.fixture
def here() -> Place:
    return place()


@pytest.fixture
def there() -> Place:
    return place()


@pytest.fixture
def admin() -> Client:
    client = Client(headers={"Sec-Fetch-Dest": "document"}, raise_request_exception=False)
    sign_in(client, RoleGrantFactory(role="admin").user)
    return client


def rows_of(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action))


# ---- the door ----
def addresses(here: Place) -> list[str]:
    return ["/admin/", *(f"/admin/{page}/" for page in PAGES), *(here.one(page) for page in here.rows)]


def test_a_visitor_is_sent_to_sign_in_and_anybody_else_finds_nothing(here: Place) -> None:
    visitor, stranger = Client(headers={"Sec-Fetch-Dest": "document"}), Client(headers={"Sec-Fetch-Dest": "document"})
    sign_in(stranger, UserFactory())
    sign_in(stranger, RoleGrantFactory(role="it-support").user)
    for address in addresses(here):
        assert visitor.get(address).headers["Location"].startswith("/auth/sign-in/?next=%2Fadmin%2F")
        assert stranger.get(address).status_code == 404, address
    assert stranger.post(f"{here.one('users')}suspend/", {"reason": "x"}).status_code == 404
    (event,) = rows_of("admin_refused")
    assert (event.result, event.reason) == ("refused", "role")


def test_a_token_of_an_operator_opens_nothing(here: Place) -> None:
    _, text = tokens.issue(here.operator, scopes=["me:read"], lasts=timedelta(days=1))
    client = Client(headers={"Authorization": f"Bearer {text}", "Sec-Fetch-Dest": "empty"})
    assert client.get("/admin/users/").status_code == 401


def test_a_role_that_expired_opens_nothing(here: Place) -> None:
    assert here.browser.get("/admin/").status_code == 200
    RoleGrant.objects.filter(user=here.operator).update(expires_at=clock.now())
    assert here.browser.get("/admin/").status_code == 404


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1", True),
        ("10.2.0.1", False),
        ("", False),
        ("x", False),
    ],
)
def test_only_named_networks_open_it(here: Place, settings: Any, address: str, near: bool) -> None:
    settings.ADMIN_NETWORKS = ["10.1.0.0/16", "2001:db8::/32"]
    assert here.browser.get("/admin/", REMOTE_ADDR=address).status_code == (200 if near else 404)
    if not near:
        assert Client().get("/admin/", REMOTE_ADDR=address).status_code == 404


def test_it_wants_the_second_factor_where_one_is_named(here: Place, settings: Any) -> None:
    settings.ADMIN_ACR = ["https://refeds.org/profile/mfa"]
    answer = here.browser.get("/admin/users/")
    assert answer.status_code == 403
    assert "second factor" in answer.text
    Session.objects.filter(user=here.operator).update(provider_acr="https://refeds.org/profile/mfa")
    assert here.browser.get("/admin/users/").status_code == 200


def test_it_is_linked_for_those_alone_who_may_open_it(here: Place) -> None:
    stranger = Client()
    sign_in(stranger, UserFactory())
    assert 'href="/admin/"' in here.browser.get("/auth/account/").text
    assert 'href="/admin/"' not in stranger.get("/auth/account/").text
    assert 'href="/admin/"' not in here.browser.get("/").text


def test_django_brings_no_ways_of_its_own(here: Place) -> None:
    assert here.browser.get("/admin/login/").status_code == 404
    names = {getattr(pattern, "name", None) for pattern in site.get_urls()}
    assert names == {"index", "list", "one", "do", "act"}
    request = RequestFactory().get("/")
    request.user = RoleGrantFactory(role="admin").user
    for page in PAGES.values():
        assert not page.actions
        assert page.has_view_permission(request)
        assert not page.has_add_permission(request)
        assert not page.has_change_permission(request)
        assert not page.has_delete_permission(request)


# ---- within reach ----
def test_an_operator_sees_what_belongs_to_the_facility_and_nothing_else(here: Place, there: Place) -> None:
    for page in here.rows:
        assert here.browser.get(here.one(page)).status_code == 200, page
        assert here.browser.get(there.one(page)).status_code == 404, page
        row = there.rows[page]
        listed = here.browser.get(f"/admin/{page}/").text
        assert here.one(page) in listed, page
        assert there.one(page) not in listed, (page, row)
    for page in ("policies", "erasure-requests"):
        assert here.browser.get(f"/admin/{page}/").status_code == 404
        assert f"/admin/{page}/" not in here.browser.get("/admin/").text


def test_an_admin_sees_all(here: Place, there: Place, admin: Client) -> None:
    for place_ in (here, there):
        for page in place_.rows:
            assert admin.get(place_.one(page)).status_code == 200, page
    for page in PAGES:
        assert admin.get(f"/admin/{page}/").status_code == 200, page
        assert f"/admin/{page}/" in admin.get("/admin/").text


def test_a_filter_or_a_search_reaches_no_further(here: Place, there: Place) -> None:
    for said in (there.user.handle, str(there.user.uid), there.user.email):
        assert there.one("users") not in here.browser.get("/admin/users/", {"q": said}).text
    assert str(there.user) not in here.browser.get(f"/admin/audit-events/?actor={there.user.uid}").text
    wanted = {"facility__id__exact": there.facility.pk}
    assert there.one("role-grants") not in here.browser.get("/admin/role-grants/", wanted).text
    assert here.browser.get("/admin/users/?sessions__key_hash__startswith=a").status_code == 400


@pytest.mark.parametrize("what", ["handle", "email", "uid"])
def test_people_are_found_by_the_whole_of_what_is_said(admin: Client, here: Place, what: str) -> None:
    text = str(getattr(here.user, what))
    assert here.one("users") in admin.get("/admin/users/", {"q": text}).text
    assert here.one("users") not in admin.get("/admin/users/", {"q": text[:-1]}).text


def test_the_log_tells_an_operator_nothing_about_others(here: Place, there: Place) -> None:
    shared = there.operator
    PersonFactory(facility=here.facility, user=shared)  # one of ours too, who acts over there
    ours = [
        audit.record("mine", actor=shared),
        audit.record("mine", about=("person", f"{here.facility.slug}/X-1")),
        audit.record("mine", actor=UserFactory(), about=("user", shared.uid)),
        audit.record("mine", actor=UserFactory(), about=("group", f"{here.facility.slug}/beam"), on_behalf_of=shared),
    ]
    for about, for_ in (
        (("user", there.user.uid), None),
        (("person", f"{there.facility.slug}/X-2"), None),
        (("group", "of-the-portal"), None),
        (("session", "s"), there.user),
    ):
        audit.record("theirs", actor=shared, about=about, on_behalf_of=for_)
    seen = log.visible(frozenset({here.facility.pk}))
    assert set(seen.filter(action="mine")) == set(ours)
    assert not seen.filter(action="theirs").exists()
    assert log.visible(None).filter(action="theirs").count() == 4


# ---- acts ----
def send(place_: Place, address: str, data: dict[str, Any], browser: Client | None = None) -> Any:
    return (browser or place_.browser).post(address, data)


Deed = tuple[str, dict[str, Any], Callable[["Place"], bool]]


def _user(place_: Place) -> User:
    return User.objects.get(pk=place_.user.pk)


#: act → what to send, and has it happened; done to the first of `here`
DEEDS: dict[str, tuple[str, Callable[[Place], dict[str, Any]], str, Callable[[Place], bool]]] = {
    "suspend": ("users", lambda p: {"reason": "left"}, "user_suspended", lambda p: _user(p).suspended_at is not None),
    "end-sessions": (
        "users",
        lambda p: {},
        "sessions_ended",
        lambda p: not Session.objects.filter(user=p.user, ended_at=None).exists(),
    ),
    "grant": (
        "users",
        lambda p: {"role": "visitor", "facility": p.facility.pk, "until_0": "2099-01-01", "until_1": "12:00"},
        "role_granted",
        lambda p: RoleGrant.objects.filter(user=p.user, role="visitor", facility=p.facility).exists(),
    ),
    "untie": (
        "persons",
        lambda p: {},
        "person_untied",
        lambda p: Person.objects.get(pk=p.rows["persons"].pk).user is None,
    ),
    "withdraw": (
        "role-grants",
        lambda p: {},
        "role_withdrawn",
        lambda p: not RoleGrant.objects.filter(pk=p.rows["role-grants"].pk).exists(),
    ),
    "title": (
        "groups",
        lambda p: {"title": "Renamed"},
        "group_saved",
        lambda p: Group.objects.get(pk=p.rows["groups"].pk).title == "Renamed",
    ),
    "give": (
        "groups",
        lambda p: {"role": "staff", "facility": p.facility.pk},
        "group_role_given",
        lambda p: GroupRole.objects.filter(group=p.rows["groups"]).exists(),
    ),
    "add": (
        "groups",
        lambda p: {"user": p.user.handle},
        "group_member_added",
        lambda p: GroupMember.objects.filter(group=p.rows["groups"], user=p.user).exists(),
    ),
    "delete": (
        "groups",
        lambda p: {},
        "group_deleted",
        lambda p: not Group.objects.filter(pk=p.rows["groups"].pk).exists(),
    ),
    "end": (
        "sessions",
        lambda p: {},
        "session_ended",
        lambda p: Session.objects.get(pk=p.rows["sessions"].pk).ended_at is not None,
    ),
    "revoke": (
        "api-tokens",
        lambda p: {},
        "token_revoked",
        lambda p: ApiToken.objects.get(pk=p.rows["api-tokens"].pk).revoked_at is not None,
    ),
}
EACH = pytest.mark.parametrize("act", DEEDS)


@EACH
def test_an_act_is_done_and_noted_once_under_the_actors_name(here: Place, act: str) -> None:
    page, data, action, happened = DEEDS[act]
    address = f"{here.one(page)}{act}/"
    assert here.browser.get(address).status_code == 200
    assert not happened(here)
    before = AuditEvent.objects.latest("pk").pk
    answer = here.browser.post(address, data(here))
    assert answer.status_code == 302, answer.text
    assert happened(here)
    (event,) = AuditEvent.objects.filter(pk__gt=before)
    assert (event.action, event.actor_uid, event.result) == (action, here.operator.uid, "done")
    assert event.identity
    assert not LogEntry.objects.exists()


@EACH
def test_nobody_does_it_who_may_not(here: Place, there: Place, act: str) -> None:
    """Strangers, operators of another facility, other sites, forms without a token, and GETs."""
    page, data, _action, happened = DEEDS[act]
    address = f"{here.one(page)}{act}/"
    stranger, careless = Client(headers={"Sec-Fetch-Dest": "document"}), Client(enforce_csrf_checks=True)
    sign_in(stranger, UserFactory())
    sign_in(careless, here.operator)
    before = AuditEvent.objects.latest("pk").pk
    assert stranger.post(address, data(here)).status_code == 404
    assert there.browser.post(address, data(here)).status_code == 404
    assert [one.action for one in AuditEvent.objects.filter(pk__gt=before)] == ["admin_refused"] * 2
    assert Client().post(address, data(here)).status_code == 302
    assert careless.post(address, data(here)).status_code == 403
    assert here.browser.post(address, data(here), headers={"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert here.browser.get(address, data(here)).status_code == 200
    assert here.browser.put(address).status_code == 405
    assert here.browser.delete(here.one(page)).status_code == 405
    assert not happened(here)


@EACH
def test_an_act_wants_somebody_who_has_just_shown_who_they_are(here: Place, act: str) -> None:
    page, data, _action, happened = DEEDS[act]
    sign_in(here.browser, here.operator, shown=timedelta(minutes=7))
    address = f"{here.one(page)}{act}/"
    for answer in (here.browser.get(address), here.browser.post(address, data(here))):
        assert answer.status_code == 403
        assert "show once more who you are" in answer.text
    assert not happened(here)
    assert here.browser.get(here.one(page)).status_code == 200


@EACH
def test_who_is_suspended_meanwhile_does_nothing(here: Place, act: str) -> None:
    page, data, _action, happened = DEEDS[act]
    User.objects.filter(pk=here.operator.pk).update(suspended_at=clock.now())
    assert here.browser.post(f"{here.one(page)}{act}/", data(here)).status_code == 302
    assert not happened(here)


def test_a_page_that_is_posted_to_changes_nothing(here: Place) -> None:
    before = User.objects.filter(pk=here.user.pk).values().get()
    for address in (here.one("users"), "/admin/users/"):
        here.browser.post(address, {"handle": "x", "is_active": "", "action": "delete_selected", "_save": "1"})
    assert User.objects.filter(pk=here.user.pk).values().get() == before


def test_nobody_acts_on_somebody_with_more_power(here: Place, admin: Client) -> None:
    above = RoleGrantFactory(role="admin").user
    session = sign_in(Client(), above)
    PersonFactory(facility=here.facility, user=above)
    before = AuditEvent.objects.latest("pk").pk
    for address, data in (
        (f"/admin/users/{above.uid}/suspend/", {"reason": "coup"}),
        (f"/admin/users/{above.uid}/end-sessions/", {}),
        (f"/admin/sessions/{session.uid}/end/", {}),
    ):
        assert here.browser.post(address, data).status_code == 403
    refused = AuditEvent.objects.filter(pk__gt=before)
    assert {one.result for one in refused} == {"refused"}
    assert refused.count() == 3
    User.objects.filter(pk=above.pk).update(suspended_at=clock.now())
    assert here.browser.post(f"/admin/users/{above.uid}/reinstate/").status_code == 403
    above.refresh_from_db()
    assert above.suspended_at is not None
    assert admin.post(f"/admin/users/{above.uid}/reinstate/").status_code == 302


@pytest.mark.parametrize("role", ["admin", "operator"])
def test_nobody_grants_what_they_lack(here: Place, there: Place, role: str) -> None:
    address = f"{here.one('users')}grant/"
    assert here.browser.post(address, {"role": role, "facility": ""}).status_code == 400
    assert here.browser.post(address, {"role": role, "facility": there.facility.pk}).status_code == 400
    if role == "admin":
        assert here.browser.post(address, {"role": role, "facility": here.facility.pk}).status_code == 403
        assert rows_of("role_granted")[0].result == "refused"
    assert not RoleGrant.objects.filter(user=here.user, role=role).exists()


def test_nobody_suspends_or_grants_themselves(here: Place) -> None:
    mine = f"/admin/users/{here.operator.uid}/"
    assert here.browser.post(f"{mine}suspend/", {"reason": "x"}).status_code == 403
    assert here.browser.post(f"{mine}grant/", {"role": "staff", "facility": here.facility.pk}).status_code == 403


def test_a_role_is_granted_to_who_is_named_exactly(here: Place) -> None:
    new = UserFactory()
    sent = {"role": "staff", "facility": here.facility.pk}
    address = "/admin/role-grants/do/grant/"
    assert here.browser.post(address, sent | {"user": new.handle[:-1]}).status_code == 400
    assert here.browser.post(address, sent | {"user": new.email}).status_code == 400
    assert here.browser.post(address, sent | {"user": str(new.uid)}).status_code == 302
    assert RoleGrant.objects.get(user=new).facility == here.facility


def test_a_visitors_role_needs_an_end(here: Place) -> None:
    answer = here.browser.post(f"{here.one('users')}grant/", {"role": "visitor", "facility": here.facility.pk})
    assert answer.status_code == 400
    assert "needs an end" in answer.text


def test_a_suspended_user_is_reinstated(here: Place) -> None:
    here.browser.post(f"{here.one('users')}suspend/", {"reason": "left"})
    assert here.browser.get(f"{here.one('users')}suspend/").status_code == 404
    assert "left" in here.browser.get(here.one("users")).text
    here.browser.post(f"{here.one('users')}reinstate/")
    assert _user(here).may_sign_in


# ---- persons ----
def test_a_link_is_shown_once_and_withdrawn(here: Place) -> None:
    person = PersonFactory(facility=here.facility)
    address = f"/admin/persons/{person.pk}/"
    shown = here.browser.post(f"{address}link/").text
    link = persons.open_links(person).get()
    code = shown.partition("/auth/person/#")[2].partition("<")[0].strip()
    assert len(code) > 20
    assert code not in here.browser.get(address).text
    assert here.browser.post(f"{address}withdraw-link/").status_code == 302
    link.refresh_from_db()
    assert link.withdrawn_at is not None
    with pytest.raises(persons.LinkDead):
        persons.redeem(UserFactory(), code)


def test_a_person_is_tied_to_who_is_named_exactly(here: Place) -> None:
    person, user = PersonFactory(facility=here.facility), UserFactory()
    address = f"/admin/persons/{person.pk}/tie/"
    assert here.browser.post(address, {"user": user.email}).status_code == 400
    assert here.browser.post(address, {"user": here.operator.handle}).status_code == 403
    assert here.browser.post(address, {"user": user.handle}).status_code == 302
    person.refresh_from_db()
    assert (person.user, person.tied_by) == (user, "operator")


# ---- groups and rules ----
@pytest.fixture
def rule(here: Place) -> GroupRule:
    """Gives a role to whose claim `groups` says beam: the user of `here`; somebody else has it from before."""
    GroupRoleFactory(group=here.rows["groups"], role="staff", facility=here.facility)
    rule = here.rows["group-rules"]
    before = IdentityFactory(user=UserFactory(handle="was-in"), claims_subset={"listed": {"groups": ["old"]}})
    GroupMemberFactory(
        user=before.user, group=rule.group, identity=before, rule=rule, expires_at=clock.now() + timedelta(days=1)
    )
    return rule


def fields(**said: Any) -> dict[str, Any]:
    return {"provider": "demo", "kind": "claim", "claim": "groups", "value": "beam", "days": 30, "enabled": "on"} | said


def test_a_rule_shows_who_would_get_what_before_it_is_saved(here: Place, rule: GroupRule) -> None:
    address = f"/admin/group-rules/{rule.pk}/change/"
    shown = here.browser.post(address, fields())
    assert shown.status_code == 200
    assert f"<strong>gets</strong> {here.user.handle}" in shown.text
    assert "<strong>loses</strong> was-in" in shown.text
    rule.refresh_from_db()
    assert rule.value != "beam"
    seen = shown.text.partition('name="seen" value="')[2].partition('"')[0]
    other = here.browser.post(address, fields(value="all", seen=seen))
    assert "Who would get what" in other.text
    rule.refresh_from_db()
    assert rule.value != "all"
    assert here.browser.post(address, fields(seen=seen)).status_code == 302
    rule.refresh_from_db()
    assert rule.value == "beam"
    assert not rule.memberships.exists()
    assert [event.detail["left"] for event in rows_of("group_rule_saved")] == [1]


def test_a_rule_is_added_to_a_group(here: Place) -> None:
    address = f"{here.one('groups')}rule/"
    shown = here.browser.post(address, fields()).text
    seen = shown.partition('name="seen" value="')[2].partition('"')[0]
    assert here.browser.post(address, fields(seen=seen)).status_code == 302
    assert here.rows["groups"].rules.filter(value="beam").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"provider": "nowhere"}, {"claim": ""}, {"kind": "x"}, {"days": 0}, {"path": "p"}, {"value": "x" * 300}],
)
def test_a_rule_that_makes_no_sense_is_said_to(here: Place, rule: GroupRule, wrong: dict[str, Any]) -> None:
    assert here.browser.post(f"/admin/group-rules/{rule.pk}/change/", fields(**wrong)).status_code == 400


def test_a_rule_of_another_facility_is_not_there(here: Place, there: Place) -> None:
    assert here.browser.post(f"{there.one('group-rules')}change/", fields()).status_code == 404
    assert here.browser.post(f"{there.one('groups')}rule/", fields()).status_code == 404


def test_a_group_is_made_where_the_operator_may(here: Place, there: Place) -> None:
    address, sent = "/admin/groups/do/make/", {"slug": "new", "title": "New"}
    assert here.browser.post(address, sent | {"facility": there.facility.pk}).status_code == 400
    assert here.browser.post(address, sent | {"facility": ""}).status_code == 400
    assert here.browser.post(address, sent | {"facility": here.facility.pk}).status_code == 302
    assert Group.objects.get(slug="new").facility == here.facility
    assert here.browser.post(address, sent | {"facility": here.facility.pk}).status_code == 400


def test_what_hangs_on_a_group_is_taken_from_it_alone(here: Place, there: Place, rule: GroupRule) -> None:
    foreign = GroupRoleFactory(group=there.rows["groups"])
    assert here.browser.post(f"{here.one('groups')}take/", {"held": foreign.pk}).status_code == 400
    assert here.browser.post(f"{here.one('groups')}take/", {"held": rule.group.roles.get().pk}).status_code == 302
    member = rule.memberships.get()
    stranger = GroupMemberFactory(group=there.rows["groups"])
    assert here.browser.post(f"{here.one('groups')}remove/", {"member": stranger.pk}).status_code == 400
    assert here.browser.post(f"{here.one('groups')}remove/", {"member": member.pk}).status_code == 302
    assert GroupMember.objects.get() == stranger


# ---- policies and erasure ----
def test_a_policy_is_published_for_good(admin: Client, here: Place) -> None:
    sent = {"kind": "privacy", "version": "7", "title": "Privacy", "text": "What we hold."}
    assert here.browser.post("/admin/policies/do/publish/", sent).status_code == 404
    assert admin.post("/admin/policies/do/publish/", sent).status_code == 302
    policy = Policy.objects.get(version="7")
    assert admin.post("/admin/policies/do/publish/", sent | {"text": "Other."}).status_code == 409
    admin.post(f"/admin/policies/{policy.pk}/", {"text": "Other."})
    policy.refresh_from_db()
    assert (policy.text, policy.published_at is not None) == ("What we hold.", True)
    assert [(event.result, event.actor_uid is not None) for event in rows_of("policy_published")] == [
        ("refused", True),
        ("done", True),
    ]


def test_an_erasure_says_what_stands_in_the_way_and_is_decided(admin: Client, here: Place) -> None:
    wish = erasure.ask(here.user, "please")
    address = f"/admin/erasure-requests/{wish.pk}/"
    assert here.browser.get(address).status_code == 404
    page = admin.get(address).text
    assert "What stands in the way" in page
    assert "please" in page
    assert admin.post(f"{address}erase/", {"handle": "other"}).status_code == 400
    hindered = admin.post(f"{address}erase/", {"handle": here.user.handle})
    assert hindered.status_code == 409
    assert "It still has" in hindered.text
    assert admin.post(f"{address}refuse/", {"answer": "Your machine still runs."}).status_code == 302
    wish.refresh_from_db()
    assert (wish.outcome, wish.answer) == ("refused", "Your machine still runs.")
    assert admin.get(f"{address}erase/").status_code == 404


def test_somebody_is_erased(admin: Client) -> None:
    user = UserFactory()
    wish = erasure.ask(user)
    assert admin.post(f"/admin/erasure-requests/{wish.pk}/erase/", {"handle": user.handle}).status_code == 302
    user.refresh_from_db()
    assert user.erased_at is not None
    assert len(rows_of("user_erased")) == 1
    assert admin.get(f"/admin/users/{user.uid}/grant/").status_code == 404


# ---- the log ----
def test_reading_about_people_is_noted_once_a_look(here: Place) -> None:
    before = AuditEvent.objects.latest("pk").pk
    here.browser.get("/admin/users/", {"q": here.user.email})
    here.browser.get(here.one("users"))
    here.browser.get("/admin/group-rules/")
    listed, one = reversed(AuditEvent.objects.filter(pk__gt=before))
    assert (listed.action, listed.object_type, listed.object_id) == ("personal_data_read", "user", "list")
    assert (listed.actor_uid, listed.detail) == (here.operator.uid, {"shown": 1, "by": ["q"]})
    assert (one.object_type, one.object_id) == ("user", str(here.user.uid))


def test_the_log_is_filtered(admin: Client, here: Place) -> None:
    identity = here.rows["identities"]
    token = audit.origin.set(audit.Origin("192.0.2.7", "a" * 32, str(identity)))
    wanted = audit.record("wanted", actor=here.user, about=("thing", "one"))
    audit.origin.reset(token)
    token = audit.origin.set(audit.Origin())
    audit.record("other", actor=here.operator, about=("thing", "two"))
    audit.origin.reset(token)
    at = clock.now()
    for said in (
        {"actor": here.user.uid, "action": "wanted"},
        {"about_user": here.user.uid, "action": "wanted"},
        {"identity": str(identity), "object_type": "thing"},
        {"object_type": "thing", "object_id": "one"},
        {"address": "192.0.2.7"},
        {"request_id": "a" * 32},
        {"action": "wanted", "result": "done", "since": f"{at - timedelta(hours=1):%Y-%m-%d %H:%M}"},
    ):
        listed = admin.get("/admin/audit-events/", said).context_data["cl"].result_list  # type: ignore[attr-defined]
        assert list(listed) == [wanted], said
    nothing = {"action": "wanted", "until": f"{at - timedelta(hours=1):%Y-%m-%d %H:%M}"}
    assert not admin.get("/admin/audit-events/", nothing).context_data["cl"].result_list  # type: ignore[attr-defined]
    assert "/admin/audit-events/?identity=" in admin.get(here.one("users")).text


@pytest.mark.parametrize(
    "query",
    [
        "actor=x", "since=soon", "address=1", "result=maybe", "p=999999", "p=-1", "o=9.9.9", "o=x", "all=", "q=%00",
        "action=%00", "actor=%00", "e=1", "_popup=1", "_to_field=id", "_facets=1", "action__startswith=l",
        "identity=%00", "nonsense=1", "since=9999-99-99", "request_id=" + "9" * 3000,
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_breaks_nothing(admin: Client, here: Place, query: str) -> None:
    for page in ("audit-events", "users", "persons", "role-grants", "instances"):
        assert admin.get(f"/admin/{page}/?{query}").status_code in (200, 302, 400), page


@pytest.mark.parametrize("key", ["0", "9" * 30, "00000000-0000-0000-0000-000000000001", "-1", "%00", "do", "add"])
def test_a_key_of_nothing_finds_nothing(admin: Client, key: str) -> None:
    for page in PAGES:
        assert admin.get(f"/admin/{page}/{key}/").status_code == 404, page
        assert admin.post(f"/admin/{page}/{key}/suspend/").status_code == 404, page


def exported(client: Client, kind: str, **said: Any) -> str:
    answer: Any = client.post("/admin/audit-events/do/export/", {"format": kind, **said})
    assert answer.status_code == 200, answer.content
    assert answer.headers["Content-Disposition"] == f'attachment; filename="audit.{kind}"'
    return b"".join(answer).decode()


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_an_export_calculates_nothing_in_a_spreadsheet(admin: Client, start: str) -> None:
    evil = UserFactory(display_name=f"{start}cmd|' /C calc'!A0")
    audit.record("named", actor=evil, about=("thing", f"{start}1+1"))
    (row,) = csv.DictReader(io.StringIO(exported(admin, "csv", action="named")))
    assert row["actor_name"] == f"'{evil.display_name}"
    assert row["object_id"] == f"'{start}1+1"
    (row,) = json.loads(exported(admin, "json", action="named"))
    assert row["actor_name"] == evil.display_name


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_an_export_holds_what_one_may_see_and_is_noted(here: Place, there: Place, monkeypatch: Any) -> None:
    rows = json.loads(exported(here.browser, "json", action="tried"))
    assert [row["actor_uid"] for row in rows] == [str(here.user.uid)]
    assert json.loads(exported(here.browser, "json", action="nothing")) == []
    noted = rows_of("audit_exported")
    assert [(event.actor_uid, event.detail["rows"]) for event in noted] == [
        (here.operator.uid, 0),
        (here.operator.uid, 1),
    ]
    assert noted[0].detail["filters"] == {"action": "nothing"}
    monkeypatch.setattr(log, "MOST", 0)
    too_many = here.browser.post("/admin/audit-events/do/export/", {"format": "csv", "action": "tried"})
    assert too_many.status_code == 409
    sign_in(here.browser, here.operator, shown=timedelta(minutes=7))
    assert here.browser.post("/admin/audit-events/do/export/", {"format": "csv"}).status_code == 403


# ---- costs ----
def test_a_list_costs_the_same_however_long_it_is(admin: Client, here: Place) -> None:
    def cost(page: str) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert admin.get(f"/admin/{page}/").status_code == 200
        return len(queries)

    before = {page: cost(page) for page in PAGES}
    for _ in range(5):
        place()
    assert {page: cost(page) for page in PAGES} == before
    assert max(before.values()) <= 14, before


def test_a_long_log_is_counted_so_far(admin: Client, here: Place, monkeypatch: Any) -> None:
    monkeypatch.setattr("auth.admin.pages.MOST_COUNTED", 3)
    for _ in range(5):
        audit.record("many")
    assert admin.get("/admin/audit-events/").context_data["cl"].result_count == 3  # type: ignore[attr-defined]
