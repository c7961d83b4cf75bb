"""The contract on a real API server, scheduler and controllers; and creates at the same moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from instances import clouds, reconcile, services, sweep, transitions
from instances.lifecycle import Phase, State
from instances.models import Flavour, Image, Plan, Provider
from instances.providers.base import Rejected, Spec
from instances.providers.kubernetes import KubernetesProvider, phases
from instances.providers.kubernetes import provider as module
from instances.routes import row_of
from instances.ticker import Ticker
from portal.lib import clock
from tests.factories.auth import FacilityFactory, UserFactory
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import PlanFactory, ProviderFactory
from tests.labs.kubernetes.cluster import Lab
from tests.providers.contract import ProviderContract
from tests.providers.kubernetes.conftest import IMAGE, options_of

pytestmark = pytest.mark.kubernetes


class TestKubernetes(ProviderContract):
    @pytest.fixture
    def provider(self, cloud: KubernetesProvider, lab: Lab) -> KubernetesProvider:
        self.lab = lab
        return cloud

    @pytest.fixture
    def spec(self, make_spec: Callable[..., Spec]) -> Callable[..., Spec]:
        return make_spec

    @pytest.fixture
    def run(self) -> str:
        return "/data/run1"

    def mounted(self, provider: KubernetesProvider, ref: str) -> list[str]:
        """Return what the pod that stays has mounted, as the API server has it."""
        end = time.monotonic() + self.wait
        while True:
            pods = self.lab.admin.find("pods", labelSelector=f"beamport/machine={ref}")["items"]
            stays = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
            if stays:
                mounts = stays[0]["spec"]["containers"][0]["volumeMounts"]
                return sorted(one["mountPath"] for one in mounts if one["mountPath"].startswith("/work/data/"))
            assert time.monotonic() < end
            time.sleep(0.05)


def test_eight_creates_at_a_time_make_one_machine(cloud, lab, make_spec):
    wanted = make_spec()
    with ThreadPoolExecutor(8) as pool:
        refs = set(pool.map(cloud.create, [wanted] * 8))
    assert refs == {wanted.name}
    sets = lab.admin.find("statefulsets", labelSelector=f"beamport/instance={wanted.instance}")["items"]
    assert [one["metadata"]["name"] for one in sets] == [wanted.name]
    until(lambda: cloud.look(wanted.name).phase is Phase.RUNNING)
    pods = lab.admin.find("pods", labelSelector=f"beamport/instance={wanted.instance}")["items"]
    assert len(pods) == 1
    cloud.delete(wanted.name)


def test_nothing_is_left_of_a_deleted_machine_but_its_home(cloud, lab, make_spec):
    wanted = make_spec()
    cloud.create(wanted)
    until(lambda: cloud.look(wanted.name).phase is Phase.RUNNING)
    lab.admin.get("secrets", wanted.name)
    lab.admin.get("persistentvolumeclaims", f"scratch-{wanted.name}-0")
    cloud.delete(wanted.name)
    until(lambda: cloud.look(wanted.name).phase is Phase.MISSING)
    left = [
        one["metadata"]["name"]
        for kind in ("statefulsets", "pods", "secrets", "persistentvolumeclaims")
        for one in lab.admin.find(kind)["items"]
        if wanted.name in one["metadata"]["name"]
    ]
    assert left == []
    lab.admin.get("persistentvolumeclaims", f"bp-home-{wanted.home.key}")


def test_another_deployments_machine_is_not_touched(cloud, prepared, lab, make_spec):
    other = KubernetesProvider(options_of(prepared))
    wanted = make_spec()
    cloud.create(wanted)
    until(lambda: cloud.look(wanted.name).phase is Phase.RUNNING)
    before = lab.admin.get("statefulsets", wanted.name)["metadata"]["uid"]
    for verb in (other.start, other.stop, other.reboot, other.look):
        with pytest.raises(Rejected):
            verb(wanted.name)
    with pytest.raises(Rejected):
        other.create(wanted)
    with pytest.raises(Rejected):
        other.delete_home(wanted.home)
    other.delete(wanted.name)
    assert other.console(wanted.name) == ""
    assert [seen for seen in other.observe() if seen.name == wanted.name] == []
    found = lab.admin.get("statefulsets", wanted.name)
    assert (found["metadata"]["uid"], found["spec"]["replicas"]) == (before, 1)
    assert "deletionTimestamp" not in found["metadata"]
    other.close()
    cloud.delete(wanted.name)


def test_the_accounts_rights_are_all_it_needs_and_no_more(cloud):
    assert cloud.problems() == []


def test_what_a_verb_costs_in_calls(cloud, make_spec, monkeypatch):
    """With its home there already: each verb looks first, and sees to the disk; a list of all costs nothing."""
    home = make_spec().home
    first = make_spec(home=home)
    cloud.create(first)
    asked: list[str] = []
    monkeypatch.setattr(module, "_CONFIRMED", float("inf"))  # what it asks now and then is no verb's
    send = cloud.cluster._send
    monkeypatch.setattr(cloud.cluster, "_send", lambda *given: asked.append(given[1]) or send(*given))
    wanted = make_spec(home=home)
    costs = {}
    steps = {
        "create": (cloud.create, Phase.RUNNING),
        "look": (cloud.look, Phase.RUNNING),
        "reboot": (cloud.reboot, Phase.RUNNING),
        "stop": (cloud.stop, Phase.STOPPED),
        "start": (cloud.start, Phase.RUNNING),
        "delete": (cloud.delete, Phase.MISSING),
    }
    list(cloud.observe())
    for name, (verb, phase) in steps.items():
        before = len(asked)
        verb(wanted if name == "create" else wanted.name)
        costs[name] = len(asked) - before
        until(lambda phase=phase: cloud.look(wanted.name).phase is phase)
    before = len(asked)
    list(cloud.observe())
    costs["observe"] = len(asked) - before
    assert costs == {"create": 4, "look": 2, "reboot": 4, "stop": 3, "start": 5, "delete": 2, "observe": 0}
    cloud.delete(first.name)


@pytest.mark.django_db
def test_an_instance_lives_and_dies_in_the_cluster(lab, prepared, settings):
    """Rows, reconcile and sweep over a real API server; the deployment's id of this suite can be no label."""
    facility, alice = FacilityFactory(), UserFactory(handle="alice")
    experiment = ExperimentFactory(pid="", proposal=ProposalFactory(facility=facility, opened=True))
    options = options_of(prepared, deployment=settings.DEPLOYMENT_ID)
    row = ProviderFactory(kind="kubernetes", facility=facility, options=options)
    plan = PlanFactory(image__provider=row, image__reference=IMAGE.reference)
    instance = services.request_instance(alice, plan=plan, experiments=[experiment.uid], name="analysis")
    try:
        reach(instance, State.STARTING)
        assert transitions.mark_ready(instance.uid) is transitions.Marked.DONE
        reach(instance, State.ACTIVE)
        assert [endpoint["port"] for endpoint in instance.endpoints] == [8888]
        sweep.sweep(row)
        services.stop(instance, by=alice)
        reach(instance, State.STOPPED)
        services.start(instance, by=alice)
        reach(instance, State.STARTING)
        services.delete(instance, by=alice)
        reach(instance, State.DELETED)
        assert Provider.objects.get(pk=row.pk).last_error == ""
        homes = lab.admin.find("persistentvolumeclaims", labelSelector=f"beamport/home={instance.home.key}")["items"]
        assert len(homes) == 1, "a home outlives its machine"
    finally:
        clouds.cloud_of(row).close()


