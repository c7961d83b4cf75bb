"""What a start costs in statements, leg by leg, and that of a hundred starts at once none is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth import tokens
from instances import reconcile, services
from instances.errors import QuotaExceeded
from instances.lifecycle import State
from instances.models import Instance, Member
from instances.ticker import Ticker
from portal import internal
from portal.lib import bus
from portal.lib.hashing import digest
from tests.factories.auth import UserFactory, sign_in
from tests.factories.instances import QuotaFactory
from tests.instances.test_ticker import until
from tests.races import Racers

pytestmark = pytest.mark.django_db(transaction=True)
NAVIGATION = {"sec-fetch-dest": "document", "sec-fetch-site": "cross-site"}


@contextmanager
def at_most(statements: int) -> Iterator[None]:
    with CaptureQueriesContext(connection) as asked:
        yield
    texts = [row["sql"][:150] for row in asked.captured_queries]
    assert len(texts) <= statements, "\n".join(texts)


@pytest.fixture
def post(alice, plan, experiment):
    """Ask for an instance over the API; the first one made Alice's account and home."""
    QuotaFactory(limit=10)
    _, secret = tokens.issue(alice, scopes=["instances:read", "instances:write"], lasts=tokens.ApiToken.LONGEST)
    body = json.dumps({"plan": plan.slug, "experiments": [str(experiment.uid)], "name": "analysis"})
    client = Client()

    def post() -> Instance:
        answer = client.post(
            "/api/v1/instances", body, content_type="application/json", headers={"authorization": f"Bearer {secret}"}
        )
        assert answer.status_code == 201, answer.content
        return Instance.objects.get(uid=answer.json()["id"])

    post()
    return post


def test_a_request_and_its_answer_take_few_statements(post):
    with at_most(20 + 1):  # one is our own look
        post()


def test_the_way_to_starting_takes_few_statements(post, cloud):
    instance = post()
    with at_most(25):
        reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert instance.state == State.STARTING


def test_the_way_onto_an_instance_takes_few_statements(post, cloud, alice):
    instance = post()
    client = Client()
    sign_in(client, alice)
    with at_most(7):
        answer = client.get(f"/enter/{instance.slug}", {"n": digest("nonce"), "to": "/"}, headers=NAVIGATION)
    assert answer.status_code == 303
    ticket = parse_qs(urlsplit(answer.headers["Location"]).query)["t"][0]
    with at_most(8):
        status, row = internal.redeem({"ticket": ticket, "nonce": digest("nonce"), "slug": instance.slug})
    assert (status, row["slug"]) == (200, instance.slug)


def test_ready_and_the_news_of_it_take_few_statements(post, cloud):
    instance = post()
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    with at_most(8):
        assert internal.ready({"instance": str(instance.uid), "version": instance.version})[0] == 200
    with at_most(2):
        lines = internal.changes([{"instance": str(instance.uid)}])
    assert [line["state"] for line in lines] == [State.ACTIVE]


def test_gateways_hear_of_an_instance_from_starting_on(post, cloud, alice, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(bus, "publish", lambda topic, message: told.append(topic))
    instance = post()
    assert told == [bus.PAGES]
    told.clear()
    reconcile.run(instance.pk)
    assert told == [bus.PAGES, bus.GATEWAY, bus.PAGES], "building, then starting; its name at the provider is no news"
    told.clear()
    instance.refresh_from_db()
    services.stop(instance, by=alice)
    assert told == [bus.GATEWAY, bus.PAGES]


def test_a_second_look_at_a_session_or_a_token_writes_nothing(post, alice):
    client = Client()
    sign_in(client, alice)
    with CaptureQueriesContext(connection) as asked:
        client.get("/instances/")
        post()
    assert not [row for row in asked.captured_queries if 'last_used_at" = clock_timestamp' in row["sql"]]


# ---- a hundred at once ----
def drive(stop: threading.Event) -> None:
    """Say for the gateway that what starts is ready, until all is done."""
    try:
        while not stop.wait(0.02):
            for uid, version in Instance.objects.filter(state=State.STARTING).values_list("uid", "version"):
                internal.ready({"instance": str(uid), "version": version})
    finally:
        connections.close_all()


@pytest.fixture
def workers() -> Iterator[list[Ticker]]:
    """Three workers' tickers, and a gateway."""
    stop = threading.Event()
    gateway = threading.Thread(target=drive, args=(stop,))
    found = [Ticker(pool=3) for _ in range(3)]
    for thread in (gateway, *found):
        thread.start()
    yield found
    stop.set()
    gateway.join(10)
    for ticker in found:
        ticker.stop()


def test_a_hundred_starts_at_once_all_become_active_and_no_quota_is_overshot(workers, plan, experiment, cloud):
    QuotaFactory(limit=2)
    people = [UserFactory() for _ in range(50)]
    racers = Racers(100)

    def request(user):
        return lambda: services.request_instance(user, plan=plan, experiments=[experiment.uid], name="burst")

    try:
        made = racers.run(*map(request, people))
        assert [result for result in made if not isinstance(result, Instance)] == []
        refused = racers.run(*map(request, people))
        assert {type(result) for result in refused} == {QuotaExceeded}
    finally:
        racers.close()
    until(lambda: not Instance.objects.exclude(state=State.ACTIVE).exists(), 45)
    assert Instance.objects.count() == Member.objects.count() == 100
    assert sorted(name for verb, name in cloud.calls if verb == "create") == sorted(
        instance.machine_name for instance in Instance.objects.all()
    ), "each machine was made once"
