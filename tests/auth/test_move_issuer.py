"""A provider's new issuer: its identities move together, when somebody says so, or not at all."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from auth import issuers, services
from auth.models import Identity, User
from auth.providers import Provider
from portal.audit import AuditEvent
from portal.lib.errors import Conflict, Forbidden
from tests.auth.conftest import Browser
from tests.auth.hostile_op import HostileOP
from tests.factories.auth import FacilityFactory, IdentityFactory, RoleGrantFactory, UserFactory, sign_in

pytestmark = pytest.mark.django_db

OLD = "https://aai.example/oidc/"
NEW = Provider("aai", "AAI", "https://aai.example/realms/aai", "beamport", "secret")


@pytest.fixture
def operator(registered: dict[str, Provider]) -> User:
    registered["aai"] = NEW
    return RoleGrantFactory(user=UserFactory(handle="olga"), role="operator", facility=None).user


@pytest.fixture
def moving() -> list[Identity]:
    """Three at the old issuer, of two users; one elsewhere."""
    jana = UserFactory()
    IdentityFactory(issuer="https://other.example", subject="a@aai.example")
    return [
        IdentityFactory(user=user, issuer=OLD, provider="old", subject=subject)
        for user, subject in ((jana, "a@aai.example"), (jana, "b@aai.example"), (UserFactory(), "c@aai.example"))
    ]


def run(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("move_issuer", *arguments, stdout=out, **options)
    return out.getvalue()


def at_new() -> int:
    return Identity.objects.filter(issuer=NEW.issuer).count()


def test_without_a_word_it_only_counts(operator: User, moving: list[Identity]) -> None:
    told = run(OLD, "aai")
    assert "3 identities of 2 users, 0 open sessions, 0 collisions" in told
    assert "--confirm 3 --by <operator>" in told
    assert "Nothing was moved yet" in run(OLD, "aai", confirm=3)
    assert at_new() == 0
    assert not AuditEvent.objects.exists()


def test_it_counts_the_open_sessions_of_what_moves(operator: User, moving: list[Identity]) -> None:
    stays = Identity.objects.get(issuer="https://other.example")
    for identity in (*moving[:2], stays):
        sign_in(Client(), identity.user, identity)
    services.end_session(sign_in(Client(), moving[2].user, moving[2]))
    assert issuers.plan(OLD, NEW).sessions == 2


def test_subjects_that_are_known_are_told_in_order(operator: User, moving: list[Identity]) -> None:
    for identity in reversed(moving):
        IdentityFactory(issuer=NEW.issuer, subject=identity.subject)
    assert issuers.plan(OLD, NEW).collisions == ("a@aai.example", "b@aai.example", "c@aai.example")


def test_confirmed_it_moves_all_and_leaves_one_row(operator: User, moving: list[Identity]) -> None:
    assert "Moved 3 identities." in run(OLD, "aai", confirm=3, by="olga")
    assert set(Identity.objects.filter(issuer=NEW.issuer).values_list("pk", "provider")) == {
        (identity.pk, "aai") for identity in moving
    }
    assert Identity.objects.filter(issuer="https://other.example").count() == 1
    event = AuditEvent.objects.get(action="issuer_moved")
    assert (event.actor_uid, event.object_type, event.object_id) == (operator.uid, "provider", "aai")
    assert event.detail == {"old": OLD, "new": NEW.issuer, "identities": 3}


@pytest.mark.parametrize("subject", ["b@aai.example", "B@AAI.example"])
def test_a_subject_known_at_the_new_issuer_stops_it(operator: User, moving: list[Identity], subject: str) -> None:
    IdentityFactory(issuer=NEW.issuer, subject=subject)
    with pytest.raises(CommandError, match="Nothing was moved"):
        run(OLD, "aai", confirm=3, by="olga")
    assert issuers.plan(OLD, NEW).collisions == ("b@aai.example",)
    with pytest.raises(Conflict, match="1 of the subjects"):
        issuers.move(OLD, NEW, by=operator, expected=3)
    assert at_new() == 1
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_than_was_counted_stops_it(operator: User, moving: list[Identity], count: int) -> None:
    with pytest.raises(CommandError, match="There are 3 identities now"):
        run(OLD, "aai", confirm=count, by="olga")
    assert at_new() == 0


@pytest.mark.parametrize("role", ["staff", "operator"])
def test_only_an_operator_of_the_whole_portal_may(operator: User, moving: list[Identity], role: str) -> None:
    local = RoleGrantFactory(user=UserFactory(handle="otto"), role=role, facility=FacilityFactory()).user
    with pytest.raises(Forbidden):
        issuers.move(OLD, NEW, by=local, expected=3)
    with pytest.raises(CommandError):
        run(OLD, "aai", confirm=3, by="otto")
    assert at_new() == 0


@pytest.mark.parametrize(
    ("old", "slug", "words"),
    [
        ("https://aai.example/oidc", "aai", "byte for byte"),
        (OLD, "nowhere", "there are: aai"),
        (NEW.issuer, "aai", "byte for byte"),
    ],
)
def test_what_makes_no_sense_is_told(operator: User, moving: list[Identity], old: str, slug: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        run(old, slug, confirm=3, by="olga")


def test_an_issuer_does_not_move_to_itself(operator: User) -> None:
    IdentityFactory(issuer=NEW.issuer, subject="a")
    with pytest.raises(Conflict, match=r"^The old and the new issuer are the same"):
        issuers.move(NEW.issuer, NEW, by=operator, expected=1)


def test_without_the_move_the_same_subject_at_a_new_issuer_is_somebody_new(op: HostileOP) -> None:
    owner = IdentityFactory(issuer=OLD, provider="old", subject=op.subject).user
    Browser().sign_in(op)
    assert User.objects.exclude(pk=owner.pk).count() == 1


def test_after_the_move_the_same_subject_is_the_same_user(
    op: HostileOP, operator: User, registered: dict[str, Provider]
) -> None:
    owner = IdentityFactory(issuer=OLD, provider="old", subject=op.subject).user
    issuers.move(OLD, registered["demo"], by=operator, expected=1)
    Browser().sign_in(op)
    assert Identity.objects.get(issuer=op.issuer).user == owner
