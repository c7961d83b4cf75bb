"""What platform roles give on instances: one without an experiment as long as the role lasts, and a look at others."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from auth import grants
from auth import services as people
from auth.models import Facility, RoleGrant, User
from auth.roles import InstanceRole, Role
from experiments.models import Experiment
from instances import entry, services
from instances.errors import NeedsExperiment, RoleEnded
from instances.lifecycle import State, Target
from instances.models import GatewaySession, Instance, Member
from instances.spec import data_mounts
from portal import internal
from portal.lib.clock import Now, now
from portal.lib.errors import NotFound
from portal.lib.hashing import digest
from tests.factories.auth import FacilityFactory, PersonFactory, RoleGrantFactory, UserFactory, sign_in
from tests.factories.experiments import DatasetFactory, ExperimentFactory, InstrumentFactory, ProposalFactory, join_team
from tests.factories.instances import InstanceFactory, PlanFactory, ProviderFactory
from tests.factories.rights import GroupMemberFactory, GroupRoleFactory

pytestmark = pytest.mark.django_db
NONCE = digest("nonce")


@pytest.fixture
def facility() -> Facility:
    return FacilityFactory()


@pytest.fixture
def visitor(facility: Facility) -> User:
    return RoleGrantFactory(role=Role.VISITOR, facility=facility, expires_at=now() + timedelta(minutes=2)).user


def made(owner: User, facility: Facility) -> Instance:
    """An instance without an experiment, as it is when it runs."""
    plan = PlanFactory(image__provider=ProviderFactory(facility=facility))
    instance = services.request_instance(owner, plan=plan, experiments=[], name="a look")
    Instance.objects.filter(pk=instance.pk).update(state=State.ACTIVE, target=Target.ACTIVE)
    instance.refresh_from_db()
    return instance


@pytest.fixture
def instance(visitor: User, facility: Facility) -> Instance:
    return made(visitor, facility)


def entered(instance: Instance) -> GatewaySession:
    session = sign_in(Client(), instance.owner)
    ticket = entry.issue_ticket(session, instance.owner, instance, InstanceRole.OWNER, NONCE)
    return entry.redeem(ticket, NONCE, instance.slug)


def lives(session: GatewaySession) -> bool:
    living = entry.living().filter(pk=session.pk).exists()
    assert living is not entry.withdrawn().filter(pk=session.pk).exists()
    return living


# ---- the role behind an instance without experiment ----
def test_how_it_was_made_is_remembered(instance: Instance, visitor: User, facility: Facility) -> None:
    assert instance.by_role
    experiment = ExperimentFactory(proposal=ProposalFactory(facility=facility, opened=True))
    plan = instance.plan
    other = services.request_instance(visitor, plan=plan, experiments=[experiment.uid], name="with data")
    assert not other.by_role


def test_a_session_ends_with_the_role_to_the_second(instance: Instance, visitor: User) -> None:
    end = RoleGrant.objects.get().expires_at
    session = entered(instance)
    session.refresh_from_db()
    assert session.expires_at == end
    (renewed,), gone = entry.renew({session.sid: True})
    assert (renewed.expires_at, gone) == (end, [])
    assert lives(session)
    RoleGrant.objects.update(expires_at=Now())
    assert not lives(session)
    assert entry.renew({session.sid: True}) == ([], [session.sid])


def test_a_longer_role_means_five_minutes_at_a_time(instance: Instance) -> None:
    RoleGrant.objects.update(expires_at=None)
    session = entered(instance)
    session.refresh_from_db()
    assert timedelta(minutes=4, seconds=50) < session.expires_at - now() <= timedelta(minutes=5)


def test_a_role_that_is_prolonged_prolongs_at_the_next_renewal(instance: Instance) -> None:
    session = entered(instance)
    RoleGrant.objects.update(expires_at=now() + timedelta(hours=1))
    (renewed,), _gone = entry.renew({session.sid: True})
    assert renewed.expires_at > now() + timedelta(minutes=4)


def test_the_last_of_several_roles_counts(instance: Instance, visitor: User, facility: Facility) -> None:
    later = now() + timedelta(minutes=3)
    group = GroupRoleFactory(role=Role.STAFF, facility=facility).group
    GroupMemberFactory(user=visitor, group=group, expires_at=later)
    GroupMemberFactory(user=visitor, group=GroupRoleFactory(role=Role.STAFF, facility=FacilityFactory()).group)
    session = entered(instance)
    session.refresh_from_db()
    assert session.expires_at == later
    RoleGrant.objects.all().delete()
    assert lives(session)


def test_the_end_of_the_sign_in_counts_too(instance: Instance) -> None:
    RoleGrant.objects.update(expires_at=None)
    session = entered(instance)
    end = now() + timedelta(minutes=1)
    type(session.login_session).objects.update(expires_at=end)
    (renewed,), _gone = entry.renew({session.sid: True})
    assert renewed.expires_at == end


def test_an_instance_for_experiments_needs_no_role() -> None:
    instance = InstanceFactory(state=State.ACTIVE)
    session = entered(instance)
    assert lives(session)
    session.refresh_from_db()
    assert session.expires_at > now() + timedelta(minutes=4)


def test_without_the_role_nobody_enters(instance: Instance, visitor: User) -> None:
    browser = Client(headers={"Sec-Fetch-Dest": "document"})
    sign_in(browser, visitor)
    address = f"/enter/{instance.slug}?n={'0' * 64}"
    assert browser.get(address).status_code == 303
    session = sign_in(Client(), visitor)
    ticket = entry.issue_ticket(session, visitor, instance, InstanceRole.OWNER, NONCE)
    RoleGrant.objects.update(expires_at=Now())
    answer = browser.get(address)
    assert answer.status_code == 403
    assert "role" in answer.content.decode()
    with pytest.raises(entry.Refused):
        entry.redeem(ticket, NONCE, instance.slug)


@pytest.mark.parametrize("verb", ["start", "reboot", "retry"])
def test_without_the_role_it_is_not_started(instance: Instance, visitor: User, verb: str) -> None:
    states = {"start": State.STOPPED, "reboot": State.ACTIVE, "retry": State.ERROR}
    target = Target.STOPPED if verb == "start" else Target.ACTIVE
    Instance.objects.update(state=states[verb], target=target)
    RoleGrant.objects.update(expires_at=Now())
    with pytest.raises(RoleEnded):
        getattr(services, verb)(instance, by=visitor)
    RoleGrant.objects.update(expires_at=None)
    getattr(services, verb)(instance, by=visitor)


def test_without_the_role_it_may_still_be_stopped_and_deleted(instance: Instance, visitor: User) -> None:
    RoleGrant.objects.update(expires_at=Now())
    services.stop(instance, by=visitor)
    services.delete(instance, by=visitor)
    assert Instance.objects.visible_to(visitor).exists()


def test_without_the_role_no_other_is_made(instance: Instance, visitor: User) -> None:
    RoleGrant.objects.update(expires_at=Now())
    with pytest.raises(NeedsExperiment):
        services.request_instance(visitor, plan=instance.plan, experiments=[], name="more")


def test_a_role_elsewhere_does_not_help(instance: Instance) -> None:
    session = entered(instance)
    RoleGrant.objects.update(facility=FacilityFactory())
    assert not lives(session)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.STAFF, Role.VISITOR])
def test_who_may_make_one(facility: Facility, role: Role) -> None:
    assert made(RoleGrantFactory(role=role, facility=facility).user, facility).by_role


def test_a_role_that_ends_in_the_midst_of_a_renewal_prolongs_nothing(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held when the living ones were looked for, and no longer when they are prolonged."""
    session = entered(instance)
    RoleGrant.objects.update(expires_at=Now())
    monkeypatch.setattr(entry, "living", GatewaySession.objects.all)
    entry.renew({session.sid: True})
    session.refresh_from_db()
    assert session.expires_at <= now()


