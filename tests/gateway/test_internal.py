"""The portal's internal address: what a gateway is told, and what it may ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth import services
from auth.models import Session
from auth.roles import InstanceRole
from instances import activity, entry, transitions
from instances.lifecycle import State, Target
from instances.models import GatewaySession, Instance, Member
from instances.routes import route_of, row_of
from portal import internal
from portal.lib import bus
from portal.lib.clock import Now
from portal.lib.hashing import digest
from tests.factories.auth import sign_in
from tests.factories.instances import InstanceFactory

pytestmark = pytest.mark.django_db(transaction=True)
ENDPOINT = {"service": "jupyter", "kind": "unix", "path": "/run/x/jupyter.sock", "host": "", "port": 0}


@pytest.fixture(autouse=True)
def _own_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that keep no connection, or the database could not be emptied."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(internal, "_pool", pool)
        yield


@pytest.fixture
def instance() -> Instance:
    return InstanceFactory(state=State.ACTIVE, endpoints=[ENDPOINT])


def entered(instance: Instance) -> GatewaySession:
    session = sign_in(Client(), instance.owner)
    secret = entry.issue_ticket(session, instance.owner, instance, InstanceRole.OWNER, digest("nonce"))
    return entry.redeem(secret, digest("nonce"), instance.slug)


async def call(method: str, path: str, body: bytes = b"", token: str | None = None) -> tuple[int, dict[str, Any]]:
    """Ask the application once, as a gateway does."""
    token = settings.GATEWAY_TOKEN if token is None else token
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())]
    await internal.application({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], json.loads(b"".join(message["body"] for message in sent[1:]))


def ask(method: str, path: str, body: object = None, token: str | None = None) -> tuple[int, dict[str, Any]]:
    content = b"" if body is None else json.dumps(body).encode()
    return asyncio.run(call(method, path, content, token))


class Stream:
    """An open stream: its lines, as they come."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Stream:
        headers = [(b"authorization", f"Bearer {settings.GATEWAY_TOKEN}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/stream", "headers": headers}
        self._task = asyncio.create_task(internal.application(scope, self._receive, self._send))
        await self.until(lambda line: line["type"] == "heartbeat")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._closed.set()
        await self._task

    async def _receive(self) -> dict[str, Any]:
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.lines += [json.loads(line) for line in message.get("body", b"").splitlines()]

    async def until(self, wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                for line in self.lines:
                    if wanted(line):
                        return line
                await asyncio.sleep(0.01)


# ---- the door ----
@pytest.mark.parametrize("token", ["", "x", "Bearer", "é"])
@pytest.mark.parametrize("path", ["/snapshot", "/stream", "/redeem", "/nothing"])
def test_nobody_without_the_token_learns_anything(path: str, token: str) -> None:
    assert ask("GET", path, token=token) == (401, {"code": "not-the-gateway"})


def test_an_unknown_path_is_told_to_the_gateway_alone() -> None:
    assert ask("GET", "/nothing")[0] == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"ticket": 1}', b"null", b"\xff"])
def test_what_cannot_be_read_is_400(body: bytes) -> None:
    assert asyncio.run(call("POST", "/redeem", body))[0] == 400


# ---- snapshot ----
def test_the_snapshot_names_routes_sessions_and_keys(instance: Instance) -> None:
    session = entered(instance)
    status, snapshot = ask("GET", "/snapshot")
    assert status == 200
    assert snapshot["routes"] == [
        {
            "slug": instance.slug,
            "instance": str(instance.uid),
            "state": "active",
            "version": 1,
            "secret_epoch": 1,
            "services": [
                {
                    "name": "jupyter",
                    "kind": "unix",
                    "path": "/run/x/jupyter.sock",
                    "probe": "/api/status",
                    "required": True,
                    "roles": ["owner", "user"],
                }
            ],
        }
    ]
    assert [row["sid"] for row in snapshot["sessions"]] == [str(session.sid)]
    assert snapshot["keys"]["current"] in snapshot["keys"]["keys"]
    assert len(snapshot["keys"]["keys"]) == 2


def test_the_snapshot_holds_no_secret_of_an_instance(instance: Instance) -> None:
    text = json.dumps(ask("GET", "/snapshot")[1])
    assert settings.INSTANCE_KEY.decode() not in text
    assert settings.SECRET_KEY not in text


@pytest.mark.parametrize("state", [State.REQUESTED, State.BUILDING, State.STOPPING, State.STOPPED, State.ERROR])
def test_an_instance_that_is_not_served_has_no_services(instance: Instance, state: State) -> None:
    Instance.objects.update(state=state, updated_at=Now())
    (route,) = ask("GET", "/snapshot")[1]["routes"]
    assert route["services"] == []


def test_an_instance_that_shall_stop_has_no_services(instance: Instance) -> None:
    Instance.objects.update(target=Target.STOPPED)
    assert ask("GET", "/snapshot")[1]["routes"][0]["services"] == []


def test_what_was_not_served_for_long_is_not_in_the_snapshot(instance: Instance) -> None:
    Instance.objects.update(state=State.STOPPED, updated_at=Now() - timedelta(hours=1))
    assert ask("GET", "/snapshot")[1]["routes"] == []


def test_a_dead_session_is_not_in_the_snapshot(instance: Instance) -> None:
    services.end_session(entered(instance).login_session)
    assert ask("GET", "/snapshot")[1]["sessions"] == []


@pytest.mark.parametrize(
    "endpoint",
    [
        {"kind": "tcp", "host": "127.0.0.1", "port": 80},
        {"kind": "tcp", "host": "::1", "port": 80},
        {"kind": "tcp", "host": "169.254.169.254", "port": 80},
        {"kind": "tcp", "host": "fe80::1", "port": 80},
        {"kind": "tcp", "host": "0.0.0.0", "port": 80},
        {"kind": "tcp", "host": "224.0.0.1", "port": 80},
        {"kind": "tcp", "host": "localhost", "port": 80},
        {"kind": "unix", "path": "/run/back/redis.sock"},
    ],
)
def test_no_address_of_this_host_or_its_metadata_comes_from_a_cloud(instance: Instance, endpoint: Any) -> None:
    instance.provider.kind = "openstack"
    instance.provider.save()
    Instance.objects.update(endpoints=[{"service": "jupyter", **endpoint}])
    assert ask("GET", "/snapshot")[1]["routes"][0]["services"] == []


def test_a_starting_instance_is_probed_once_all_it_needs_has_an_address() -> None:
    instance = InstanceFactory(state=State.STARTING, endpoints=[])
    assert route_of(instance) is None
    instance.endpoints = [ENDPOINT]
    route = route_of(instance)
    assert route is not None
    assert [service["name"] for service in route["services"]] == ["jupyter"]
    image = instance.plan.image
    image.services = [*image.services, {"name": "desktop", "port": 5900, "probe": "/", "required": True}]
    assert route_of(instance) is None
    instance.state = State.ACTIVE
    assert route_of(instance) is not None


def test_with_the_database_away_the_gateway_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(internal, "snapshot", away)
    assert ask("GET", "/snapshot") == (503, {"code": "database-away"})


# ---- redeem, renew, ready, report ----
def test_a_ticket_is_redeemed_once(instance: Instance) -> None:
    session = sign_in(Client(), instance.owner)
    secret = entry.issue_ticket(session, instance.owner, instance, InstanceRole.OWNER, digest("nonce"))
    body = {"ticket": secret, "nonce": digest("nonce"), "slug": instance.slug}
    assert ask("POST", "/redeem", body | {"nonce": digest("another")}) == (409, {"code": "other-nonce"})
    status, row = ask("POST", "/redeem", body)
    assert (status, row["role"], row["slug"], row["epoch"]) == (200, "owner", instance.slug, 1)
    assert ask("POST", "/redeem", body) == (403, {"code": "refused"})


def test_a_batch_is_renewed_and_the_dead_are_named(instance: Instance) -> None:
    alive, dead = entered(instance), entered(instance)
    services.end_session(dead.login_session)
    asked = [{"sid": str(row.sid), "used": True} for row in (alive, dead)]
    status, answer = ask("POST", "/renew", {"sessions": asked})
    assert status == 200
    assert [row["sid"] for row in answer["sessions"]] == [str(alive.sid)]
    assert answer["gone"] == [str(dead.sid)]


def test_ready_makes_a_starting_instance_active_in_that_request() -> None:
    instance = InstanceFactory(state=State.STARTING, endpoints=[ENDPOINT])
    status, answer = ask("POST", "/ready", {"instance": str(instance.uid), "version": 1})
    instance.refresh_from_db()
    assert instance.state == State.ACTIVE
    assert instance.ready_at is not None
    assert (status, answer["route"]) == (200, row_of(instance))


def test_ready_of_what_a_worker_must_go_on_with_brings_no_route() -> None:
    instance = InstanceFactory(state=State.STARTING, target=Target.STOPPED, endpoints=[ENDPOINT])
    status, answer = ask("POST", "/ready", {"instance": str(instance.uid), "version": 1})
    assert (status, "route" in answer) == (200, False)


def test_ready_of_an_older_route_is_asked_again() -> None:
    instance = InstanceFactory(state=State.STARTING, version=7)
    assert ask("POST", "/ready", {"instance": str(instance.uid), "version": 6})[0] == 409


def test_ready_while_a_worker_holds_the_instance_is_asked_again() -> None:
    instance = InstanceFactory(state=State.STARTING, leased_until=datetime.now(UTC) + timedelta(minutes=1))
    assert ask("POST", "/ready", {"instance": str(instance.uid), "version": 1})[0] == 409


def test_a_report_that_says_nothing_new_takes_as_many_queries_for_many_as_for_one(instance: Instance) -> None:
    more = [InstanceFactory(plan=instance.plan, state=State.ACTIVE) for _ in range(9)]
    rows = [{"instance": str(each.uid), "answers": {"jupyter": True}} for each in (instance, *more)]
    assert ask("POST", "/report", {"instances": rows})[0] == 200
    assert all(each.services_up == {"jupyter": True} for each in Instance.objects.all())
    counts = []
    for part in (rows[:1], rows):
        with CaptureQueriesContext(connection) as queries:
            internal.report({"instances": part})
        counts.append(len(queries))
    assert counts == [1, 1]


def test_a_report_of_work_takes_as_many_queries_for_many_as_for_one(instance: Instance) -> None:
    more = [InstanceFactory(plan=instance.plan, state=State.ACTIVE) for _ in range(19)]
    Instance.objects.update(services_up={"jupyter": True}, ready_at=Now())
    counts = []
    for at, part in ((1_000.0, [instance]), (2_000.0, [instance, *more])):
        said: list[dict[str, Any]] = [{"busy": 0, "last_active": at}, {"busy": 1}, {"busy": 0, "last_active": None}]
        rows = [
            {"instance": str(each.uid), "answers": {"jupyter": True}, "activity": said[number % 3]}
            for number, each in enumerate(part)
        ]
        with CaptureQueriesContext(connection) as queries:
            internal.report({"instances": rows})
        counts.append(len(queries))
    assert counts[1] == counts[0] <= 8, "one look at all, the time, what is known, and one locked write"
    instances = list(Instance.objects.order_by("pk"))
    assert instances[0].last_active_at == datetime.fromtimestamp(2_000, UTC)
    assert all((each.last_active_at is None) is (number % 3 == 2) for number, each in enumerate(instances))
    with CaptureQueriesContext(connection) as queries:
        internal.report({"instances": [row for number, row in enumerate(rows) if number % 3 != 1]})
    assert len(queries) == 3, "work that is known is not written again"


def test_gateways_that_report_the_same_work_at_once_wait_for_each_other() -> None:
    """Two that wrote in different orders would lock each other out."""
    instances = [InstanceFactory(state=State.ACTIVE) for _ in range(40)]
    orders = (instances, instances[::-1]) * 4

    def say(part: list[Instance]) -> None:
        try:
            for at in range(1, 6):
                activity.note({each.uid: {"last_active": 1_000.0 * at} for each in part})
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(orders)) as pool:
        list(pool.map(say, orders))
    assert set(Instance.objects.values_list("last_active_at", flat=True)) == {datetime.fromtimestamp(5_000, UTC)}


