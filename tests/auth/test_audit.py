"""Audit rows are written once."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from portal import audit
from portal.audit import AuditEvent
from tests.factories.auth import UserFactory

pytestmark = pytest.mark.django_db


def test_a_row_says_who_did_what_to_what() -> None:
    user = UserFactory()
    event = audit.record("share", actor=user, about=("instance", "abc"), reason="asked", role="guest")
    event.refresh_from_db()
    assert (event.actor_uid, event.actor_name) == (user.uid, str(user))
    assert (event.object_type, event.object_id, event.reason) == ("instance", "abc", "asked")
    assert event.detail == {"role": "guest"}


@pytest.mark.parametrize(
    "statement",
    ["UPDATE portal_auditevent SET reason = 'never happened'", "DELETE FROM portal_auditevent"],
)
def test_the_database_refuses_to_change_or_delete_a_row(statement: str) -> None:
    audit.record("login")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert AuditEvent.objects.get().reason == ""


def test_the_orm_is_refused_too() -> None:
    event = audit.record("login")
    event.reason = "other"
    with pytest.raises(DatabaseError), transaction.atomic():
        event.save()
    with pytest.raises(DatabaseError), transaction.atomic():
        AuditEvent.objects.all().delete()
    assert AuditEvent.objects.count() == 1


def test_a_row_stands_or_falls_with_its_act() -> None:
    def act_that_fails() -> None:
        with transaction.atomic():
            audit.record("delete")
            raise LookupError

    with pytest.raises(LookupError):
        act_that_fails()
    assert not AuditEvent.objects.exists()
