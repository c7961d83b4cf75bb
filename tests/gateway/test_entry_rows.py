"""Tickets and gateway sessions on PostgreSQL: once, in time, and only while the right lasts."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client

from auth import access, services
from auth.models import Session, User
from auth.roles import InstanceRole
from instances import entry
from instances.lifecycle import State
from instances.models import GatewaySession, Instance, Member, Ticket
from portal.lib.clock import Now
from portal.lib.hashing import digest
from tests.factories.auth import RoleGrantFactory, UserFactory, sign_in
from tests.factories.instances import InstanceFactory

NONCE = digest("nonce")


def login_session(user: User) -> Session:
    return sign_in(Client(), user)


@pytest.fixture
def instance(db: None) -> Instance:
    return InstanceFactory(state=State.ACTIVE)


@pytest.fixture
def session(instance: Instance) -> Session:
    return login_session(instance.owner)


def ticket(session: Session, instance: Instance, role: str = InstanceRole.OWNER) -> str:
    user = session.user
    assert user is not None
    return entry.issue_ticket(session, user, instance, role, NONCE)


def entered(session: Session, instance: Instance) -> GatewaySession:
    return entry.redeem(ticket(session, instance), NONCE, instance.slug)


def is_withdrawn(row: GatewaySession) -> bool:
    return entry.withdrawn().filter(pk=row.pk).exists() and not entry.living().filter(pk=row.pk).exists()


def test_a_ticket_gives_a_session_of_its_role(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    assert (row.user, row.instance, row.role) == (instance.owner, instance, InstanceRole.OWNER)
    assert entry.living().filter(pk=row.pk).exists()
    assert not is_withdrawn(row)


def test_a_ticket_is_kept_as_its_hash_alone(session: Session, instance: Instance) -> None:
    secret = ticket(session, instance)
    row = Ticket.objects.get()
    assert row.secret_hash == digest(secret)
    assert secret not in str(row.__dict__)


def test_a_ticket_works_once(session: Session, instance: Instance) -> None:
    secret = ticket(session, instance)
    entry.redeem(secret, NONCE, instance.slug)
    with pytest.raises(entry.Refused) as refused:
        entry.redeem(secret, NONCE, instance.slug)
    assert refused.type is entry.Refused


@pytest.mark.django_db(transaction=True)
def test_of_twenty_who_redeem_at_once_one_gets_in() -> None:
    instance = InstanceFactory(state=State.ACTIVE)
    secret = ticket(login_session(instance.owner), instance)
    barrier = threading.Barrier(20)
    outcomes: list[bool] = []

    def redeem() -> None:
        try:
            barrier.wait()
            entry.redeem(secret, NONCE, instance.slug)
            outcomes.append(True)
        except entry.Refused:
            outcomes.append(False)
        finally:
            connection.close()

    threads = [threading.Thread(target=redeem) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 19 + [True]
    assert GatewaySession.objects.count() == 1


def test_an_expired_ticket_is_refused(session: Session, instance: Instance) -> None:
    secret = ticket(session, instance)
    Ticket.objects.update(expires_at=Now() - timedelta(seconds=1))
    with pytest.raises(entry.Refused):
        entry.redeem(secret, NONCE, instance.slug)
    assert not GatewaySession.objects.exists()


def test_a_ticket_of_another_instance_is_refused(session: Session, instance: Instance) -> None:
    other = InstanceFactory(state=State.ACTIVE, owner=instance.owner)
    with pytest.raises(entry.Refused) as refused:
        entry.redeem(ticket(session, instance), NONCE, other.slug)
    assert refused.type is entry.Refused


def test_another_nonce_is_told_apart_and_leaves_the_ticket_good(session: Session, instance: Instance) -> None:
    secret = ticket(session, instance)
    with pytest.raises(entry.OtherNonce):
        entry.redeem(secret, digest("another"), instance.slug)
    entry.redeem(secret, NONCE, instance.slug)


def test_a_ticket_dies_with_the_sign_in(session: Session, instance: Instance) -> None:
    secret = ticket(session, instance)
    services.end_session(session)
    with pytest.raises(entry.Refused):
        entry.redeem(secret, NONCE, instance.slug)
    assert not entry.living().exists()


def test_a_role_that_may_not_open_gets_nothing(session: Session, instance: Instance) -> None:
    Member.objects.filter(instance=instance).update(role=InstanceRole.GUEST)
    with pytest.raises(entry.Refused):
        entry.redeem(ticket(session, instance, InstanceRole.GUEST), NONCE, instance.slug)


def test_logout_withdraws(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    services.end_session(session)
    assert is_withdrawn(row)


def test_a_sign_in_that_ran_out_withdraws(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    Session.objects.filter(pk=session.pk).update(expires_at=Now() - timedelta(seconds=1))
    assert is_withdrawn(row)


def test_suspension_withdraws(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    operator = RoleGrantFactory(user=UserFactory()).user
    services.suspend(instance.owner, by=operator, reason="test")
    assert is_withdrawn(row)


def test_a_suspended_user_is_withdrawn_even_with_a_session_row_left_open(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    User.objects.filter(pk=instance.owner.pk).update(suspended_at=Now())
    assert is_withdrawn(row)


def test_a_removed_member_is_withdrawn(instance: Instance) -> None:
    bob = UserFactory()
    member = Member.objects.create(instance=instance, user=bob, role=InstanceRole.USER)
    session = login_session(bob)
    row = entry.redeem(ticket(session, instance, InstanceRole.USER), NONCE, instance.slug)
    member.delete()
    assert is_withdrawn(row)


def test_another_role_withdraws_the_session_of_the_old_one(instance: Instance) -> None:
    bob = UserFactory()
    member = Member.objects.create(instance=instance, user=bob, role=InstanceRole.USER)
    row = entry.redeem(ticket(login_session(bob), instance, InstanceRole.USER), NONCE, instance.slug)
    Member.objects.filter(pk=member.pk).update(role=InstanceRole.GUEST)
    assert is_withdrawn(row)


def test_a_deleted_instance_withdraws(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    Instance.objects.filter(pk=instance.pk).update(state=State.DELETING)
    assert is_withdrawn(row)


def test_a_revoked_row_is_withdrawn(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    GatewaySession.objects.update(revoked_at=Now())
    assert is_withdrawn(row)


def test_renewal_prolongs_and_raises_the_version(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    GatewaySession.objects.update(expires_at=Now() - timedelta(hours=1))
    renewed, gone = entry.renew({row.sid: False})
    assert gone == []
    assert renewed[0].version == row.version + 1
    assert entry.unexpired().filter(pk=row.pk).exists()


def test_a_dead_session_is_not_renewed(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    services.end_session(session)
    assert entry.renew({row.sid: True}) == ([], [row.sid])


def test_renewal_never_outlives_the_sign_in(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    Session.objects.filter(pk=session.pk).update(expires_at=Now() + timedelta(seconds=60))
    entry.renew({row.sid: True})
    row.refresh_from_db()
    session.refresh_from_db()
    assert row.expires_at <= session.expires_at


def test_work_in_an_instance_is_use_of_the_sign_in(session: Session, instance: Instance) -> None:
    row = entered(session, instance)
    long_ago = Now() - timedelta(minutes=90)
    Session.objects.filter(pk=session.pk).update(last_used_at=long_ago)
    entry.renew({row.sid: False})
    session.refresh_from_db()
    before = session.last_used_at
    entry.renew({row.sid: True})
    session.refresh_from_db()
    assert session.last_used_at > before
    assert access.live_sessions().filter(pk=session.pk).exists()
