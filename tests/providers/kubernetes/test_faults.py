"""Faults of pods, disks, nodes and rules on a real API server: each ends in its phase and the reason that is shown."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from instances.lifecycle import Phase
from instances.providers.base import FlavourSpec, Mount, MountKind, NoCapacity, ProviderUnavailable, Rejected
from instances.providers.kubernetes import KubernetesProvider, homes, phases
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.errors import Busy, DiskHeld, HomeHeld, Locked, NotThere
from instances.providers.kubernetes.phases import Waiting
from instances.providers.kubernetes.site import Site
from portal.lib.hashing import instance_secret
from tests.labs.kubernetes.cluster import ACCOUNT, SOLO, TAINT
from tests.providers.kubernetes.conftest import options_of
from tests.providers.kubernetes.faults import CLAIMS, PODS, SETS, Hand, raises_in_time

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def hand(lab, cloud, make_spec):
    one = Hand(lab, cloud, make_spec)
    yield one
    one.remove_all()


@pytest.fixture
def another(lab, prepared, make_spec):
    """Make providers of other options, each with a hand; a namespace of its own where one is given."""
    made = []

    def make(account=prepared, **options):
        provider = KubernetesProvider(options_of(account, deployment=make_spec().deployment, **options))
        made.append(Hand(lab, provider, make_spec))
        return made[-1]

    yield make
    for one in made:
        one.remove_all()
        one.provider.close()


# ---- pods ----
def test_a_slow_start_is_waited_for(hand):
    name = hand.create("slow")
    hand.stays(name, Phase.PENDING, 3)
    uid = hand.pod(name)["metadata"]["uid"]
    hand.until(name, Phase.RUNNING)
    assert hand.pod(name)["metadata"]["uid"] == uid


def test_a_slow_end_is_waited_for(hand):
    name = hand.running()
    hand.annotate(name, delete_delay="1s")
    hand.provider.stop(name)
    version = hand.set(name)["metadata"]["generation"]
    hand.stays(name, Phase.STOPPING, 3)
    hand.provider.stop(name)
    hand.until(name, Phase.STOPPED)
    assert hand.set(name)["metadata"]["generation"] == version, "a stop under way is not asked for again"


def test_an_image_that_is_not_there_fails(hand, monkeypatch):
    name = hand.create("pull")
    hand.until(name, Phase.PENDING, "image-missing")
    for word in ("ErrImagePull", "ImagePullBackOff"):
        monkeypatch.setitem(phases.WAITING, word, Waiting(0.1, "image-missing"))
    hand.until(name, Phase.FAILED, "image-missing")


def test_an_image_that_comes_in_time_starts(hand):
    name = hand.create("pull")
    hand.until(name, Phase.PENDING, "image-missing")
    hand.repair(name)
    hand.until(name, Phase.RUNNING)


def test_a_crash_shows_what_was_printed_before_it(hand, monkeypatch):
    """Of one that runs again both: the lines that say why are those of the one before."""
    asked = []
    said = {"true": "Traceback: no module named jupyterlab", None: "it runs again"}
    monkeypatch.setattr(hand.provider.cluster, "log", lambda pod, **query: said[query.get("previous")])
    crashed = hand.create("crash")
    hand.until(crashed, Phase.FAILED)
    assert hand.provider.console(crashed).endswith(said["true"])
    name = hand.running()
    assert said["true"] not in hand.provider.console(name)
    main = {**hand.pod(name)["status"]["containerStatuses"][0], "restartCount": 1}
    pod = hand.pod(name)
    pod["status"]["containerStatuses"] = [main]
    monkeypatch.setattr(hand.provider, "_pod_of", lambda found: asked.append(found) or pod)
    assert hand.provider.console(name).splitlines()[-2:] == [said["true"], said[None]]


def test_a_missing_secret_is_a_reason(hand):
    hand.until(hand.create("config"), Phase.PENDING, "pod-refused")


def test_a_volume_that_cannot_be_mounted_is_a_reason(hand, monkeypatch):
    monkeypatch.setattr(phases, "FLASH", 0.5)
    name = hand.create("creating")
    assert "timed out" in hand.until(name, Phase.PENDING, "mount-missing").detail
    assert "could not be mounted" in hand.provider.console(name)


def test_a_pod_that_is_not_ready_runs(hand):
    name = hand.create("unready")
    assert hand.until(name, Phase.RUNNING).endpoints == ()


def test_a_late_word_of_the_scheduler_on_the_pod_before_does_not_count(hand):
    """It is written on the pod's name, and nobody takes it back from a successor that has its node."""
    name = hand.running()
    late = {"type": "PodScheduled", "status": "False", "reason": "SchedulerError", "message": "is being deleted"}
    others = [one for one in hand.pod(name)["status"]["conditions"] if one["type"] != "PodScheduled"]
    status = f"{hand.admin.path('pods', f'{name}-0')}/status"
    hand.admin.ask("PATCH", status, body={"status": {"conditions": [*others, late]}})
    hand.stays(name, Phase.RUNNING)


