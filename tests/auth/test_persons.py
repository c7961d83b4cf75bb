"""A person of the user office is tied by one claim of its own provider, once, and never taken away."""

from __future__ import annotations

from typing import Any

import pytest

from auth import persons
from auth.models import Facility, Person, RoleGrant, User
from portal.audit import AuditEvent
from tests.auth.conftest import Browser
from tests.auth.hostile_op import MISSING, HostileOP
from tests.factories.auth import FacilityFactory, PersonFactory, RoleGrantFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def facility(op: HostileOP, settings: Any) -> Facility:
    op.configure(facility_claims={"facility_person_id": "xfel"})
    settings.PERSON_ROLES = ["xfel/X-1003=operator"]
    op.userinfo = {"facility_person_id": "X-1001"}
    return FacilityFactory(slug="xfel")


def test_a_known_person_is_tied_at_sign_in(op: HostileOP, browser: Browser, facility: Facility) -> None:
    person = PersonFactory(facility=facility, external_id="X-1001")
    browser.sign_in(op)
    person.refresh_from_db()
    assert person.user == User.objects.get()
    assert person.tied_by == Person.TiedBy.CLAIM
    assert person.tied_at is not None
    event = AuditEvent.objects.get(action="person_tied")
    assert (event.object_id, event.result) == ("xfel/X-1001", AuditEvent.Result.DONE)


def test_signing_in_again_ties_nothing_again(op: HostileOP, facility: Facility) -> None:
    for _ in range(2):
        Browser().sign_in(op)
    assert AuditEvent.objects.filter(action="person_tied").count() == 1


def test_a_person_the_sync_has_not_brought_yet_is_made(op: HostileOP, browser: Browser, facility: Facility) -> None:
    browser.sign_in(op)
    assert Person.objects.get(facility=facility, external_id="X-1001").user == User.objects.get()


def test_a_person_of_somebody_else_is_not_moved(op: HostileOP, browser: Browser, facility: Facility) -> None:
    owner = UserFactory()
    person = PersonFactory(facility=facility, external_id="X-1001", user=owner)
    assert browser.sign_in(op).status_code == 200
    person.refresh_from_db()
    assert person.user == owner
    event = AuditEvent.objects.get(action="person_tied")
    assert (event.result, event.reason) == (AuditEvent.Result.REFUSED, "tied-to-another")


def test_a_user_stays_the_person_they_are(op: HostileOP, browser: Browser, facility: Facility) -> None:
    browser.sign_in(op)
    op.userinfo = {"facility_person_id": "X-2002"}
    assert Browser().sign_in(op).status_code == 200
    assert Person.objects.get(user=User.objects.get()).external_id == "X-1001"
    assert AuditEvent.objects.filter(action="person_tied", result=AuditEvent.Result.REFUSED).exists()


@pytest.mark.parametrize("claim", [MISSING, "", None, 7, ["X-1001", "X-1002"], {"id": "X-1001"}])
def test_no_plain_claim_ties_nobody(op: HostileOP, browser: Browser, facility: Facility, claim: Any) -> None:
    op.userinfo = {"facility_person_id": claim, "name": "Jana", "email": "jana@facility.example"}
    PersonFactory(facility=facility, external_id="X-1001", name="Jana")
    assert browser.sign_in(op).status_code == 200
    assert not Person.objects.exclude(user=None).exists()


def test_without_a_facility_the_claim_says_nothing(op: HostileOP, browser: Browser) -> None:
    op.userinfo = {"facility_person_id": "X-1001"}
    browser.sign_in(op)
    op.configure(facility_claims={"facility_person_id": "not-there"})
    assert Browser().sign_in(op).status_code == 200
    assert not Person.objects.exists()


def test_a_listed_person_gets_the_role_at_the_facility(op: HostileOP, browser: Browser, facility: Facility) -> None:
    op.userinfo = {"facility_person_id": "X-1003"}
    browser.sign_in(op)
    grant = RoleGrant.objects.get()
    assert (grant.role, grant.facility, grant.source) == ("operator", facility, persons.FROM_SETTINGS)
    Browser().sign_in(op)
    assert AuditEvent.objects.filter(action="roles_from_settings").count() == 1


def test_who_is_not_listed_any_more_loses_it(
    op: HostileOP, browser: Browser, facility: Facility, settings: Any
) -> None:
    op.userinfo = {"facility_person_id": "X-1003"}
    browser.sign_in(op)
    RoleGrantFactory(user=User.objects.get(), role="staff", source="by hand")
    settings.PERSON_ROLES = []
    Browser().sign_in(op)
    assert list(RoleGrant.objects.values_list("role", flat=True)) == ["staff"]


def test_who_claims_a_listed_person_of_somebody_else_gets_nothing(
    op: HostileOP, browser: Browser, facility: Facility
) -> None:
    PersonFactory(facility=facility, external_id="X-1003", user=UserFactory())
    op.userinfo = {"facility_person_id": "X-1003"}
    browser.sign_in(op)
    assert not RoleGrant.objects.exists()


@pytest.mark.parametrize(
    "entry",
    [
        "xfel/X-1003=admin",
        "X-1003",
        "X-1003=operator",
        "xfel/X-1003=emperor",
        "/X-1003=operator",
        "xfel/=operator",
        "=operator",
        "",
    ],
)
def test_an_entry_that_makes_no_sense_gives_nothing(settings: Any, entry: str) -> None:
    settings.PERSON_ROLES = [entry]
    assert persons.person_roles() == {}