# ---- what the gateways are told ----
def withdrawn_by(rows: list[dict[str, Any]]) -> list[str]:
    return [row["sid"] for row in rows if row["type"] == "withdraw"]


def test_every_heartbeat_tells_of_roles_that_have_just_ended(instance: Instance) -> None:
    session, other = entered(instance), entered(InstanceFactory(state=State.ACTIVE))
    assert withdrawn_by(internal.heartbeat()) == []
    RoleGrant.objects.update(expires_at=Now())
    rows = internal.heartbeat()
    assert withdrawn_by(rows) == [str(session.sid)]
    assert rows[-1]["type"] == "heartbeat"
    Member.objects.all().delete()
    assert withdrawn_by(internal.heartbeat()) == [str(session.sid)]
    assert str(other.sid) in withdrawn_by(internal.recent())


def test_a_withdrawn_role_is_told_at_once(instance: Instance, visitor: User) -> None:
    session = entered(instance)
    grants.withdraw(RoleGrant.objects.get(), by=RoleGrantFactory(role="admin").user)
    assert withdrawn_by(internal.changes([{"rights": "role_withdrawn"}])) == [str(session.sid)]


# ---- a look at others' instances ----
def seen_by(user: User) -> set[str]:
    return set(Instance.objects.supported_by(user).values_list("name", flat=True))


def instance_for(name: str, facility: Facility, **experiment: Any) -> Instance:
    plan = PlanFactory(image__provider=ProviderFactory(facility=facility))
    row = InstanceFactory(name=name, plan=plan, state=State.ACTIVE)
    if experiment:
        row.experiments.add(ExperimentFactory(proposal=ProposalFactory(facility=facility), **experiment))
    return row


DAY = timedelta(days=1)


def around(start: timedelta, end: timedelta) -> dict[str, datetime]:
    return {"start_at": now() + start, "end_at": now() + end}


