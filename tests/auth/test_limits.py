"""How often one address may fail."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from auth import limits, tokens
from auth.models import LoginState
from auth.oidc import views
from portal.audit import AuditEvent
from tests.auth.conftest import Browser, reason
from tests.auth.hostile_op import HostileOP, Reply
from tests.factories.auth import UserFactory, bearer
from tests.races import ROUNDS, Racers

pytestmark = pytest.mark.django_db

HERE = "192.0.2.1"
ME = "/api/v1/me"


def failures(number: int, *, address: str = HERE, action: str = "login_failed", ago: float = 0.0, **more: Any) -> None:
    more.setdefault("result", AuditEvent.Result.REFUSED)
    AuditEvent.objects.bulk_create(AuditEvent(action=action, address=address, **more) for _ in range(number))
    if ago:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")  # past the trigger
            cursor.execute(
                "UPDATE portal_auditevent SET at = at - %s WHERE id IN (SELECT id FROM portal_auditevent"
                " ORDER BY id DESC LIMIT %s)",
                [timedelta(seconds=ago), number],
            )
            cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.fixture
def there() -> Browser:
    return Browser(REMOTE_ADDR=HERE)


def begin(browser: Browser) -> Any:
    return browser.post("/auth/demo/login/", {"next": "/"})


def test_twenty_failed_sign_ins_in_a_minute_are_enough(op: HostileOP, there: Browser) -> None:
    for _ in range(limits.MOST):
        assert there.get("/auth/demo/callback/?state=x&code=y").status_code == 400
    answer = there.get("/auth/demo/callback/?state=x&code=y")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert begin(there).status_code == 429
    assert AuditEvent.objects.filter(action="login_failed").count() == limits.MOST
    assert not LoginState.objects.exists()
    assert not op.asked


def test_other_addresses_go_on(op: HostileOP, there: Browser) -> None:
    failures(limits.MOST, address="192.0.2.2")
    assert there.sign_in(op).status_code == 200


def test_nineteen_are_not_twenty(op: HostileOP, there: Browser) -> None:
    failures(limits.MOST - 1)
    assert there.sign_in(op).status_code == 200


def test_a_minute_later_one_may_again(op: HostileOP, there: Browser) -> None:
    failures(limits.MOST, ago=60.5)
    assert there.sign_in(op).status_code == 200


def test_the_time_to_wait_is_the_oldest_ones(op: HostileOP, there: Browser) -> None:
    failures(limits.MOST - 1)
    failures(1, ago=50)
    assert 1 <= int(begin(there).headers["Retry-After"]) <= 10


def test_other_acts_do_not_count(op: HostileOP, there: Browser) -> None:
    failures(limits.MOST, action="token_refused")
    failures(limits.MOST, result=AuditEvent.Result.FAILED)
    failures(limits.MOST, action="login", result=AuditEvent.Result.DONE)
    assert there.sign_in(op).status_code == 200


def test_a_broken_provider_locks_nobody_out(op: HostileOP, there: Browser) -> None:
    op.replies["/token"] = Reply(status=500)
    assert there.sign_in(op).status_code == 502
    event = AuditEvent.objects.get(action="login_failed")
    assert (event.result, event.reason) == (AuditEvent.Result.FAILED, "token-endpoint-500")
    assert reason() == "token-endpoint-500"


def test_an_address_that_a_client_names_itself_counts_for_nothing(op: HostileOP, there: Browser) -> None:
    """Who may name one is uvicorn's and the gateway's matter; Django takes no header's word."""
    failures(limits.MOST)
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP"):
        answer = there.post("/auth/demo/login/", {"next": "/"}, headers={name: "198.51.100.7"})
        assert answer.status_code == 429


# ---- API tokens ----
def test_bad_tokens_are_limited_for_each_address() -> None:
    client = Client(REMOTE_ADDR=HERE)
    bad = bearer("bpt_aaaaaaaaaaaa_guess")
    statuses = [client.get(ME, headers=bad).status_code for _ in range(limits.MOST + 2)]
    assert statuses == [401] * limits.MOST + [429] * 2
    assert int(client.get(ME, headers=bad).headers["Retry-After"]) >= 1
    assert Client(REMOTE_ADDR="192.0.2.2").get(ME, headers=bad).status_code == 401
    events = AuditEvent.objects.filter(action="token_refused", address=HERE)
    assert {(event.result, event.detail == {}) for event in events} == {(AuditEvent.Result.REFUSED, True)}
    assert events.count() == limits.MOST


def test_a_good_token_counts_beside_them() -> None:
    failures(limits.MOST, action="token_refused")
    _, text = tokens.issue(UserFactory(), scopes=["me:read"], lasts=timedelta(days=1))
    assert Client(REMOTE_ADDR=HERE).get(ME, headers=bearer(text)).status_code == 200


# ---- at the same moment ----
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("round_", ROUNDS)
def test_who_fails_many_times_at_once_has_the_limit_and_what_was_under_way(
    round_: int, op: HostileOP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At worst all that are under way at once are let in before one of them fails (docs/operate/sessions.md)."""
    failures(limits.MOST - 1)
    racers, all_let_in, note = Racers(8), threading.Barrier(8), views.note_failure

    def noted_late(*what: Any) -> None:
        all_let_in.wait(30)
        note(*what)

    def fail(many: int = 1) -> list[int]:
        browser = Browser(REMOTE_ADDR=HERE)
        return [browser.get("/auth/demo/callback/?state=x&code=y").status_code for _ in range(many)]

    monkeypatch.setattr(views, "note_failure", noted_late)
    try:
        assert racers.run(fail) == [[400]] * 8
        assert racers.run(lambda: fail(3)) == [[429] * 3] * 8
    finally:
        racers.close()
    assert AuditEvent.objects.filter(action="login_failed").count() == limits.MOST - 1 + 8


def test_the_count_has_an_index() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(
            "EXPLAIN SELECT at FROM portal_auditevent WHERE action = 'login_failed' AND address = %s"
            " AND result = 'refused' AND at > clock_timestamp() - interval '1 minute' ORDER BY at DESC LIMIT 20",
            [HERE],
        )
        assert "audit_refused_from" in "".join(row[0] for row in cursor.fetchall())
