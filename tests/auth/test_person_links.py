"""A person is tied by a link that is used once, or by an operator; by nothing that anybody can type."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.conf import settings as portal_settings
from django.db import connection
from django.test import Client

from auth import persons
from auth.models import Facility, Person, PersonLink, PosixIdentity, User
from auth.persons import LinkDead, TiedAlready
from experiments.models import Experiment, TeamMember
from portal.audit import AuditEvent
from portal.lib.clock import Now
from portal.lib.errors import Conflict, Forbidden
from portal.lib.hashing import digest
from tests.auth.conftest import Browser
from tests.auth.hostile_op import HostileOP
from tests.factories.auth import FacilityFactory, IdentityFactory, PersonFactory, RoleGrantFactory, UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory

pytestmark = pytest.mark.django_db
DONE, REFUSED = AuditEvent.Result.DONE, AuditEvent.Result.REFUSED


@pytest.fixture
def facility() -> Facility:
    return FacilityFactory()


@pytest.fixture
def operator(facility: Facility) -> User:
    return RoleGrantFactory(facility=facility).user


@pytest.fixture
def person(facility: Facility) -> Person:
    return PersonFactory(facility=facility)


def secret_of(url: str) -> str:
    return url.partition("#")[2]


def link_for(person: Person, operator: User) -> str:
    return secret_of(persons.make_link(person, operator)[1])


def rows(action: str = "person_tied") -> list[tuple[str, str]]:
    return list(AuditEvent.objects.filter(action=action).order_by("pk").values_list("result", "reason"))


# ---- the link ----
def test_a_link_is_shown_once_and_kept_as_its_hash(person: Person, operator: User) -> None:
    link, url = persons.make_link(person, operator)
    where, _, secret = url.partition("#")
    assert where == f"{portal_settings.PORTAL_URL}/auth/person/"
    assert len(secret) >= 43
    assert link.token_hash == digest(secret)
    assert secret not in str(PersonLink.objects.values()) + str(AuditEvent.objects.values())
    assert timedelta(days=6, hours=23) < link.expires_at - link.made_at < timedelta(days=7, minutes=1)
    event = AuditEvent.objects.get()
    assert (event.action, event.actor_uid, event.result) == ("person_link_made", operator.uid, DONE)


def test_who_redeems_a_link_is_the_person(person: Person, operator: User) -> None:
    user = UserFactory()
    assert persons.redeem(user, link_for(person, operator)) == person
    person.refresh_from_db()
    assert (person.user, person.tied_by) == (user, Person.TiedBy.LINK)
    assert person.tied_at is not None
    link = PersonLink.objects.get()
    assert link.redeemed_by == user
    event = AuditEvent.objects.get(action="person_tied")
    assert (event.actor_uid, event.result, event.object_id) == (user.uid, DONE, persons.about(person)[1])
    assert event.detail == {"by": "link", "link": link.pk}


def test_a_link_works_once(person: Person, operator: User) -> None:
    secret = link_for(person, operator)
    persons.redeem(UserFactory(), secret)
    Person.objects.update(user=None)
    with pytest.raises(LinkDead):
        persons.redeem(UserFactory(), secret)
    assert rows() == [(DONE, ""), (REFUSED, "person-link-dead")]
    assert not Person.objects.exclude(user=None).exists()


@pytest.mark.parametrize("what", ["expired", "withdrawn", "replaced"])
def test_a_link_that_is_over_ties_nobody(person: Person, operator: User, what: str) -> None:
    link, url = persons.make_link(person, operator)
    if what == "expired":
        PersonLink.objects.update(expires_at=Now())
    elif what == "withdrawn":
        persons.withdraw_link(link, operator)
    else:
        persons.make_link(person, operator)
    with pytest.raises(LinkDead):
        persons.redeem(UserFactory(), secret_of(url))
    person.refresh_from_db()
    assert person.user is None
    assert rows() == [(REFUSED, "person-link-dead")]


@pytest.mark.parametrize("secret", ["", "x", "a" * 43, "\x00", "é"])
def test_a_made_up_link_ties_nobody_and_is_written_down(person: Person, operator: User, secret: str) -> None:
    persons.make_link(person, operator)
    with pytest.raises(LinkDead):
        persons.redeem(UserFactory(), secret)
    assert rows() == [(REFUSED, "link-unknown")]


def test_the_newest_link_is_the_good_one(person: Person, operator: User) -> None:
    persons.make_link(person, operator)
    other = PersonFactory(facility=person.facility)
    kept = link_for(other, operator)
    newest = link_for(person, operator)
    assert persons.redeem(UserFactory(), newest) == person
    assert persons.redeem(UserFactory(), kept) == other


def test_a_user_who_is_somebody_else_there_does_not_spend_the_link(person: Person, operator: User) -> None:
    secret = link_for(person, operator)
    somebody = UserFactory()
    PersonFactory(facility=person.facility, user=somebody)
    with pytest.raises(TiedAlready):
        persons.redeem(somebody, secret)
    assert rows() == [(REFUSED, "person-tied")]
    assert persons.redeem(UserFactory(), secret) == person


def test_a_user_may_be_a_person_at_each_of_several_facilities(person: Person, operator: User) -> None:
    user = UserFactory()
    PersonFactory(user=user)
    persons.redeem(user, link_for(person, operator))
    assert user.persons.count() == 2


def test_who_made_a_link_does_not_redeem_it(person: Person, operator: User) -> None:
    secret = link_for(person, operator)
    with pytest.raises(Forbidden):
        persons.redeem(operator, secret)
    assert rows() == [(REFUSED, "forbidden")]
    assert persons.redeem(UserFactory(), secret) == person


def test_no_link_is_made_for_who_is_tied(person: Person, operator: User) -> None:
    persons.redeem(UserFactory(), link_for(person, operator))
    with pytest.raises(TiedAlready):
        persons.make_link(person, operator)
    assert rows("person_link_made") == [(DONE, ""), (REFUSED, "person-tied")]


def test_a_used_or_withdrawn_link_is_not_withdrawn_again(person: Person, operator: User) -> None:
    link, _url = persons.make_link(person, operator)
    persons.withdraw_link(link, operator)
    with pytest.raises(Conflict):
        persons.withdraw_link(link, operator)
    assert rows("person_link_withdrawn") == [(DONE, ""), (REFUSED, "conflict")]


@pytest.mark.django_db(transaction=True)
def test_of_many_who_redeem_at_once_one_is_the_person() -> None:
    operator, person = RoleGrantFactory().user, PersonFactory()
    users = [UserFactory() for _ in range(12)]
    secret = link_for(person, operator)
    together, outcomes = threading.Barrier(len(users)), []

    def redeem(user: User) -> None:
        try:
            together.wait(30)
            persons.redeem(user, secret)
            outcomes.append(user)
        except (LinkDead, TiedAlready):
            outcomes.append(None)
        finally:
            connection.close()

    threads = [threading.Thread(target=redeem, args=[user]) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = filter(None, outcomes)
    person.refresh_from_db()
    assert len(outcomes) == 12
    assert person.user == winner == PersonLink.objects.get().redeemed_by
    assert sorted(rows()) == [(DONE, "")] + [(REFUSED, "person-link-dead")] * 11


@pytest.mark.django_db(transaction=True)
def test_a_user_who_redeems_two_links_of_one_facility_at_once_is_one_person() -> None:
    operator, user, facility = RoleGrantFactory().user, UserFactory(), FacilityFactory()
    secrets = [link_for(PersonFactory(facility=facility), operator) for _ in range(6)]
    together = threading.Barrier(len(secrets))

    def redeem(secret: str) -> None:
        try:
            together.wait(30)
            persons.redeem(user, secret)
        except TiedAlready:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=redeem, args=[secret]) for secret in secrets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert user.persons.count() == 1
    assert PersonLink.objects.filter(redeemed_by=user).count() == 1


# ---- its page ----
def test_opening_the_link_does_nothing(person: Person, operator: User) -> None:
    persons.make_link(person, operator)
    browser = Client()
    sign_in(browser, UserFactory())
    answer = browser.get("/auth/person/")
    assert answer.status_code == 200
    assert b'name="code"' in answer.content
    assert not Person.objects.exclude(user=None).exists()


def test_the_page_takes_the_code(person: Person, operator: User) -> None:
    browser, user = Client(), UserFactory()
    sign_in(browser, user)
    answer = browser.post("/auth/person/", {"code": link_for(person, operator)})
    assert answer.status_code == 200
    assert person.external_id in answer.content.decode()
    person.refresh_from_db()
    assert person.user == user


def test_a_code_in_the_address_is_not_taken(person: Person, operator: User) -> None:
    browser = Client()
    sign_in(browser, UserFactory())
    secret = link_for(person, operator)
    assert browser.post(f"/auth/person/?code={secret}").status_code == 404
    browser.get(f"/auth/person/?code={secret}")
    assert not Person.objects.exclude(user=None).exists()


def test_who_has_not_signed_in_is_asked_to(person: Person, operator: User) -> None:
    secret = link_for(person, operator)
    assert "/auth/sign-in/?next=/auth/person/" in Client().get("/auth/person/").content.decode()
    answer = Client().post("/auth/person/", {"code": secret})
    assert answer.status_code == 302
    assert secret not in answer.headers["Location"]
    assert not Person.objects.exclude(user=None).exists()


def test_the_page_wants_the_forms_token(person: Person, operator: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    sign_in(browser, UserFactory())
    assert browser.post("/auth/person/", {"code": link_for(person, operator)}).status_code == 403
    assert not Person.objects.exclude(user=None).exists()


# ---- an operator's word ----
def test_an_operator_ties_and_parts(person: Person, operator: User) -> None:
    user = UserFactory()
    persons.tie_by_operator(person, user, operator)
    assert (person.user, person.tied_by) == (user, Person.TiedBy.OPERATOR)
    PosixIdentity.objects.create(user=user, facility=person.facility, uid=5001, gid=5000)
    elsewhere = PosixIdentity.objects.create(user=user, facility=FacilityFactory(), uid=5001, gid=5000)
    persons.untie(person, operator)
    assert (person.user, person.tied_by, person.tied_at) == (None, "", None)
    assert list(PosixIdentity.objects.all()) == [elsewhere]
    for action in ("person_tied", "person_untied"):
        event = AuditEvent.objects.get(action=action)
        assert (event.actor_uid, event.for_uid, event.result) == (operator.uid, user.uid, DONE)


def test_an_operators_tie_makes_open_links_worthless(person: Person, operator: User) -> None:
    secret = link_for(person, operator)
    persons.tie_by_operator(person, UserFactory(), operator)
    persons.untie(person, operator)
    with pytest.raises(LinkDead):
        persons.redeem(UserFactory(), secret)


def test_operators_do_not_tie_themselves(person: Person, operator: User) -> None:
    with pytest.raises(Forbidden):
        persons.tie_by_operator(person, operator, operator)
    assert rows() == [(REFUSED, "forbidden")]


def test_a_person_is_taken_from_nobody(person: Person, operator: User) -> None:
    first = UserFactory()
    persons.tie_by_operator(person, first, operator)
    with pytest.raises(TiedAlready):
        persons.tie_by_operator(person, UserFactory(), operator)
    with pytest.raises(TiedAlready):
        persons.tie_by_operator(PersonFactory(facility=person.facility), first, operator)
    person.refresh_from_db()
    assert person.user == first


def test_who_is_suspended_is_tied_to_nobody(person: Person, operator: User) -> None:
    with pytest.raises(TiedAlready):
        persons.tie_by_operator(person, UserFactory(suspended_at=Now()), operator)


def test_nobody_is_parted_from_nobody(person: Person, operator: User) -> None:
    with pytest.raises(Conflict):
        persons.untie(person, operator)
    assert rows("person_untied") == [(REFUSED, "conflict")]


@pytest.mark.parametrize("role", ["staff", "it-support", "scientific-computing", "operator"])
def test_others_and_operators_of_another_facility_may_none_of_it(person: Person, operator: User, role: str) -> None:
    elsewhere = FacilityFactory() if role == "operator" else person.facility
    by = RoleGrantFactory(role=role, facility=elsewhere).user
    link, _url = persons.make_link(person, operator)
    for act in (
        lambda: persons.make_link(person, by),
        lambda: persons.withdraw_link(link, by),
        lambda: persons.tie_by_operator(person, UserFactory(), by),
        lambda: persons.untie(person, by),
    ):
        with pytest.raises(Forbidden):
            act()
    assert AuditEvent.objects.filter(actor_uid=by.uid, result=REFUSED, reason="forbidden").count() == 4
    link.refresh_from_db()
    assert link.withdrawn_at is None


# ---- what ties nobody ----
def test_the_same_e_mail_name_and_orcid_tie_nobody(op: HostileOP, facility: Facility) -> None:
    """Somebody signs in with all that a person and another account have in common, but not the claim."""
    same = {
        "email": "jana@facility.example",
        "email_verified": True,
        "name": "Jana Nováková",
        "orcid": "https://orcid.org/0000-0002-1825-0097",
        "voperson_id": "jana@umbrella.example",
    }
    known = IdentityFactory(issuer="https://other.example", voperson_id=same["voperson_id"])
    User.objects.filter(pk=known.user.pk).update(email=same["email"], email_verified=True, display_name=same["name"])
    person = PersonFactory(facility=facility, external_id="X-1001", name=same["name"], user=known.user)
    free = PersonFactory(facility=facility, external_id="X-1002", name=same["name"])
    op.configure(facility_claims={"facility_person_id": facility.slug})
    op.userinfo = same
    assert Browser().sign_in(op).status_code == 200
    assert User.objects.filter(email=same["email"]).count() == 2
    person.refresh_from_db()
    free.refresh_from_db()
    assert (person.user, free.user) == (known.user, None)


def test_a_claim_counts_at_its_own_facility_only(op: HostileOP, facility: Facility) -> None:
    other = PersonFactory(external_id="X-1001")
    mine = PersonFactory(external_id="X-1001", facility=facility)
    op.configure(facility_claims={"office": facility.slug, "second": "not-there"})
    op.userinfo = {"office": "X-1001", "second": "X-1001", "facility_person_id": "X-1001"}
    assert Browser().sign_in(op).status_code == 200
    for person in (mine, other):
        person.refresh_from_db()
    assert (mine.user, other.user) == (User.objects.get(), None)


def test_claims_of_several_facilities_tie_at_each(op: HostileOP) -> None:
    here, there = FacilityFactory(), FacilityFactory()
    op.configure(facility_claims={"here_id": here.slug, "there_id": there.slug})
    op.userinfo = {"here_id": "A-1", "there_id": ["B-2"]}
    assert Browser().sign_in(op).status_code == 200
    assert set(User.objects.get().persons.values_list("facility__slug", "external_id")) == {
        (here.slug, "A-1"),
        (there.slug, "B-2"),
    }


# ---- operators have no experiment data by themselves ----
@pytest.mark.parametrize("role", ["admin", "operator", "staff", "it-support", "instrument-scientist"])
def test_a_role_shows_nobody_an_experiment(role: str) -> None:
    experiment = ExperimentFactory(proposal=ProposalFactory())
    user = RoleGrantFactory(role=role).user
    assert not Experiment.objects.visible_to(user).exists()
    person = PersonFactory(facility=experiment.facility, user=user)
    TeamMember.objects.create(experiment=experiment, person=person)
    assert Experiment.objects.visible_to(user).exists()
