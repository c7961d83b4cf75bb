"""What the portal forgets by itself, and that the audit lets go of nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.db.models import Value

from auth import notices, retention, tokens
from auth.models import ApiToken, ErasedIdentity, Notice
from instances import sweep
from portal import audit
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.clock import Now
from tests.factories.auth import UserFactory

pytestmark = pytest.mark.django_db

ADDRESS = "192.0.2.7"


def act(action: str, age: timedelta, **more: Any) -> AuditEvent:
    """A row of that age: made so, as no row is ever moved."""
    given = {"action": action, "at": clock.now() - age, "address": ADDRESS, "request_id": "r", "identity": "x at y"}
    return AuditEvent.objects.create(**given | more)


def test_addresses_of_failed_sign_ins_go_after_thirty_days_and_nothing_else() -> None:
    day = timedelta(days=1)
    old, young = act("login_failed", 30 * day + day / 24), act("login_failed", 29 * day)
    other, very_old = act("login", 179 * day), act("login", 181 * day)
    before = {row.pk: row for row in AuditEvent.objects.all()}
    retention.forget()
    assert [AuditEvent.objects.get(pk=row.pk).address for row in (old, young, other, very_old)] == [
        "",
        ADDRESS,
        ADDRESS,
        "",
    ]
    for row in AuditEvent.objects.all():
        same = before[row.pk]
        assert (row.at, row.action, row.identity, row.request_id) == (
            same.at,
            same.action,
            same.identity,
            same.request_id,
        )


def test_the_worker_does_it_once_a_day() -> None:
    row = act("login_failed", timedelta(days=31))
    sweep.forget_expired()
    row.refresh_from_db()
    assert row.address == ""


def refused(row: AuditEvent, **change: Any) -> bool:
    try:
        with transaction.atomic():
            AuditEvent.objects.filter(pk=row.pk).update(**change)
    except DatabaseError as error:
        return "append-only" in str(error)
    return False


YOUNG, OLD = timedelta(days=29, hours=23), timedelta(days=30, hours=1)


@pytest.mark.parametrize(
    ("age", "change", "lets"),
    [
        (OLD, {"address": ""}, True),
        (YOUNG, {"address": ""}, False),
        (OLD, {"address": "198.51.100.1"}, False),
        (OLD, {"address": "", "action": "nothing"}, False),
        (OLD, {"address": "", "at": Now()}, False),
        (YOUNG, {"actor_name": "deleted-abc"}, True),
        (YOUNG, {"actor_name": "deleted-abc", "identity": ""}, True),
        (YOUNG, {"actor_name": "deleted-abc", "actor_uid": None}, False),
        (YOUNG, {"actor_name": "somebody else"}, False),
        (YOUNG, {"actor_name": ""}, False),
        (YOUNG, {"identity": ""}, False),
        (YOUNG, {"actor_name": "deleted-abc", "identity": "another"}, False),
        (YOUNG, {"for_name": "deleted-abc"}, True),
        (YOUNG, {"for_name": "Mallory"}, False),
        (YOUNG, {"object_id": "deleted-abc"}, False),
        (YOUNG, {"result": "refused"}, False),
        (YOUNG, {"reason": ""}, False),
        (YOUNG, {"detail": {}}, False),
        (YOUNG, {"request_id": ""}, False),
        (YOUNG, {"for_uid": None}, False),
    ],
)
def test_the_audit_lets_go_of_names_and_old_addresses_alone(age: timedelta, change: Any, lets: bool) -> None:
    user = UserFactory()
    row = act(
        "share",
        age,
        actor_uid=user.uid,
        actor_name="Alice",
        for_uid=user.uid,
        for_name="Bob",
        object_type="instance",
        object_id="x",
        reason="asked",
        detail={"a": 1},
    )
    assert refused(row, **change) is not lets


@pytest.mark.parametrize(("kind", "lets"), [("person", True), ("home", True), ("user", False), ("", False)])
def test_an_objects_id_goes_only_where_it_names_somebody(kind: str, lets: bool) -> None:
    row = act("x", YOUNG, object_type=kind, object_id="xfel/X-1")
    assert refused(row, object_id=Value("deleted-abc")) is not lets
    assert refused(row, object_id="xfel/X-2")


def test_a_row_is_never_deleted() -> None:
    row = audit.record("x")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        row.delete()


def test_what_is_spent_goes() -> None:
    user = UserFactory()
    long_ago = clock.now() - retention.SPENT - timedelta(hours=1)
    kept, _ = tokens.issue(user, scopes=["me:read"], lasts=timedelta(days=1))
    for change in ({"expires_at": long_ago}, {"revoked_at": long_ago}):
        token, _ = tokens.issue(user, scopes=["me:read"], lasts=timedelta(days=1))
        ApiToken.objects.filter(pk=token.pk).update(**change)
    notices.tell(user, "old")
    Notice.objects.update(at=clock.now() - notices.KEPT - timedelta(hours=1))
    notices.tell(user, "new")
    ErasedIdentity.objects.create(key_hash="a", expires_at=clock.now() - timedelta(seconds=1))
    ErasedIdentity.objects.create(key_hash="b", expires_at=clock.now() + timedelta(days=1))
    retention.forget()
    assert list(ApiToken.objects.all()) == [kept]
    assert [notice.text for notice in Notice.objects.all()] == ["new"]
    assert [row.key_hash for row in ErasedIdentity.objects.all()] == ["b"]