@pytest.fixture
def row(prepared, settings, db):
    """A provider's row of the cluster, in a facility."""
    row = ProviderFactory(kind="kubernetes", facility=FacilityFactory())
    row.options = options_of(prepared, deployment=settings.DEPLOYMENT_ID)
    row.save()
    yield row
    clouds.drop(row)


def requested(row, **flavour):
    """An instance of it, as its owner has asked for it."""
    experiment = ExperimentFactory(pid="", proposal=ProposalFactory(facility=row.facility, opened=True))
    plan = PlanFactory(image__provider=row, image__reference=IMAGE.reference)
    Flavour.objects.filter(pk=plan.flavour_id).update(**flavour)
    plan = Plan.objects.get(pk=plan.pk)
    return services.request_instance(UserFactory(), plan=plan, experiments=[experiment.uid], name="analysis")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("image", "cores", "reason", "said", "event"),
    [
        ("jupyter", 999, "no-capacity", "nodes are available", "No computer of the cluster has room"),
        ("creating", 1, "mount-missing", "volume home: timed out", "A volume could not be mounted"),
    ],
)
def test_a_build_past_its_deadline_is_taken_back_in_the_same_step(
    image, cores, reason, said, event, lab, row, monkeypatch
):
    """It would start as soon as it can, when nobody waits any more. Why is kept in its history."""
    monkeypatch.setattr(phases, "FLASH", 0.5)
    instance = requested(row, cores=cores)
    Image.objects.update(reference=f"lab/{image}:1")
    end = time.monotonic() + 30
    while instance.reason != reason:
        assert time.monotonic() < end, f"{instance.state}: {clouds.cloud_of(instance.provider).look(instance.ref)}"
        reconcile.run(instance.pk)
        instance.refresh_from_db()
        time.sleep(0.1)
    assert lab.admin.get("statefulsets", instance.ref)["spec"]["replicas"] == 1
    type(instance).objects.filter(pk=instance.pk).update(deadline_at=clock.now())
    reconcile.run(instance.pk)
    instance.refresh_from_db()
    assert (instance.state, instance.reason) == (State.ERROR, reason)
    assert event in instance.log
    assert said in instance.transitions.get(new=State.ERROR).detail
    assert lab.admin.get("statefulsets", instance.ref)["spec"]["replicas"] == 0
    services.delete(instance, by=instance.owner)
    reach(instance, State.DELETED)