def test_reports_of_silence_make_it_unavailable(instance: Instance) -> None:
    for silent, state in ((0, State.ACTIVE), (40, State.ACTIVE), (50, State.UNAVAILABLE)):
        Instance.objects.filter(silent_since__isnull=False).update(silent_since=Now() - timedelta(seconds=silent))
        ask("POST", "/report", {"instances": [{"instance": str(instance.uid), "answers": {"jupyter": False}}]})
        instance.refresh_from_db()
        assert instance.state == state


def report(instance: Instance, activity: object) -> Instance:
    row = {"instance": str(instance.uid), "answers": {"jupyter": True}, "activity": activity}
    assert ask("POST", "/report", {"instances": [row]})[0] == 200
    instance.refresh_from_db()
    return instance


def test_a_busy_kernel_is_work_now(instance: Instance) -> None:
    assert report(instance, {"busy": 1, "kernels": 1, "last_active": 0}).last_active_at is not None


def test_no_word_of_activity_changes_nothing(instance: Instance) -> None:
    assert report(instance, None).last_active_at is None


def test_an_instances_clock_cannot_work_in_the_future(instance: Instance) -> None:
    report(instance, {"busy": 0, "kernels": 1, "last_active": datetime.now(UTC).timestamp() + 86_400})
    assert Instance.objects.filter(last_active_at__lte=Now()).exists()


