"""What agents have measured: on the home's row and the instance's page, never beyond the instance's own."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from instances import measures
from instances.lifecycle import State, Target
from instances.models import Home, Instance
from instances.routes import row_of
from portal import internal
from portal.lib.clock import Now
from tests.factories.instances import HomeFactory, InstanceFactory

pytestmark = pytest.mark.django_db


def at_home(**more):
    instance = InstanceFactory(state=State.ACTIVE, **more)
    instance.home = HomeFactory(user=instance.owner, facility=instance.facility, provider=instance.provider)
    instance.save(update_fields=["home"])
    return instance


def told(instance, **use):
    internal.report({"instances": [{"instance": str(instance.uid), "answers": {"jupyter": True}, "use": use}]})
    instance.refresh_from_db()
    if instance.home:
        instance.home.refresh_from_db()
    return instance


def test_how_full_a_home_is_is_kept_with_when():
    home = told(at_home(), home={"used": 7, "size": 100}).home
    assert home.used == 7
    assert Home.objects.filter(pk=home.pk, measured_at__lte=Now()).exists()


def test_another_persons_home_stays_as_it_was():
    other = at_home().home
    told(at_home(), home={"used": 7, "size": 100})
    other.refresh_from_db()
    assert (other.used, other.measured_at) == (None, None)


@pytest.mark.parametrize("home", [None, {}, 7, [], {"used": -1}, {"used": "9"}, {"used": 2**61}, {"used": 1.5}])
def test_no_figure_changes_nothing(home):
    assert told(at_home(), home=home).home.used is None


def test_a_home_is_written_once_a_minute():
    instance = told(at_home(), home={"used": 7, "size": 100})
    assert told(instance, home={"used": 8, "size": 100}).home.used == 7
    Home.objects.update(measured_at=Now() - timedelta(minutes=2))
    assert told(instance, home={"used": 8, "size": 100}).home.used == 8


def test_an_instance_without_a_home_and_one_that_is_gone_say_nothing_of_homes():
    told(InstanceFactory(state=State.ACTIVE), home={"used": 7, "size": 100})
    gone = at_home()
    Instance.objects.filter(pk=gone.pk).update(state=State.DELETED)
    assert told(gone, home={"used": 7, "size": 100}).home.used is None


def test_homes_take_as_many_queries_for_many_as_for_one():
    counts = []
    for number in (1, 9):
        uids = {at_home().uid: {"home": {"used": 7, "size": 100}} for _ in range(number)}
        with CaptureQueriesContext(connection) as queries:
            measures.take(uids)
        counts.append(len(queries))
        assert not Home.objects.filter(used=None).exists()
    assert counts[0] == counts[1]


def test_memory_that_gave_out_is_said_on_the_page():
    instance = told(InstanceFactory(state=State.ACTIVE), memory_kills=1)
    assert instance.reason == "out-of-memory"
    assert "memory" in instance.detail
    assert instance.state == State.ACTIVE


@pytest.mark.parametrize(
    "row", [{"reason": "held"}, {"state": State.STOPPING}, {"target": Target.STOPPED}, {"state": State.DELETED}]
)
def test_it_stands_over_no_other_reason_and_nothing_that_does_not_run(row):
    instance = InstanceFactory(**{"state": State.ACTIVE, **row})
    assert told(instance, memory_kills=1).reason == row.get("reason", "")


def test_a_machine_that_computes_is_at_work():
    assert told(InstanceFactory(state=State.ACTIVE), cpu=0.1).last_active_at is None
    assert told(InstanceFactory(state=State.ACTIVE), cpu=0.9).last_active_at is not None


def test_the_agents_address_is_in_the_route_for_nobodys_role():
    endpoints = [
        {"service": name, "kind": "tcp", "host": "10.0.0.7", "port": port, "path": "", "uid": "p-1"}
        for name, port in (("jupyter", 8888), ("agent", 9810))
    ]
    instance = InstanceFactory(state=State.ACTIVE, endpoints=endpoints)
    instance.provider.kind = "kubernetes"
    jupyter, agent = row_of(instance)["services"]
    assert (jupyter["name"], jupyter["roles"]) == ("jupyter", ["owner", "user"])
    assert agent == {
        "name": "agent",
        "kind": "tcp",
        "probe": "/report",
        "required": False,
        "roles": [],
        "host": "10.0.0.7",
        "port": 9810,
        "uid": "p-1",
    }
    instance.state = State.STARTING
    instance.endpoints = endpoints[1:]
    assert row_of(instance)["services"] == [], "an agent alone is no service"
