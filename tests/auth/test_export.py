"""Everything held about me in one file: mine alone, complete, fresh, noted, and not too often."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from auth import export, policies, registry, tokens
from auth.models import User
from experiments.models import TeamMember
from instances.lifecycle import State
from instances.models import Quota
from portal import audit
from portal.audit import AuditEvent
from portal.lib.errors import TooMany
from tests.factories.auth import IdentityFactory, PersonFactory, RoleGrantFactory, UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import HomeFactory, InstanceFactory, QuotaFactory
from tests.races import Racers

PATH = "/auth/account/data/export/"


def exported(user: User) -> dict[str, Any]:
    with export.make(user) as file:
        document: dict[str, Any] = json.loads(file.read())
    return document


def sent(answer: Any) -> str:
    """Read an answer to its end, as the web process does."""

    async def read() -> bytes:
        return b"".join([piece async for piece in answer])

    return asyncio.run(read()).decode()


@pytest.fixture
def alice(db: None) -> User:
    return UserFactory(handle="alice", display_name="Alice „Ω“ </script>")


@pytest.mark.django_db
def test_the_file_is_mine_and_says_all(client: Client, alice: User) -> None:
    identity = IdentityFactory(user=alice, subject="alice@provider.example")
    stranger = IdentityFactory(subject="mallory@provider.example")
    sign_in(Client(), stranger.user, stranger)
    session = sign_in(client, alice, identity)
    person = PersonFactory(user=alice, external_id="X-1")
    run = ExperimentFactory(proposal=ProposalFactory(facility=person.facility))
    TeamMember.objects.create(experiment=run, person=person)
    instance = InstanceFactory(owner=alice, name="Lysozyme")
    instance.experiments.add(run)
    HomeFactory(user=alice, provider=instance.provider)
    other = InstanceFactory(owner=stranger.user, name="Not mine")
    RoleGrantFactory(user=alice, role="staff")
    QuotaFactory(scope=Quota.Scope.USER, subject=str(alice.uid), limit=3, window=timedelta(days=30))
    tokens.issue(alice, scopes=["me:read"], lasts=timedelta(days=1), name="laptop")
    policies.accept(alice, policies.publish("rules", "1", "Rules", "Be kind."))

    answer = client.post(PATH)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="beamport-alice-')
    assert "no-store" in answer.headers["Cache-Control"]
    text = sent(answer)
    held = json.loads(text)
    assert held["format"] == "beamport-personal-data/1"
    assert held["account"][0]["name"] == "Alice „Ω“ </script>"
    assert [one["subject"] for one in held["identities"]] == ["alice@provider.example"]
    assert [one["id"] for one in held["sessions"]] == [str(session.uid)]
    assert [one["name"] for one in held["instances"]] == ["Lysozyme"]
    assert held["instance_experiments"] == [{"instance": str(instance.uid), "experiment": str(run.uid)}]
    assert held["teams"][0]["experiment"] == str(run.uid)
    assert held["api_tokens"][0]["name"] == "laptop"
    assert held["acceptances"][0]["version"] == "1"
    assert held["quotas"] == [{"resource": "instances", "limit": 3, "window": "P30D"}]
    assert held["homes"]
    assert {"login", "token_issued", "policy_accepted", "data_exported"} <= {one["action"] for one in held["acts"]}
    assert "mallory" not in text
    assert str(other.uid) not in text
    assert "Not mine" not in text


@pytest.mark.django_db
def test_no_secret_is_in_it(client: Client, alice: User) -> None:
    """What is a hash, a key or a token is no use to its owner; the canary of the suite looks at the rest."""
    sign_in(client, alice)
    _row, text = tokens.issue(alice, scopes=["me:read"], lasts=timedelta(days=1))
    told = json.dumps(exported(alice))
    assert text not in told
    for held in registry.everything():
        assert not [path for path in held.fields.values() if "hash" in path or path in ("data", "id_token", "nonce")]


@pytest.mark.django_db
def test_who_else_acted_is_told_without_who_it_was(alice: User) -> None:
    operator = UserFactory(handle="oskar", display_name="Oskar Operator")
    audit.record("user_suspended", actor=operator, about=("user", alice.uid), reason="said Oskar", how="by hand")
    audit.record("instance.stop", actor=operator, on_behalf_of=alice, about=("instance", "x"))
    (first, second) = exported(alice)["acts_of_others"]
    assert (first["action"], second["action"]) == ("user_suspended", "instance.stop")
    assert "Oskar" not in json.dumps([first, second])
    assert str(operator.uid) not in json.dumps([first, second])


@pytest.mark.django_db
def test_names_keep_their_order_and_values_their_kind(alice: User) -> None:
    """The database writes the rows."""
    audit.record("something", actor=alice, nested={"z": [1, None, "Ω"], "a": True}, path='C:\\"x"')
    act = exported(alice)["acts"][0]
    fields = next(held.fields for held in registry.everything() if held.section == "acts")
    assert list(act) == list(fields)
    assert act["detail"] == {"nested": {"z": [1, None, "Ω"], "a": True}, "path": 'C:\\"x"'}
    at = datetime.fromisoformat(act["at"])
    assert (at.utcoffset(), AuditEvent.objects.get(action="something").at) == (timedelta(), at)


@pytest.mark.django_db
def test_it_is_noted_and_not_too_often(client: Client, alice: User) -> None:
    sign_in(client, alice)
    for _ in range(export.MOST_AN_HOUR):
        sent(client.post(PATH))
    answer = client.post(PATH)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "3600"
    rows = AuditEvent.objects.filter(action="data_exported", actor_uid=alice.uid)
    assert rows.count() == export.MOST_AN_HOUR


@pytest.mark.django_db(transaction=True)
def test_many_at_once_are_not_more(alice: User) -> None:
    racers = Racers(8)
    try:
        answers = racers.run(lambda: exported(User.objects.get(pk=alice.pk)))
    finally:
        racers.close()
    assert sum(isinstance(answer, dict) for answer in answers) == export.MOST_AN_HOUR
    assert sum(isinstance(answer, TooMany) for answer in answers) == 8 - export.MOST_AN_HOUR


@pytest.mark.django_db
@pytest.mark.parametrize("shown", [timedelta(minutes=7), timedelta(hours=1)])
def test_an_old_sign_in_is_not_enough(client: Client, alice: User, shown: timedelta) -> None:
    sign_in(client, alice, IdentityFactory(user=alice), shown=shown)
    answer = client.post(PATH)
    assert answer.status_code == 403
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "attachment" not in answer.headers.get("Content-Disposition", "")
    assert not AuditEvent.objects.filter(action="data_exported").exists()


@pytest.mark.django_db
def test_reading_the_page_exports_nothing(client: Client, alice: User) -> None:
    sign_in(client, alice)
    assert "Download" in client.get(PATH).text
    assert not AuditEvent.objects.filter(action="data_exported").exists()


def test_it_goes_out_bit_by_bit_and_is_closed() -> None:
    """However much it is, only a piece is in memory; the file goes when somebody stops reading."""
    import tempfile

    async def read(most: int) -> tuple[list[int], bool]:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * (export._PIECE * 2 + 1))
            file.seek(0)
            sizes = []
            pieces = export.pieces(file)
            async for piece in pieces:
                sizes.append(len(piece))
                if len(sizes) == most:
                    break
            await pieces.aclose()  # type: ignore[attr-defined]
            return sizes, file.closed

    assert asyncio.run(read(9)) == ([export._PIECE, export._PIECE, 1], True)
    assert asyncio.run(read(1)) == ([export._PIECE], True)


@pytest.mark.django_db
def test_a_section_of_each_kind_costs_one_query(alice: User, django_assert_max_num_queries: Any) -> None:
    """However many rows there are."""
    InstanceFactory(owner=alice, state=State.DELETED)
    for _ in range(20):
        audit.record("something", actor=alice)
    with django_assert_max_num_queries(len(registry.everything()) + 12):
        exported(alice)