@pytest.mark.parametrize("moment", [2.0**40, -1e14, 1e308, 253_402_387_139.0, -62_135_683_140.0])
def test_a_moment_that_no_calendar_has_costs_nobody_the_report(instance: Instance, moment: float) -> None:
    """Jupyter may say `9999-12-31T23:59:59-23:59`: it is its user's program."""
    other = InstanceFactory(state=State.ACTIVE)
    rows = [
        {"instance": str(instance.uid), "answers": {"jupyter": True}, "activity": {"busy": 0, "last_active": moment}},
        {"instance": str(other.uid), "answers": {"jupyter": True}, "activity": {"busy": 1}},
    ]
    assert ask("POST", "/report", {"instances": rows})[0] == 200
    assert Instance.objects.get(pk=other.pk).last_active_at is not None
    assert Instance.objects.get(pk=instance.pk).last_active_at is None


def test_earlier_activity_does_not_turn_the_clock_back(instance: Instance) -> None:
    late = report(instance, {"busy": 1}).last_active_at
    assert report(instance, {"busy": 0, "last_active": 1.0}).last_active_at == late


# ---- stream ----
def test_a_change_of_state_is_in_the_stream(instance: Instance) -> None:
    def stop() -> None:
        transitions.aim(instance, Target.STOPPED, event="stop")
        bus.flush()

    async def work() -> None:
        async with Stream() as stream:
            await asyncio.to_thread(_run_and_close, stop)
            line = await stream.until(lambda line: line["type"] == "route" and line["version"] == 2)
            assert line["services"] == []

    asyncio.run(work())