def test_a_loop_of_crashes_fails(hand):
    name = hand.create("crash")
    assert "code 1" in hand.until(name, Phase.FAILED, "ended").detail


def test_out_of_memory_is_said(hand):
    hand.until(hand.create("oom"), Phase.RUNNING, "out-of-memory")


def test_a_session_that_ends_itself_runs_again(hand):
    hand.until(hand.create("done"), Phase.RUNNING, "ended")


def test_an_evicted_pod_is_replaced_and_again_and_again_is_a_failure(hand):
    name = hand.create("evict")
    hand.until(name, Phase.FAILED, "evicted")


def test_a_pod_that_never_ends_is_never_forced(hand):
    name = hand.create("stuck")
    hand.until(name, Phase.RUNNING)
    hand.provider.delete(name)
    hand.stays(name, Phase.STOPPING)
    hand.provider.delete(name)
    assert "deletionGracePeriodSeconds" in hand.pod(name)["metadata"]
    assert hand.pod(name)["metadata"]["deletionGracePeriodSeconds"] > 0
    hand.repair(name)
    hand.until(name, Phase.MISSING)


def test_a_foreign_finalizer_holds_up_and_a_create_waits_for_it(hand):
    wanted = hand.make_spec()
    hand.made.append(hand.provider.create(wanted))
    hand.until(wanted.name, Phase.RUNNING)
    hand.admin.patch(SETS, wanted.name, {"metadata": {"finalizers": ["lab/hold"]}})
    hand.provider.delete(wanted.name)
    hand.stays(wanted.name, Phase.STOPPING)
    with pytest.raises(ProviderUnavailable, match="still being deleted"):
        hand.provider.create(wanted)
    hand.admin.patch(SETS, wanted.name, {"metadata": {"finalizers": None}})
    hand.until(wanted.name, Phase.MISSING)
    hand.provider.create(wanted)
    hand.until(wanted.name, Phase.RUNNING)


