"""What a restored database brings back lets nobody in."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client

from auth import access, restored, tokens
from auth.models import ApiToken, DatabaseMark, PersonLink, Session, User
from portal import serve
from portal.audit import AuditEvent
from portal.lib import clock
from tests.factories.auth import PersonFactory, UserFactory, bearer, sign_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    return UserFactory()


@pytest.fixture
def token(alice: User) -> str:
    return tokens.issue(alice, scopes=["me:read"], lasts=timedelta(days=1))[1]


@pytest.fixture
def link(alice: User) -> PersonLink:
    return PersonLink.objects.create(
        person=PersonFactory(), token_hash="h", made_by=alice, expires_at=clock.now() + timedelta(days=1)
    )


def gets_in(client: Client, token: str) -> list[bool]:
    answers = [client.get("/api/v1/me"), Client().get("/api/v1/me", headers=bearer(token))]
    return [answer.status_code == 200 for answer in answers]


def copy_this_database() -> None:
    """As a dump that is read into a new database: the row tells what it told, the tables are other ones."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE copied (LIKE accounts_session INCLUDING ALL)")
        cursor.execute("INSERT INTO copied SELECT * FROM accounts_session")
        cursor.execute("ALTER TABLE accounts_session RENAME TO original")
        cursor.execute("ALTER TABLE copied RENAME TO accounts_session")


def test_a_restored_database_revives_nothing(client: Client, alice: User, token: str, link: PersonLink) -> None:
    assert restored.look() is None
    sign_in(client, alice)
    assert gets_in(client, token) == [True, True]
    copy_this_database()
    assert restored.look() == restored.Ended(sessions=1, tokens=1, links=1)
    assert gets_in(client, token) == [False, False]
    link.refresh_from_db()
    assert link.withdrawn_at is not None
    event = AuditEvent.objects.get(action="database_restored")
    assert event.detail == {"sessions": 1, "tokens": 1, "links": 1}


def test_it_is_looked_at_once(client: Client, alice: User, token: str) -> None:
    restored.look()
    copy_this_database()
    restored.look()
    sign_in(client, alice)
    assert restored.look() is None
    assert client.get("/api/v1/me").status_code == 200


def test_the_same_database_ends_nothing(client: Client, alice: User, token: str, link: PersonLink) -> None:
    sign_in(client, alice)
    assert [restored.look(), restored.look()] == [None, None]
    assert gets_in(client, token) == [True, True]
    link.refresh_from_db()
    assert link.withdrawn_at is None
    assert DatabaseMark.objects.count() == 1


@pytest.mark.parametrize("part", [0, 1, 2], ids=["cluster", "database", "table"])
def test_every_part_of_the_mark_counts(client: Client, alice: User, part: int) -> None:
    restored.look()
    sign_in(client, alice)
    parts = DatabaseMark.objects.get().mark.split(":")
    assert len(parts) == 3
    assert all(each.isdigit() for each in parts)
    parts[part] = "1"
    DatabaseMark.objects.update(mark=":".join(parts))
    assert restored.look() is not None
    assert not access.live_sessions().exists()


def test_an_operator_can_say_so(client: Client, alice: User, token: str, link: PersonLink) -> None:
    sign_in(client, alice)
    out = StringIO()
    call_command("restored", stdout=out)
    assert out.getvalue() == "Ended: 1 sign-ins, 1 API tokens, 1 one-time links.\n"
    assert gets_in(client, token) == [False, False]
    assert restored.look() is None


def test_what_had_ended_keeps_its_time(client: Client, alice: User, token: str) -> None:
    ApiToken.objects.update(revoked_at=clock.now() - timedelta(days=1))
    before = ApiToken.objects.get().revoked_at
    assert restored.declare().tokens == 0
    assert ApiToken.objects.get().revoked_at == before


def test_the_portal_looks_before_it_serves_pages(client: Client, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(client, alice)
    DatabaseMark.objects.create(pk=1, mark="another")
    closed: list[Any] = []
    monkeypatch.setattr(connection, "close", lambda: closed.append(1))
    serve._end_what_was_restored()
    assert closed
    assert not Session.objects.filter(ended_at=None).exists()