def test_logout_is_in_the_stream_by_the_bus(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal, "RESEND_EVERY", 3600.0)
    session = entered(instance)

    def logout() -> None:
        services.end_session(Session.objects.get(pk=session.login_session_id))
        bus.flush()

    async def work() -> None:
        async with Stream() as stream:
            await asyncio.to_thread(_run_and_close, logout)
            line = await stream.until(lambda line: line["type"] == "withdraw")
            assert line["sid"] == str(session.sid)

    asyncio.run(work())


def test_the_stream_works_with_redis_away(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", "unix:///nowhere/redis.sock")
    monkeypatch.setattr(internal, "RESEND_EVERY", 0.3)
    session = entered(instance)

    def remove() -> None:
        Member.objects.all().delete()

    async def work() -> None:
        async with Stream() as stream:
            await asyncio.to_thread(_run_and_close, remove)
            line = await stream.until(lambda line: line["type"] == "withdraw")
            assert line["sid"] == str(session.sid)
            await stream.until(lambda line: line["type"] == "route" and line["slug"] == instance.slug)
            await stream.until(lambda line: line["type"] == "keys")

    asyncio.run(work())


def test_a_withdrawal_is_told_until_the_last_cookie_has_expired(instance: Instance) -> None:
    session = entered(instance)
    services.end_session(session.login_session)
    assert {"type": "withdraw", "sid": str(session.sid)} in internal.recent()
    GatewaySession.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert not [line for line in internal.recent() if line["type"] == "withdraw"]


def test_keys_change_by_the_day_and_the_one_before_stays_good() -> None:
    today = datetime(2030, 1, 1, 12, tzinfo=UTC)
    first, second = internal.keys(today), internal.keys(today + timedelta(days=1))
    assert first["current"] != second["current"]
    assert second["keys"][first["current"]] == first["keys"][first["current"]]
    assert first["keys"].keys() != second["keys"].keys()


def _run_and_close(function: Any) -> None:
    try:
        function()
    finally:
        connections.close_all()