@pytest.mark.django_db
@pytest.mark.parametrize("image", ["pull", "crash"])
def test_a_build_that_failed_is_taken_back_in_the_same_step(image, lab, row, monkeypatch):
    """With why it failed, which goes with the pod."""
    monkeypatch.setitem(phases.WAITING, "ErrImagePull", phases.Waiting(0, "image-missing"))
    instance = requested(row)
    Image.objects.update(reference=f"lab/{image}:1")
    reach(instance, State.ERROR)
    assert instance.reason == {"pull": "image-missing", "crash": "ended"}[image]
    assert {"pull": "Failed to pull image", "crash": "It is tried again after a pause"}[image] in instance.log
    assert lab.admin.get("statefulsets", instance.ref)["spec"]["replicas"] == 0
    services.delete(instance, by=instance.owner)
    reach(instance, State.DELETED)


@pytest.mark.django_db
def test_a_new_pod_is_a_new_route_and_none_before_it_has_an_address(lab, row):
    instance = requested(row)
    reach(instance, State.STARTING)
    assert transitions.mark_ready(instance.uid) is transitions.Marked.DONE
    reach(instance, State.ACTIVE)
    pod = lab.admin.get("pods", f"{instance.ref}-0")
    (service,) = row_of(instance)["services"]
    assert (service["host"], service["uid"]) == (pod["status"]["podIP"], pod["metadata"]["uid"])
    lab.admin.patch("pods", f"{instance.ref}-0", {"metadata": {"annotations": {"lab/delete-delay": "1s"}}})
    lab.admin.delete("pods", f"{instance.ref}-0", pod["metadata"]["uid"])
    seen = []
    end = time.monotonic() + 30
    while not seen or seen[-1] in ("", pod["metadata"]["uid"]):
        assert time.monotonic() < end, seen
        reconcile.run(instance.pk)
        instance.refresh_from_db()
        assert not instance.is_heard or seen in ([], [service["uid"]]), "what the old pod answered counts no more"
        uid = "".join(one["uid"] for one in row_of(instance)["services"])
        seen += [uid] if seen[-1:] != [uid] else []
        time.sleep(0.02)
    assert "" in seen, "the old one is withdrawn before there is a new one"
    assert seen[-1] == lab.admin.get("pods", f"{instance.ref}-0")["metadata"]["uid"]
    services.delete(instance, by=instance.owner)
    reach(instance, State.DELETED)


@pytest.mark.django_db
def test_the_route_is_gone_before_the_cluster_is_told(row, monkeypatch):
    """Of a stop, a reboot and a delete alike: the address may be another pod's as soon as the cluster hears."""
    instance = requested(row)
    reach(instance, State.STARTING)
    cloud = clouds.cloud_of(row)
    changes = {"PATCH", "DELETE", "POST"}
    send, sent = cloud.cluster._send, []

    def watched(client, method, *rest):
        if method in changes:
            instance.refresh_from_db()
            sent.append((method, row_of(instance)["services"]))
        return send(client, method, *rest)

    monkeypatch.setattr(cloud.cluster, "_send", watched)
    for verb, there in (("reboot", State.STARTING), ("stop", State.STOPPED), ("delete", State.DELETED)):
        if verb != "delete":
            reach_active(instance)
        before = len(sent)
        getattr(services, verb)(instance, by=instance.owner)
        reach(instance, there)
        assert len(sent) > before, verb
    assert {str(routes) for _, routes in sent} == {"[]"}