@pytest.mark.parametrize("verb", ["create", "start"])
def test_a_create_that_was_broken_off_is_finished(verb, hand, monkeypatch):
    """Whoever goes on, the Secret is made that was not yet, and the data are those that may be seen by then."""
    wanted = hand.make_spec(mounts=(Mount(MountKind.DATA, "/data/run1", "/work/data/p1/r0001"),))
    hand.made.append(wanted.name)
    with monkeypatch.context() as broken:
        broken.setattr(hand.provider, "_post_secret", lambda found: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hand.provider.create(wanted)
    hand.until(wanted.name, Phase.STOPPED)
    if verb == "create":
        hand.provider.create(replace(wanted, mounts=()))
    else:
        hand.provider.start(wanted.name, [])
    hand.until(wanted.name, Phase.RUNNING)
    assert "/work/data/" not in str(hand.pod(wanted.name)["spec"]["containers"][0]["volumeMounts"])
    secret = hand.admin.get("secrets", wanted.name)
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    token = instance_secret(os.environ["INSTANCE_KEY"].encode(), wanted.instance, 1, "jupyter")
    assert data == {"jupyter": token, "welcome-0": wanted.welcome["Welcome.ipynb"]}
    assert secret["immutable"] is True


def test_a_secret_that_is_gone_is_made_again_with_the_next_start(hand):
    name = hand.stopped()
    secret = hand.admin.get("secrets", name)
    hand.admin.delete("secrets", name, secret["metadata"]["uid"])
    hand.provider.start(name)
    assert hand.admin.get("secrets", name)["data"] == secret["data"]


# ---- room ----
def wait_until(done, seconds=20.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def says(hand, name, words):
    """Wait until there is no room for this reason; that its disk is not bound yet may be the first."""
    end = time.monotonic() + 20
    while words not in (detail := hand.until(name, Phase.PENDING, "no-capacity").detail):
        assert time.monotonic() < end, detail
        time.sleep(0.1)


def test_more_cores_than_a_node_has_wait(hand, monkeypatch):
    monkeypatch.setattr(phases, "FLASH", 0.5)
    name = hand.create(flavour=FlavourSpec("huge", 999, 2**30, 0))
    says(hand, name, "Insufficient cpu")


def test_a_third_gpu_waits_for_a_free_one(hand, monkeypatch):
    monkeypatch.setattr(phases, "FLASH", 0.5)
    flavour = FlavourSpec("gpu", 1, 2**30, 0, gpus=1)
    first, _, third = (hand.create(flavour=flavour) for _ in range(3))
    waiting = {name: hand.provider.look(name).phase for name in (first, third)}
    names = hand.made[-3:]
    deadline = time.monotonic() + 20
    while sum(hand.provider.look(name).phase is Phase.RUNNING for name in names) < 2:
        assert time.monotonic() < deadline, waiting
        time.sleep(0.05)
    (late,) = [name for name in names if hand.provider.look(name).phase is not Phase.RUNNING]
    says(hand, late, "nvidia.com/gpu")
    hand.provider.stop(next(name for name in names if name != late))
    hand.until(late, Phase.RUNNING)


def test_a_disk_that_nobody_makes_waits(another, monkeypatch):
    monkeypatch.setattr(phases, "FLASH", 0.5)
    hand = another(scratch_class="lab-never")
    says(hand, hand.create(), "PersistentVolumeClaim")


# ---- rules of the site ----
def test_a_quota_that_is_full_fails_and_starts_when_lifted(lab, another):
    hand = another(lab.namespace(quota={"pods": "0"}), home_class="lab-disk", home_access="ReadWriteOnce")
    name = hand.create(home=None)
    seen = hand.until(name, Phase.FAILED, "no-capacity")
    assert seen.detail == "quota lab has no room for pods 1 (used 0 of 0)"
    hand.provider.stop(name)
    lab.drop("ResourceQuota", "lab", hand.provider.site.namespace)
    hand.until(name, Phase.STOPPED)
    hand.provider.start(name)
    hand.until(name, Phase.RUNNING)


def test_a_quota_refuses_a_home_by_name(lab, another):
    hand = another(lab.namespace(quota={"persistentvolumeclaims": "0"}))
    with pytest.raises(NoCapacity, match="persistentvolumeclaims 1"):
        hand.create()
    assert hand.admin.find(SETS)["items"] == []


def test_what_pod_security_refuses_is_rejected(hand):
    name = hand.stopped()
    hand.admin.patch(SETS, name, {"spec": {"template": {"spec": {"securityContext": None}}}})
    hand.provider.start(name)
    assert "PodSecurity" in hand.until(name, Phase.FAILED, "rejected").detail


def test_what_a_policy_denies_is_rejected(lab, hand):
    where = {"matchResources": {"namespaceSelector": {"matchLabels": _NAMESPACE}}}
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["statefulsets"]}
    policy = {
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "lab-images"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "!object.spec.template.spec.containers[0].image.startsWith('lab/banned')"}],
        },
    }
    binding = {
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "lab-images"},
        "spec": {"policyName": "lab-images", "validationActions": ["Deny"], **where},
    }
    try:
        lab.apply(policy)
        lab.apply(binding)
        assert "denied request" in str(raises_in_time(Rejected, lambda: hand.create("banned")))
        hand.running()
    finally:
        lab.drop("ValidatingAdmissionPolicyBinding", "lab-images")
        lab.drop("ValidatingAdmissionPolicy", "lab-images")