@pytest.mark.parametrize(
    ("role", "seen"),
    [
        (Role.ADMIN, {"running", "over", "none"}),
        (Role.OPERATOR, {"running", "over", "none"}),
        (Role.IT_SUPPORT, {"running", "over", "none"}),
        (Role.INSTRUMENT_CONTROL, {"running"}),
        (Role.INSTRUMENT_SCIENTIST, set()),
        (Role.SCIENTIFIC_COMPUTING, set()),
        (Role.STAFF, set()),
        (Role.VISITOR, set()),
        (None, set()),
    ],
)
def test_what_each_role_sees_of_others_instances(facility: Facility, role: Role | None, seen: set[str]) -> None:
    instance_for("running", facility, **around(-DAY, DAY))
    instance_for("over", facility, **around(-90 * DAY, -80 * DAY))
    instance_for("none", facility)
    instance_for("elsewhere", FacilityFactory(), **around(-DAY, DAY))
    deleted = instance_for("deleted", facility, **around(-DAY, DAY))
    Instance.objects.filter(pk=deleted.pk).update(state=State.DELETED)
    user = RoleGrantFactory(role=role, facility=facility).user if role else UserFactory()
    assert seen_by(user) == seen
    assert not Instance.objects.visible_to(user).exists()
    if role:
        RoleGrant.objects.update(facility=None)
        assert seen_by(user) == seen | ({"elsewhere"} if seen else set())
        RoleGrant.objects.update(expires_at=Now())
        assert seen_by(user) == set()


@pytest.mark.parametrize(
    ("start", "end", "seen"),
    [
        (-30 * DAY, -6 * DAY, True),
        (-30 * DAY, -8 * DAY, False),
        (6 * DAY, 30 * DAY, True),
        (8 * DAY, 30 * DAY, False),
        (-30 * DAY, 30 * DAY, True),
        (-2 * DAY, 2 * DAY, True),
    ],
)
def test_instrument_control_sees_a_week_around(
    facility: Facility, start: timedelta, end: timedelta, seen: bool
) -> None:
    instance_for("one", facility, **around(start, end))
    user = RoleGrantFactory(role=Role.INSTRUMENT_CONTROL, facility=facility).user
    assert bool(seen_by(user)) is seen
    Experiment.objects.update(end_at=None)
    assert not seen_by(user)


def test_instrument_scientists_see_those_of_their_instruments(facility: Facility) -> None:
    mine, other = InstrumentFactory(facility=facility), InstrumentFactory(facility=facility)
    instance_for("mine", facility, instrument=mine)
    instance_for("other", facility, instrument=other)
    user = UserFactory()
    mine.scientists.add(PersonFactory(facility=facility, user=user))
    other.scientists.add(PersonFactory(facility=facility, user=UserFactory()))
    assert seen_by(user) == set()
    RoleGrantFactory(user=user, role=Role.INSTRUMENT_SCIENTIST, facility=facility)
    assert seen_by(user) == {"mine"}
    Experiment.objects.update(removed_at=Now())
    assert seen_by(user) == set()


def test_several_roles_are_joined(facility: Facility) -> None:
    user, instrument = UserFactory(), InstrumentFactory(facility=facility)
    instrument.scientists.add(PersonFactory(facility=facility, user=user))
    instance_for("mine", facility, instrument=instrument)
    instance_for("running", facility, **around(-DAY, DAY))
    instance_for("neither", facility, **around(-90 * DAY, -80 * DAY))
    for role in (Role.INSTRUMENT_CONTROL, Role.INSTRUMENT_SCIENTIST):
        RoleGrantFactory(user=user, role=role, facility=facility)
    assert seen_by(user) == {"mine", "running"}


def test_who_is_suspended_sees_none(facility: Facility) -> None:
    instance_for("one", facility)
    user = RoleGrantFactory(facility=facility).user
    assert seen_by(user)
    people.suspend(user, by=RoleGrantFactory(role="admin").user, reason="test")
    user.refresh_from_db()
    assert not seen_by(user)


# ---- no role opens data ----
@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR, Role.STAFF, Role.IT_SUPPORT, Role.INSTRUMENT_SCIENTIST])
def test_no_role_puts_data_into_an_instance(facility: Facility, role: Role) -> None:
    """Neither asked for, nor when the experiment hangs on the instance already: only the team's data are mounted."""
    experiment = ExperimentFactory(proposal=ProposalFactory(facility=facility))
    DatasetFactory(experiment=experiment, path="/data/run")
    user = RoleGrantFactory(role=role, facility=facility).user
    plan = PlanFactory(image__provider=ProviderFactory(facility=facility))
    with pytest.raises(NotFound):
        services.request_instance(user, plan=plan, experiments=[experiment.uid], name="peek")
    instance = InstanceFactory(owner=user, plan=plan)
    instance.experiments.add(experiment)
    assert data_mounts(instance) == []
    join_team(user, experiment)
    assert len(data_mounts(instance)) == 1