@pytest.mark.django_db(transaction=True)
def test_a_change_outside_reaches_the_row_by_the_watch_alone(lab, row, monkeypatch):
    """Sweeps are off once it runs: a worker's ticker hears what an administrator does."""
    ticker = Ticker(pool=2)
    ticker.start()
    try:
        instance = requested(row)
        wait_for(instance, State.STARTING)
        until(lambda: transitions.mark_ready(instance.uid) is transitions.Marked.DONE)
        wait_for(instance, State.ACTIVE)
        monkeypatch.setattr(sweep, "sweep", lambda row, runner: None)
        type(instance).objects.filter(pk=instance.pk).update(due_at=None)
        began = time.monotonic()
        lab.admin.patch("statefulsets", instance.ref, {"spec": {"replicas": 0}})
        wait_for(instance, State.STOPPED, State.UNAVAILABLE)
        print(f"seen after {time.monotonic() - began:.2f} s")
        wait_for(instance, State.STOPPED)
        services.delete(instance, by=instance.owner)
        wait_for(instance, State.DELETED)
    finally:
        ticker.stop()


@pytest.mark.django_db
def test_what_an_administrator_stops_is_not_started_again(lab, row):
    """A real pod takes half a minute to go: who looks meanwhile does not take that for a machine on its way."""
    instance = requested(row)
    reach_active(instance)
    pod = f"{instance.ref}-0"
    lab.admin.patch("pods", pod, {"metadata": {"finalizers": ["lab/hold"]}})
    lab.admin.patch("statefulsets", instance.ref, {"spec": {"replicas": 0}})
    until(lambda: clouds.cloud_of(row).look(instance.ref).phase is Phase.STOPPING)
    reach(instance, State.UNAVAILABLE)
    assert (instance.reason, row_of(instance)["services"]) == ("shut-down", [])
    lab.admin.patch("pods", pod, {"metadata": {"finalizers": None}})
    reach(instance, State.STOPPED)
    assert (instance.target, instance.reason) == ("stopped", "shut-down")
    assert lab.admin.get("statefulsets", instance.ref)["spec"]["replicas"] == 0


@pytest.mark.django_db
def test_what_an_administrator_deletes_goes_down_before_it_has_vanished(lab, row):
    instance = requested(row)
    reach_active(instance)
    lab.admin.patch("statefulsets", instance.ref, {"metadata": {"finalizers": ["lab/hold"]}})
    lab.admin.delete("statefulsets", instance.ref, lab.admin.get("statefulsets", instance.ref)["metadata"]["uid"])
    reach(instance, State.UNAVAILABLE)
    assert (instance.reason, row_of(instance)["services"]) == ("shut-down", [])
    lab.admin.patch("statefulsets", instance.ref, {"metadata": {"finalizers": None}})
    reach(instance, State.ERROR)
    assert (instance.target, instance.reason) == ("active", "vanished")


def wait_for(instance, *states):
    def is_there():
        instance.refresh_from_db()
        return instance.state in states

    until(is_there, 60)


def reach(instance, state):
    """Reconcile as a worker does until the instance is in this state."""
    end = time.monotonic() + 30
    while instance.state != state:
        assert time.monotonic() < end, f"{instance.state}: {clouds.cloud_of(instance.provider).look(instance.ref)}"
        reconcile.run(instance.pk)
        instance.refresh_from_db()
        time.sleep(0.05)


def reach_its_route(instance):
    """Reconcile until there is a pod with an address: after a reboot it is `starting` long before that."""
    end = time.monotonic() + 30
    while not row_of(instance)["services"]:
        assert time.monotonic() < end, f"{instance.state}: {clouds.cloud_of(instance.provider).look(instance.ref)}"
        reconcile.run(instance.pk)
        instance.refresh_from_db()
        time.sleep(0.05)


def reach_active(instance):
    reach_its_route(instance)  # a gateway hears of it no sooner
    transitions.mark_ready(instance.uid)
    reach(instance, State.ACTIVE)


def until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
