"""Forgetting somebody: what goes, what stays under a pseudonym, what stands in the way, and who may."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core import serializers
from django.db import connection
from django.test import Client

from auth import erasure, linking, registry, services, tokens
from auth.erasure import ErasureHindered
from auth.models import ErasedIdentity, ErasureRequest, Identity, Notice, User
from experiments.models import TeamMember
from instances import homes
from instances import services as verbs
from instances.lifecycle import State
from instances.models import Home, Instance, Leftover, Member, Quota
from portal import audit
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.errors import Conflict, Forbidden
from tests.auth.conftest import Browser
from tests.auth.hostile_op import HostileOP
from tests.factories.auth import IdentityFactory, PersonFactory, RoleGrantFactory, UserFactory, bearer, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory, join_team
from tests.factories.instances import HomeFactory, InstanceFactory, PlanFactory, QuotaFactory
from tests.races import ROUNDS, Racers

PATH = "/auth/account/data/erasure/"
#: what must be nowhere afterwards
TRACES = ("jana", "Nováková", "J-4711", "umbrella-subject")


@pytest.fixture
def admin(db: None) -> User:
    return RoleGrantFactory(user=UserFactory(handle="root"), role="admin", facility=None).user


@pytest.fixture
def jana(db: None) -> User:
    return UserFactory(handle="jana-x7", display_name="Jana Nováková", email="jana@facility.example")


def lived(jana: User) -> tuple[Client, str]:
    """Leave traces wherever somebody can; return a browser and a token of hers."""
    client = Client()
    identity = IdentityFactory(user=jana, subject="umbrella-subject@x.example")
    sign_in(client, jana, identity)
    client.get("/", headers={"User-Agent": "jana's browser"})
    audit.origin.set(audit.Origin())  # of her sign-in; what others do is not hers
    person = PersonFactory(user=jana, external_id="J-4711", name="Somebody of the user office")
    audit.record("person_tied", actor=jana, about=("person", f"{person.facility.slug}/J-4711"))
    run = ExperimentFactory(proposal=ProposalFactory(facility=person.facility))
    TeamMember.objects.create(experiment=run, person=person)
    done = InstanceFactory(owner=jana, name="jana's lysozyme", state=State.DELETED, log="jana was here", detail="jana")
    home = HomeFactory(user=jana, provider=done.provider, key="jana-x7-abc")
    Member.objects.create(instance=InstanceFactory(), user=jana, role="user")
    audit.record("home.delete", actor=jana, about=("home", home.key))
    audit.record("instance.stop", actor=UserFactory(), on_behalf_of=jana, about=("instance", done.uid))
    RoleGrantFactory(user=jana, role="staff")
    QuotaFactory(scope=Quota.Scope.USER, subject=str(jana.uid), limit=3)
    erasure.ask(jana, "I, Jana Nováková, want to go")
    return client, tokens.issue(jana, scopes=["me:read"], lasts=timedelta(days=1), name="jana's laptop")[1]


def everything_stored() -> dict[str, str]:
    """All rows of all tables, as text."""
    with connection.cursor() as cursor:
        found = {}
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT coalesce(string_agg(t::text, '\n'), '') FROM {connection.ops.quote_name(table)} t")
            found[table] = cursor.fetchone()[0]
    return found


#: the user office's own word about a person, and a home that a worker is deleting
NOT_OURS = {"accounts_person", "instances_home"}


def test_no_trace_of_her_is_left_in_any_table(jana: User, admin: User) -> None:
    client, token = lived(jana)
    pseudonym = erasure.erase(jana, admin)
    stored = everything_stored()
    ours = {table: text for table, text in stored.items() if table not in NOT_OURS}
    assert [(table, trace) for table, text in ours.items() for trace in TRACES if trace in text] == []
    assert stored["accounts_user"].count(pseudonym) == 2
    assert client.get("/api/v1/me").status_code == 401
    assert Client().get("/api/v1/me", headers=bearer(token)).status_code == 401
    row = User.objects.get(pk=jana.pk)
    assert (row.uid, row.handle, row.email, row.is_active) == (jana.uid, pseudonym, "", False)
    assert row.erased_at is not None
    assert str(row) == pseudonym


def test_accounting_and_audit_stay_under_the_pseudonym(jana: User, admin: User) -> None:
    lived(jana)
    instance = Instance.objects.get(owner=jana)
    before = list(AuditEvent.objects.order_by("pk").values("pk", "at", "action", "actor_uid", "result", "request_id"))
    pseudonym = erasure.erase(jana, admin)
    kept = AuditEvent.objects.filter(pk__in=[row["pk"] for row in before]).order_by("pk")
    assert list(kept.values("pk", "at", "action", "actor_uid", "result", "request_id")) == before
    assert set(kept.filter(actor_uid=jana.uid).values_list("actor_name", "identity")) == {(pseudonym, "")}
    assert set(kept.filter(for_uid=jana.uid).values_list("for_name")) == {(pseudonym,)}
    instance.refresh_from_db()
    assert (instance.owner_id, instance.name, instance.created_at) == (jana.pk, "", instance.created_at)
    last = AuditEvent.objects.latest("pk")
    assert (last.action, last.actor_uid, last.object_id) == ("user_erased", admin.uid, str(jana.uid))


def test_what_the_registry_says_is_deleted_is(jana: User, admin: User) -> None:
    lived(jana)
    erasure.erase(jana, admin)
    row = User.objects.get(pk=jana.pk)
    left = {held.section for held in registry.everything() if held.fate == "deleted" and held.of(row).exists()}
    assert left == set()
    told = {held.section: list(held.lines(row)) for held in registry.everything()}
    assert [section for section in told if any(trace in line for line in told[section] for trace in TRACES)] == [
        "homes"
    ]


def test_the_person_stays_the_user_offices(jana: User, admin: User) -> None:
    lived(jana)
    person = jana.persons.get()
    erasure.erase(jana, admin)
    person.refresh_from_db()
    assert (person.user, person.tied_by, person.name) == (None, "", "Somebody of the user office")
    assert TeamMember.objects.filter(person=person).exists()


def test_homes_are_closed_at_once_and_deleted_by_the_worker(jana: User, admin: User) -> None:
    home = HomeFactory(user=jana)
    assert registry.losses(jana) == [f"Your home at {home.facility}, with all files in it. Nobody keeps a copy."]
    erasure.erase(jana, admin)
    home.refresh_from_db()
    assert home.deleting_at is not None
    homes.finish_old_deletions(timedelta(0))
    assert not Home.objects.exists()


def test_instances_stand_in_the_way(jana: User, admin: User) -> None:
    instance = InstanceFactory(owner=jana, name="Lysozyme", state=State.STOPPED)
    gone = InstanceFactory(owner=jana, state=State.DELETED)
    Leftover.objects.create(provider=gone.provider, ref="vm-1", instance=gone)
    with pytest.raises(ErasureHindered) as caught:
        erasure.erase(jana, admin)
    assert [one.what for one in caught.value.hindrances] == [
        "the instance “Lysozyme”",
        "a machine that is still being removed",
    ]
    jana.refresh_from_db()
    assert jana.erased_at is None
    assert jana.email == "jana@facility.example"
    Leftover.objects.all().delete()
    Instance.objects.filter(pk=instance.pk).update(state=State.DELETED)
    erasure.erase(jana, admin)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("attempt", ROUNDS)
def test_nobody_starts_something_while_they_are_erased(attempt: int) -> None:
    """A request that was let in a moment before ends without an instance, or the erasure without being done."""
    admin = RoleGrantFactory(role="admin", facility=None).user
    jana, plan = UserFactory(), PlanFactory()
    run = ExperimentFactory(proposal=ProposalFactory(facility=plan.image.provider.facility))
    join_team(jana, run)
    racers = Racers(6)
    try:
        answers = racers.run(
            lambda: verbs.request_instance(jana, plan=plan, experiments=[run.uid], name="late"),
            lambda: erasure.erase(jana, admin),
        )
    finally:
        racers.close()
    erased = User.objects.get(pk=jana.pk).erased_at is not None
    assert erased is not Instance.objects.exists(), answers
    assert sum(isinstance(answer, str) for answer in answers) == int(erased)
    assert all(isinstance(answer, Instance | str | Conflict | Forbidden) for answer in answers), answers


@pytest.mark.parametrize("role", ["operator", "staff", None])
def test_only_an_admin_of_the_whole_portal_may(jana: User, role: str | None) -> None:
    by = RoleGrantFactory(role=role, facility=None).user if role else UserFactory()
    with pytest.raises(Forbidden):
        erasure.erase(jana, by)
    row = AuditEvent.objects.get(action="user_erased")
    assert (row.actor_uid, row.object_id, row.result) == (by.uid, str(jana.uid), "refused")
    jana.refresh_from_db()
    assert jana.erased_at is None


def test_nobody_erases_themselves(admin: User) -> None:
    with pytest.raises(Forbidden):
        erasure.erase(admin, admin)


def test_twice_is_once(jana: User, admin: User) -> None:
    erasure.erase(jana, admin)
    with pytest.raises(Conflict, match="already"):
        erasure.erase(jana, admin)


# ---- coming back ----
def test_the_identity_is_kept_as_a_hash(jana: User, admin: User) -> None:
    IdentityFactory(user=jana, subject="Umbrella-Subject@x.example")
    erasure.erase(jana, admin)
    (row,) = ErasedIdentity.objects.all()
    assert timedelta(days=540) < row.expires_at - clock.now() < timedelta(days=560)
    assert "umbrella" not in serializers.serialize("json", [row]).lower()


@pytest.mark.parametrize("suspended", [True, False])
def test_who_was_suspended_does_not_come_back_as_somebody_new(
    op: HostileOP, browser: Browser, admin: User, suspended: bool
) -> None:
    assert browser.sign_in(op).status_code == 200
    user = User.objects.get(identities__isnull=False)
    if suspended:
        services.suspend(user, by=admin, reason="test")
    erasure.erase(user, admin)
    answer = browser.sign_in(op)
    assert answer.status_code == (403 if suspended else 200)
    assert Identity.objects.exists() is not suspended
    if suspended:
        assert AuditEvent.objects.filter(action="login_failed").latest("pk").reason == "erased-while-suspended"
        ErasedIdentity.objects.update(expires_at=clock.now())
        assert browser.sign_in(op).status_code == 200
    else:
        assert User.objects.get(identities__isnull=False).pk != user.pk


def test_nor_by_being_linked(jana: User, admin: User) -> None:
    IdentityFactory(user=jana, subject="banned@x.example")
    services.suspend(jana, by=admin, reason="test")
    erasure.erase(jana, admin)
    with pytest.raises(Conflict):
        linking.link(UserFactory(), linking.Pending("demo", "https://provider.example", "banned@x.example", "", ""))
    assert not Identity.objects.exists()


# ---- the wish ----
@pytest.fixture
def browser_of_jana(jana: User) -> Client:
    client = Client()
    sign_in(client, jana)
    return client


def test_it_is_asked_seen_and_withdrawn(browser_of_jana: Client, jana: User) -> None:
    assert browser_of_jana.post(PATH, {"reason": "enough\x00"}).status_code == 302
    page = browser_of_jana.get(PATH).text
    assert "You asked on" in page
    assert "Withdraw my request" in page
    assert browser_of_jana.post(PATH).status_code == 409
    assert browser_of_jana.post(f"{PATH}withdraw/").status_code == 302
    assert "You withdrew" in browser_of_jana.get(PATH).text
    assert browser_of_jana.post(f"{PATH}withdraw/").status_code == 409
    assert browser_of_jana.post(PATH).status_code == 302
    assert [one.outcome for one in ErasureRequest.objects.order_by("pk")] == ["withdrawn", "open"]
    assert AuditEvent.objects.filter(action="erasure_asked", actor_uid=jana.uid).count() == 2
    assert browser_of_jana.get("/api/v1/me").status_code == 200


def test_asking_wants_a_fresh_sign_in(jana: User) -> None:
    client = Client()
    sign_in(client, jana, shown=timedelta(minutes=10))
    assert client.post(PATH).status_code == 403
    assert not ErasureRequest.objects.exists()


def test_the_page_says_what_stands_in_the_way_and_what_is_lost(browser_of_jana: Client, jana: User) -> None:
    instance = InstanceFactory(owner=jana, name="Lysozyme")
    home = HomeFactory(user=jana, provider=instance.provider)
    page = browser_of_jana.get(PATH).text
    assert f'<a href="{instance.get_absolute_url()}">the instance “Lysozyme”</a>' in page
    assert f"Your home at {home.facility}" in page


def test_a_refusal_is_told_with_its_reason(browser_of_jana: Client, jana: User, admin: User) -> None:
    request = erasure.ask(jana)
    erasure.refuse(request, by=admin, answer="A legal hold until May.")
    assert "A legal hold until May." in browser_of_jana.get(PATH).text
    assert "A legal hold until May." in Notice.objects.get(user=jana).text
    with pytest.raises(Conflict):
        erasure.refuse(request, by=admin, answer="again")
    with pytest.raises(Forbidden):
        erasure.refuse(erasure.ask(jana), by=UserFactory(), answer="no")
