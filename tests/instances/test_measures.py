"""What agents have measured: on the home's row and the instance's page, never beyond the instance's own."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth import tokens
from auth.roles import InstanceRole
from instances import measures, sweep
from instances.lifecycle import State, Target
from instances.models import Home, Instance, Measured, Member
from instances.routes import row_of
from portal import internal
from portal.lib.clock import Now
from tests.factories.auth import RoleGrantFactory, UserFactory, bearer, sign_in
from tests.factories.instances import FlavourFactory, HomeFactory, InstanceFactory

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


# ---- what its page shows ----
MIB, GIB = 2**20, 2**30
FIGURES = {"cpu": 0.8, "memory": 1229 * MIB, "scratch": {"used": 3 * GIB, "size": 10 * GIB}}


def running(**more):
    """An instance of 2 cores and 4 GiB whose services were heard a while ago."""
    instance = InstanceFactory(state=State.ACTIVE, ready_at=Now() - timedelta(hours=1), **more)
    instance.plan.flavour = FlavourFactory(provider=instance.provider, cores=2, memory=4 * GIB)
    instance.plan.save()
    return instance


def page(instance, user=None):
    client = Client()
    sign_in(client, user or instance.owner)
    return client.get(instance.get_absolute_url())


def shown(instance, user=None):
    return 'id="measured"' in page(instance, user).content.decode()


def test_the_people_of_an_instance_see_how_busy_it_is():
    instance = told(running(), **FIGURES)
    guest = Member.objects.create(instance=instance, user=UserFactory(), role=InstanceRole.GUEST).user
    for user in (instance.owner, guest):
        text = page(instance, user).content.decode()
        assert "<dd>1.2 GiB of 4 GiB</dd>" in text
        assert "<dd>0.8 of 2 cores</dd>" in text
        assert "3 GiB of 10 GiB used" in text
        assert 'aria-label="Disk use"' in text
        at = Measured.objects.get().at
        assert f"{at:%H:%M} UTC</time>" in text


def test_nobody_else_sees_it():
    instance = told(running(), **FIGURES)
    sign_in(client := Client(), RoleGrantFactory(role="admin").user)
    assert client.get(instance.get_absolute_url()).status_code == 404
    overseen = client.get(f"/admin/instances/{instance.uid}/")
    assert overseen.status_code == 200
    assert b"GiB" not in overseen.content


def test_nothing_is_shown_when_nothing_was_measured():
    assert not shown(running())
    assert not shown(told(running(), home={"used": 7, "size": 100}, memory_kills=0))


@pytest.mark.parametrize(
    "row",
    [
        {"state": State.STOPPED},
        {"state": State.REBOOTING},
        {"ready_at": None},
        {"ready_at": Now() + timedelta(seconds=30)},
    ],
    ids=["stopped", "rebooting", "not heard", "of the run before"],
)
def test_what_was_measured_of_another_run_is_not_shown(row):
    instance = told(running(), **FIGURES)
    assert shown(instance)
    Instance.objects.filter(pk=instance.pk).update(**row)
    assert not shown(instance)


def test_what_is_old_is_not_shown():
    instance = told(running(), **FIGURES)
    Measured.objects.update(at=Now() - measures.OLD)
    assert not shown(instance)


def test_a_figure_that_is_missing_costs_the_others_nothing():
    text = page(told(running(), cpu=0.0)).content.decode()
    assert "<dd>0 of 2 cores</dd>" in text
    assert "<dt>Memory" not in text
    assert "<dt>Disk" not in text


@pytest.mark.parametrize(
    "use",
    [
        {"cpu": -1},
        {"cpu": 1e9},
        {"cpu": "2"},
        {"cpu": True},
        {"cpu": float("nan")},
        {"memory": -1},
        {"memory": 2**61},
        {"memory": 1.5},
        {"memory": [1]},
        {"memory": True},
        {"scratch": 7},
        {"scratch": {"used": 7}},
        {"scratch": {"used": 7, "size": 0}},
        {"scratch": {"used": 7, "size": 2**61}},
        {"scratch": {"used": "7", "size": 9}},
    ],
)
def test_a_figure_that_no_machine_has_is_dropped(use):
    # a number of its own kind beside it: a report that mixes kinds is taken all the same
    instances = [running(), running()]
    measures.take({instances[0].uid: use, instances[1].uid: {"cpu": 1, "memory": 2**40}})
    assert list(Measured.objects.values_list("instance", "cpu", "memory")) == [(instances[1].pk, 1.0, 2**40)]


def test_what_is_shown_is_written_once_a_minute():
    instance = told(running(), memory=1)
    assert told(instance, memory=2).measured.memory == 1
    Measured.objects.update(at=Now() - measures.EVERY)
    assert told(instance, memory=3).measured.memory == 3


def test_all_that_is_shown_takes_one_statement_a_report():
    for number in (1, 9):
        instances = [running() for _ in range(number)]
        with CaptureQueriesContext(connection) as queries:
            measures.take({instance.uid: FIGURES for instance in instances})
        assert len(queries) == 1
        assert Measured.objects.filter(instance__in=instances).count() == number


def test_what_does_not_run_or_is_unknown_is_not_written():
    stopped = InstanceFactory(state=State.STOPPED)
    measures.take({stopped.uid: FIGURES, uuid.uuid4(): FIGURES})
    assert not Measured.objects.exists()


def test_what_was_measured_is_forgotten():
    told(running(), **FIGURES)
    Measured.objects.update(at=Now() - timedelta(days=2))
    sweep.forget_expired()
    assert not Measured.objects.exists()


def test_a_program_reads_the_same():
    instance = told(running(), **FIGURES)
    _, token = tokens.issue(instance.owner, scopes=["instances:read"], lasts=timedelta(hours=1))

    def read(path):
        return Client().get(f"/api/v1/instances{path}", headers=bearer(token)).json()

    said = read(f"/{instance.uid}")["measured"]
    assert said.pop("at")
    assert said == {"cpu": 0.8, "memory": 1229 * MIB, "disk_used": 3 * GIB, "disk_size": 10 * GIB}
    assert read("")["results"][0]["measured"]["cpu"] == 0.8
    Measured.objects.update(at=Now() - measures.OLD)
    assert read(f"/{instance.uid}")["measured"] is None


# ---- what else it says ----
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
