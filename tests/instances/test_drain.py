"""A provider that is drained: nothing new starts, people are told, what runs goes on, an operator sees what is left."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from auth.models import User
from instances import clouds, drain, imports, services, sweep
from instances.errors import Draining
from instances.lifecycle import Phase, State, Target
from instances.models import Flavour, Image, Instance, Plan, Provider
from instances.providers.base import ImageSpec, ProviderUnavailable
from portal.audit import AuditEvent
from portal.lib import clock
from tests.factories.auth import FacilityFactory, RoleGrantFactory, sign_in
from tests.factories.instances import InstanceFactory, PlanFactory
from tests.instances.conftest import settle, use_cloud
from tests.providers import faulty

pytestmark = pytest.mark.django_db
TOLD = "No instances are started here for now: new disks until Monday."


@pytest.fixture
def operator(provider: Provider) -> User:
    return RoleGrantFactory(facility=provider.facility).user


@pytest.fixture
def drained(provider: Provider, operator: User) -> Provider:
    drain.begin(provider, by=operator, because="new disks until Monday.")
    provider.refresh_from_db()
    return provider


@pytest.fixture
def browser(operator: User) -> Client:
    client = Client(headers={"Sec-Fetch-Dest": "document"}, raise_request_exception=False)
    sign_in(client, operator)
    return client


@pytest.fixture
def of_alice(alice: User) -> Client:
    client = Client()
    sign_in(client, alice)
    return client


def test_nothing_new_is_made_on_it(request_one, drained, cloud):
    with pytest.raises(Draining, match="until Monday"):
        request_one()
    assert not Instance.objects.exists()
    assert cloud.machines == {}


def test_what_runs_goes_on_can_be_rebooted_and_stopped_and_not_started_again(active, drained, alice, cloud):
    sweep.sweep(drained)
    assert settle(active).state == "active"
    services.reboot(active, by=alice)
    settle(active)
    services.stop(active, by=alice)
    assert settle(active).state == "stopped"
    with pytest.raises(Draining):
        services.start(active, by=alice)
    active.refresh_from_db()
    assert (active.state, active.target) == ("stopped", "stopped")
    services.delete(active, by=alice)
    assert settle(active).state == "deleted"


def test_an_error_is_not_retried_into_a_start_but_into_a_stop(active, drained, alice, cloud):
    Instance.objects.filter(pk=active.pk).update(state=State.ERROR, target=Target.ACTIVE, reason="deadline")
    with pytest.raises(Draining):
        services.retry(active, by=alice)
    with pytest.raises(Draining):
        services.start(active, by=alice)
    Instance.objects.filter(pk=active.pk).update(target=Target.STOPPED)
    services.retry(active, by=alice)
    assert settle(active).state == "stopped"


def test_a_start_that_was_asked_for_before_is_finished(instance, provider, operator, cloud):
    drain.begin(provider, by=operator, because="")
    assert settle(instance).state == "starting"


def test_opened_again_things_start(active, drained, alice, operator, cloud):
    services.stop(active, by=alice)
    settle(active)
    drain.end(drained, by=operator)
    services.start(active, by=alice)
    assert settle(active).state == "starting"


def test_people_are_told_on_the_instance_and_before_they_make_one(active, drained, experiment, plan, of_alice):
    page = of_alice.get(active.get_absolute_url()).content.decode()
    assert TOLD in page
    assert "once stopped, this instance cannot be started until then" in page
    new = of_alice.get(f"/instances/new?experiments={experiment.uid}").content.decode()
    assert TOLD in new
    assert plan.name in new
    assert f'value="{plan.slug}"' not in new
    assert of_alice.get("/api/v1/plans").json() == []


def test_what_is_open_is_offered_beside_what_is_drained(drained, experiment, plan, facility, of_alice):
    other: Plan = PlanFactory(image__provider__facility=facility)
    new = of_alice.get(f"/instances/new?experiments={experiment.uid}").content.decode()
    assert TOLD in new
    assert f'value="{other.slug}"' in new
    assert f'value="{plan.slug}"' not in new


def test_what_an_operator_writes_is_text(active, provider, operator, of_alice):
    drain.begin(provider, by=operator, because="<script>alert(1)</script>")
    assert "<script>alert(1)" not in of_alice.get(active.get_absolute_url()).content.decode()


# ---- operators ----
def test_an_operator_drains_sees_what_is_left_and_opens_again(active, provider, browser, alice, cloud):
    address = f"/admin/providers/{provider.name}/"
    assert browser.post(f"{address}drain/", {"because": "new disks until Monday."}).status_code == 302
    provider.refresh_from_db()
    assert drain.sentence(provider) == TOLD
    page = browser.get(address).content.decode()
    assert str(active.uid) in page
    assert "runs; use not known" in page
    assert browser.post(f"{address}open/").status_code == 302
    provider.refresh_from_db()
    assert not provider.is_draining
    acts = AuditEvent.objects.filter(action__startswith="provider.").order_by("pk")
    assert list(acts.values_list("action", "object_id")) == [
        ("provider.drain", provider.name),
        ("provider.open", provider.name),
    ]


def test_an_operator_of_another_facility_finds_nothing(provider):
    client = Client(headers={"Sec-Fetch-Dest": "document"}, raise_request_exception=False)
    sign_in(client, RoleGrantFactory(facility=FacilityFactory()).user)
    address = f"/admin/providers/{provider.name}/"
    assert client.get(address).status_code == 404
    assert client.post(f"{address}drain/", {"because": ""}).status_code == 404
    provider.refresh_from_db()
    assert not provider.is_draining


def test_an_operator_imports_what_is_new_after_seeing_it(provider, browser, cloud):
    cloud.known_images["other"] = ImageSpec("Desktop", "site/desktop:1")
    address = f"/admin/providers/{provider.name}/import/"
    asked = browser.post(address, {"begins": "site/"})
    page = asked.content.decode()
    assert "site/desktop:1" in page
    assert "small: 1 cores, 1 GiB" in page
    assert not Image.objects.exists()
    (seen,) = re.findall(r'name="seen" value="([^"]+)"', page)
    assert browser.post(address, {"begins": "site/", "seen": seen}).status_code == 302
    (image,) = Image.objects.filter(provider=provider)
    assert (image.name, image.reference, image.services[0]["name"]) == ("Desktop", "site/desktop:1", "jupyter")
    Flavour.objects.filter(provider=provider, name="small").update(cores=2)
    assert "0 images and 0 flavours are new" in browser.post(address, {"begins": "site/"}).content.decode()
    assert not Plan.objects.exists()


def test_no_transaction_waits_for_a_provider_that_is_asked_what_there_is(
    provider, cloud, operator, monkeypatch, transactional_db
):
    inside = []
    monkeypatch.setattr(cloud, "images", lambda: inside.append(connection.in_atomic_block) or [])
    imports.take(provider, "site/", by=operator)
    assert inside == [False]


def test_a_provider_that_is_away_is_said_to_the_operator(provider, browser):
    use_cloud(provider, faulty.FailsAt(clouds.options_of(provider), "images", ProviderUnavailable("401"), 9))
    cloud = clouds.cloud_of(provider)
    cloud.images = lambda: cloud.heard("images", "", list)
    answer = browser.post(f"/admin/providers/{provider.name}/import/", {"begins": ""})
    assert answer.status_code == 502
    assert "no usable answer: 401" in answer.content.decode()


BLOCKS: list[tuple[dict[str, Any], str]] = [
    ({"state": State.ACTIVE, "last_active_at": -timedelta(hours=3)}, "runs; last used 3\xa0hours ago"),
    ({"state": State.UNAVAILABLE}, "runs; use not known"),
    ({"state": State.STARTING}, "on its way"),
    ({"state": State.STOPPED, "target": Target.STOPPED}, "its disk is here"),
    ({"state": State.ERROR, "reason": "deadline"}, "its disk is here"),
    ({"state": State.DELETING, "target": Target.DELETED, "detail": "held by lab/hold"}, "held by lab/hold"),
    ({"state": State.UNAVAILABLE, "reason": "node-lost"}, "may still be running there"),
]


@pytest.mark.parametrize(("row", "said"), BLOCKS)
def test_what_keeps_an_instance_there_is_said(row, said, plan):
    if "last_active_at" in row:
        row = row | {"last_active_at": clock.now() + row["last_active_at"]}
    instance = InstanceFactory(plan=plan, **row)
    InstanceFactory(plan=plan, state=State.DELETED)
    ((left, because),) = drain.left(plan.image.provider)
    assert left == instance
    assert said in because


def test_a_lost_node_is_said_on_the_page_and_support_reads_what_to_do(active, cloud, of_alice, browser):
    cloud.happen(active.ref, Phase.UNKNOWN, reason="node-lost", detail="It is the computer node-7.")
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("unavailable", "node-lost")
    page = of_alice.get(active.get_absolute_url()).content.decode()
    assert "does not answer. It may still be running there" in page
    assert "node-7" in page
    support = browser.get(f"/admin/instances/{active.uid}/").content.decode()
    assert "out-of-service" in support
    assert "node-7" in support
    cloud.calls.clear()
    sweep.sweep(active.provider)
    assert {verb for verb, _ in cloud.calls} <= {"observe", "look"}, "nothing is forced"
    cloud.happen(active.ref, Phase.RUNNING)
    sweep.sweep(active.provider)
    active.refresh_from_db()
    assert (active.state, active.reason) == ("active", "")