def test_a_webhook_that_is_down_concludes_nothing(lab, hand):
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["statefulsets"]}
    hook = {
        "name": "lab.example.org",
        "clientConfig": {"url": "https://127.0.0.1:1/", "caBundle": ""},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "timeoutSeconds": 1,
    }
    name = hand.running()
    try:
        lab.apply({"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "lab"}, "webhooks": [hook]})
        assert "failed calling webhook" in str(raises_in_time(ProviderUnavailable, hand.create))
        with pytest.raises(ProviderUnavailable):
            hand.provider.stop(name)
        assert hand.provider.look(name).phase is Phase.RUNNING
    finally:
        lab.drop("ValidatingWebhookConfiguration", "lab")


@pytest.fixture
def throttled(lab, prepared):
    """Have the API server itself refuse the portal's account: it has room for one request, and that one hangs."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=16)
    hook = {
        "name": "silent.example.org",
        "clientConfig": {"url": f"https://127.0.0.1:{silent.getsockname()[1]}/", "caBundle": ""},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Ignore",
        "timeoutSeconds": 30,
    }
    limited = {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}
    level = {"type": "Limited", "limited": limited}
    account = {"name": ACCOUNT, "namespace": prepared.namespace}
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
    rule = {"subjects": [{"kind": "ServiceAccount", "serviceAccount": account}], "resourceRules": [everything]}
    schema = {"priorityLevelConfiguration": {"name": "lab"}, "matchingPrecedence": 2, "rules": [rule]}
    secret = {"metadata": {"generateName": "lab-"}, "type": "Opaque", "stringData": {"a": "b"}}
    busy = Cluster(Site(deployment="lab", namespace=prepared.namespace, kubeconfig=str(prepared.kubeconfig)))

    over = threading.Event()

    def occupy():
        while not over.wait(0.1):  # what comes before the rules are known takes no room
            with contextlib.suppress(ProviderUnavailable):
                busy.post("secrets", secret)

    def throttle():
        lab.apply({"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "silent"}, "webhooks": [hook]})
        lab.apply({"kind": "PriorityLevelConfiguration", "metadata": {"name": "lab"}, "spec": level})
        lab.apply({"kind": "FlowSchema", "metadata": {"name": "lab"}, "spec": schema})
        for _ in range(2):
            threading.Thread(target=occupy, daemon=True).start()

    def relax():
        over.set()
        for kind in ("FlowSchema", "PriorityLevelConfiguration"):
            lab.drop(kind, "lab")
        lab.drop("ValidatingWebhookConfiguration", "silent")

    yield throttle, relax
    relax()
    silent.close()


def test_an_api_server_that_is_asked_too_much_is_asked_later(hand, throttled):
    throttle, relax = throttled
    name = hand.running()
    assert name in [seen.name for seen in hand.provider.observe()]
    throttle()
    error = raises_in_time(Busy, lambda: hand.provider.look(name))
    assert "429" in str(error)
    assert error.after >= 1
    for verb in (hand.provider.stop, hand.provider.delete, hand.provider.reboot):
        with pytest.raises(ProviderUnavailable):
            verb(name)
    with pytest.raises(ProviderUnavailable):
        hand.create()
    assert name in [seen.name for seen in hand.provider.observe()], "what is watched is known all the same"
    relax()
    assert hand.replicas(name) == 1
    wait_until(lambda: _answers(lambda: hand.provider.stop(name)), 60)
    hand.until(name, Phase.STOPPED)


def _answers(ask):
    try:
        ask()
    except ProviderUnavailable:
        return False
    return True


_NAMESPACE = {"kubernetes.io/metadata.name": "beamport"}


# ---- rights ----
def test_without_its_role_nothing_is_concluded(lab, prepared, hand):
    name = hand.running()
    lab.drop("RoleBinding", ACCOUNT, prepared.namespace)
    try:
        raises_in_time(Locked, lambda: hand.provider.look(name))
        for verb in (hand.provider.stop, hand.provider.delete, hand.provider.start):
            with pytest.raises(ProviderUnavailable):
                verb(name)
        assert any("get statefulsets.apps" in problem for problem in hand.provider.problems())
    finally:
        lab.namespace(prepared.namespace)
    hand.until(name, Phase.RUNNING)


@pytest.mark.slow
def test_an_account_that_is_gone_concludes_nothing_and_a_new_one_is_taken_up(lab, another):
    account = lab.namespace()
    lab.shelve(2)
    hand = another(account)
    name = hand.running(home=None)
    lab.drop("ServiceAccount", ACCOUNT, account.namespace)
    raises_in_time(Locked, lambda: hand.provider.look(name), 40)
    lab.namespace(account.namespace)  # the account again, and a fresh token in the same file
    hand.until(name, Phase.RUNNING)


def test_another_namespace_of_the_name_is_not_ours(another):
    hand = another(namespace_uid="11111111-2222-3333-4444-555555555555")
    with pytest.raises(ProviderUnavailable, match="not the one"):
        hand.provider.look("bp-never-made-1")
    with pytest.raises(ProviderUnavailable, match="not the one"):
        hand.provider.create(hand.make_spec())


def test_a_namespace_that_was_exchanged_meanwhile_lacks_nothing(another):
    """It was the right one when the provider began; now nothing is in it, and nothing follows from that."""
    hand = another()
    assert hand.provider.look("bp-never-made-1").phase is Phase.MISSING
    hand.provider.cluster.site = replace(hand.provider.site, namespace_uid="11111111-2222-3333-4444-555555555555")
    for ask in (hand.provider.look, hand.provider.delete):
        with pytest.raises(ProviderUnavailable, match="not the one"):
            ask("bp-never-made-1")


@pytest.mark.parametrize(
    "missing", [("pods", "bp-x-1"), ("statefulsets", "another"), ("namespaces", "beamport"), ("", "")]
)
def test_a_404_about_something_else_is_no_word_about_the_machine(missing, hand, monkeypatch):
    def get(kind, name):
        raise NotThere("404", *missing)

    monkeypatch.setattr(hand.provider.cluster, "get", get)
    for ask in (hand.provider.look, hand.provider.delete):
        with pytest.raises(ProviderUnavailable, match="who says"):
            ask("bp-x-1")


def test_a_namespace_that_nobody_confirmed_is_not_used(another):
    hand = another(namespace_uid="")
    with pytest.raises(ProviderUnavailable, match="check_provider"):
        hand.provider.look("bp-never-made-1")
    (problem,) = hand.provider.problems()
    assert hand.provider.confirm()["namespace_uid"] in problem


# ---- an operator's hand ----
def uids_of(objects):
    return [one["metadata"]["uid"] for one in objects]


def test_a_pod_that_somebody_deletes_is_made_again(hand):
    name = hand.running()
    uid = hand.pod(name)["metadata"]["uid"]
    hand.admin.delete(PODS, f"{name}-0", uid)
    end = time.monotonic() + 20
    while hand.provider.look(name).phase is not Phase.RUNNING or uid in uids_of(hand.pods(name)):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_machine_that_somebody_deletes_is_missing(hand):
    name = hand.running()
    hand.admin.delete(SETS, name, hand.set(name)["metadata"]["uid"])
    hand.until(name, Phase.MISSING)


def test_a_disk_that_is_marked_for_deletion_is_held(hand):
    name = hand.running()
    claim = hand.admin.get(CLAIMS, f"scratch-{name}-0")
    hand.admin.delete(CLAIMS, claim["metadata"]["name"], claim["metadata"]["uid"])
    for verb in (hand.provider.stop, hand.provider.reboot):
        with pytest.raises(DiskHeld):
            verb(name)
    assert hand.replicas(name) == 1
    hand.stays(name, Phase.RUNNING, 2)


@pytest.mark.parametrize("made_again", [False, True])
def test_a_disk_that_is_gone_is_not_replaced_by_an_empty_one(made_again, hand):
    name = hand.stopped()
    claim = hand.admin.get(CLAIMS, f"scratch-{name}-0")
    hand.admin.delete(CLAIMS, claim["metadata"]["name"], claim["metadata"]["uid"])
    end = time.monotonic() + 20
    while claim["metadata"]["name"] in [one["metadata"]["name"] for one in hand.admin.find(CLAIMS)["items"]]:
        assert time.monotonic() < end
        time.sleep(0.05)
    if made_again:
        metadata = {key: claim["metadata"][key] for key in ("name", "labels")}
        hand.admin.post(CLAIMS, {"metadata": metadata, "spec": {**claim["spec"], "volumeName": ""}})
    with pytest.raises(DiskHeld):
        hand.provider.start(name)
    assert hand.replicas(name) == 0


def test_a_home_that_was_put_in_the_place_of_another_is_not_mounted(hand):
    wanted = hand.make_spec()
    hand.made.append(hand.provider.create(wanted))
    hand.until(wanted.name, Phase.RUNNING)
    hand.provider.stop(wanted.name)
    hand.until(wanted.name, Phase.STOPPED)
    claim = hand.admin.get(CLAIMS, f"bp-home-{wanted.home.key}")
    hand.admin.delete(CLAIMS, claim["metadata"]["name"], claim["metadata"]["uid"])
    with pytest.raises(DiskHeld):
        hand.provider.start(wanted.name)
    assert hand.replicas(wanted.name) == 0


def test_a_second_replica_is_taken_back(hand):
    name = hand.running()
    hand.admin.patch(SETS, name, {"spec": {"replicas": 2}})
    end = time.monotonic() + 20
    while hand.replicas(name) != 1:
        list(hand.provider.observe())
        assert time.monotonic() < end
    end = time.monotonic() + 20
    while len(hand.pods(name)) > 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    hand.until(name, Phase.RUNNING)


def test_a_second_replica_is_not_taken_back_over_a_stop(hand):
    """Who tends the provider may have seen it before another worker's stop."""
    name = hand.running()
    hand.admin.patch(SETS, name, {"spec": {"replicas": 2}})
    seen = hand.set(name)
    hand.provider.stop(name)
    hand.provider._put_right(seen)
    assert hand.replicas(name) == 0


def test_a_pod_that_was_let_go_is_not_ours(hand, monkeypatch):
    name = hand.running()
    hand.admin.patch(PODS, f"{name}-0", {"metadata": {"labels": {"beamport/machine": None}}})
    hand.until(name, Phase.PENDING)
    assert hand.provider.look(name).endpoints == ()
    hand.admin.delete(PODS, f"{name}-0", hand.pod(name)["metadata"]["uid"])
    hand.until(name, Phase.RUNNING)


# ---- homes that one machine has at a time ----
def test_a_home_goes_to_one_machine_at_a_time(another):
    hand = another(home_access="ReadWriteOnce")
    wanted = hand.make_spec()
    hand.made.append(hand.provider.create(wanted))
    hand.until(wanted.name, Phase.RUNNING)
    with pytest.raises(HomeHeld, match=wanted.name):
        hand.create(home=wanted.home)
    hand.provider.stop(wanted.name)
    hand.until(wanted.name, Phase.STOPPED)
    end = time.monotonic() + 20
    while True:
        try:
            second = hand.create(home=wanted.home)
            break
        except HomeHeld:
            assert time.monotonic() < end
            time.sleep(0.05)
    hand.until(second, Phase.RUNNING)
    with pytest.raises(HomeHeld, match=second):
        hand.provider.start(wanted.name)


@pytest.mark.parametrize("verb", ["create", "start"])
def test_of_two_that_want_a_home_at_the_same_moment_one_has_it(verb, another):
    """Each of them may have found it free before the other took it."""
    hand = another(home_access="ReadWriteOnce")
    home = hand.make_spec().home
    wanted = [hand.make_spec(home=home) for _ in range(4)]
    hand.made += [one.name for one in wanted]
    up, refused = set(), 0
    if verb == "start":
        for one in wanted:
            hand.provider.create(one)
            hand.provider.stop(one.name)
            hand.until(one.name, Phase.STOPPED)
            wait_until(lambda one=one: not hand.set(one.name)["status"].get("replicas"))
    end = time.monotonic() + 60
    while not up:
        assert time.monotonic() < end
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(getattr(hand.provider, verb), one if verb == "create" else one.name) for one in wanted]
        refused += sum(isinstance(one.exception(), HomeHeld) for one in asked)
        assert all(isinstance(one.exception(), HomeHeld | None) for one in asked), asked
        up = {one.name for one in wanted if hand.admin.find(SETS) and _wants(hand, one.name)}
        assert len(up) <= 1
    assert refused >= 3
    with pytest.raises(HomeHeld, match=up.pop()):
        hand.create(home=home)


def _wants(hand, name):
    try:
        return hand.replicas(name) > 0
    except NotThere:
        return False


def test_who_died_before_it_took_a_home_does_not_keep_it(another, monkeypatch):
    hand = another(home_access="ReadWriteOnce")
    home = hand.make_spec().home
    first = hand.make_spec(home=home)
    hand.made.append(first.name)
    with monkeypatch.context() as dying:
        dying.setattr(hand.provider, "_post_secret", lambda found: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hand.provider.create(first)
    with pytest.raises(HomeHeld, match=first.name):
        hand.create(home=home)
    long_ago = {"metadata": {"annotations": {"beamport/wants-home": "2026-01-01T00:00:00+00:00"}}}
    hand.admin.patch(SETS, first.name, long_ago)
    hand.until(hand.create(home=home), Phase.RUNNING)


def test_who_was_slow_in_taking_a_home_does_not_take_it(another, monkeypatch):
    """The word that it wants it counts for a minute: another may have it by now."""
    hand = another(home_access="ReadWriteOnce")
    wanted = hand.make_spec()
    hand.made.append(wanted.name)
    with monkeypatch.context() as slow:
        slow.setattr(homes, "TAKING", 0.0)
        with pytest.raises(ProviderUnavailable, match="another machine may have taken"):
            hand.provider.create(wanted)
    assert hand.replicas(wanted.name) == 0
    hand.provider.create(wanted)
    hand.until(wanted.name, Phase.RUNNING)


# ---- being told ----
def test_a_change_outside_is_told_and_listed(hand):
    name = hand.running()
    list(hand.provider.observe())
    told = threading.Event()
    listener = threading.Thread(target=hand.provider.watch, args=(lambda ref: ref == name and told.set(),), daemon=True)
    listener.start()
    end = time.monotonic() + 20
    while not hand.provider._listeners:
        assert time.monotonic() < end
        time.sleep(0.01)
    hand.admin.patch(SETS, name, {"spec": {"replicas": 0}})
    assert told.wait(20)
    while next(seen for seen in hand.provider.observe() if seen.name == name).phase is not Phase.STOPPED:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_provider_that_is_closed_ends_its_watch_and_does_not_watch_again(another):
    hand = another()
    listener = threading.Thread(target=hand.provider.watch, args=(print,), daemon=True)
    listener.start()
    hand.provider.close()
    listener.join(20)
    assert not listener.is_alive()
    hand.provider.watch(print)


def test_another_kubeconfig_is_noticed_and_none_at_all_is_not(lab, prepared, another, tmp_path):
    """A file that is replaced is away for a moment, and says nothing then."""
    config = tmp_path / "cluster.conf"
    config.write_text(prepared.kubeconfig.read_text())
    provider = another(kubeconfig=str(config)).provider
    assert not provider.is_outdated()
    config.unlink()
    assert not provider.is_outdated()
    config.write_text(prepared.kubeconfig.read_text() + "\n")
    assert provider.is_outdated()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_lost_node_is_said_and_nothing_is_forced(lab, another, healed):
    hand = another(
        node_selector={"lab/pool": "solo"},
        tolerations=[{"key": TAINT, "operator": "Exists"}],
    )
    name = hand.running()
    assert hand.pod(name)["spec"]["nodeName"] == SOLO
    uid = hand.pod(name)["metadata"]["uid"]
    lab.freeze("kwok-solo")
    hand.until(name, Phase.UNKNOWN, "node-lost", seconds=120)
    # the cluster wants to put it elsewhere, and cannot know whether the old one still writes
    hand.until(name, Phase.RUNNING, "being-replaced", seconds=120)
    assert hand.provider.look(name).endpoints == ()
    assert hand.pod(name)["metadata"]["uid"] == uid
    lab.thaw("kwok-solo")
    hand.until(name, Phase.RUNNING, "", seconds=60)
    assert hand.pod(name)["metadata"]["uid"] != uid


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_what_was_on_a_node_that_the_operator_deletes_starts_on_another(lab, another, healed):
    """The operator knows that it is off: the cluster collects the pod, and the machine goes on with its disk."""
    hand = another(node_selector={"lab/pool": "solo"}, tolerations=[{"key": TAINT, "operator": "Exists"}])
    name = hand.running()
    uid, disk = hand.pod(name)["metadata"]["uid"], hand.admin.get(CLAIMS, f"scratch-{name}-0")["metadata"]["uid"]
    lab.add_spare("fake-spare")
    lab.freeze("kwok-solo")
    try:
        hand.until(name, Phase.UNKNOWN, "node-lost", seconds=120)
        assert (hand.pod(name)["metadata"]["uid"], hand.pod(name)["spec"]["nodeName"]) == (uid, SOLO)
        lab.drop("Node", SOLO)
        hand.until(name, Phase.RUNNING, "", seconds=240)
        (pod,) = hand.pods(name)
        assert (pod["metadata"]["uid"] != uid, pod["spec"]["nodeName"]) == (True, "fake-spare")
        assert hand.admin.get(CLAIMS, f"scratch-{name}-0")["metadata"]["uid"] == disk
    finally:
        hand.remove_all()
        lab.drop("Node", "fake-spare")
        lab.kill("kwok-solo")  # it would not look after the node that is made anew
        lab.add_solo()
