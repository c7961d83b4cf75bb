"""The site's own parts fail in the middle of verbs: nothing is lost, nothing doubled, nothing concluded."""

from __future__ import annotations

import contextlib
import time

import pytest

from instances.lifecycle import Phase
from instances.providers.base import Mount, MountKind, ProviderUnavailable
from instances.providers.kubernetes import KubernetesProvider, client, provider, reflector
from instances.providers.kubernetes.errors import HomeHeld
from tests.labs.kubernetes.cluster import COMPONENTS
from tests.labs.kubernetes.proxy import Proxy
from tests.providers.kubernetes.conftest import options_of
from tests.providers.kubernetes.faults import SETS, Hand, raises_in_time

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def impatient(monkeypatch):
    """Answers are waited for a moment only."""
    monkeypatch.setattr(client, "READ", 2.0)
    monkeypatch.setattr(client, "CONNECT", 2.0)


@pytest.fixture
def hand(healed, cloud, make_spec, impatient):
    one = Hand(healed, cloud, make_spec)
    yield one
    healed.heal()
    one.remove_all()


@pytest.fixture
def exclusive(healed, prepared, make_spec, impatient):
    """A provider whose homes are mounted by one machine at a time."""
    options = options_of(prepared, deployment=make_spec().deployment, home_access="ReadWriteOnce")
    one = Hand(healed, KubernetesProvider(options), make_spec)
    yield one
    healed.heal()
    one.remove_all()
    one.provider.close()


@pytest.fixture
def proxied(healed, prepared, make_spec, impatient):
    """A provider whose every byte passes a proxy."""
    proxy = Proxy(healed.ports["api"])
    config = healed.token(prepared.namespace, f"https://127.0.0.1:{proxy.port}")
    options = options_of(prepared, deployment=make_spec().deployment, kubeconfig=str(config))
    one = Hand(healed, KubernetesProvider(options), make_spec)
    one.proxy = proxy
    yield one
    proxy.heal()
    one.remove_all()
    one.provider.close()
    proxy.close()


def try_until(verb, *arguments, seconds: float = 30.0):
    """Repeat a verb as the reconciler does, until it is answered; return how often it was not."""
    end = time.monotonic() + seconds
    failed = 0
    while True:
        try:
            verb(*arguments)
            return failed
        except ProviderUnavailable:
            failed += 1
            assert time.monotonic() < end
            time.sleep(0.1)


# ---- answers ----
#: how many answers a verb waits for, at least
ANSWERS = {"create": 4, "stop": 3, "start": 4, "reboot": 4, "delete": 2}
ENDS = {"stop": Phase.STOPPED, "delete": Phase.MISSING}


def prepared_for(verb, hand):
    """Return a Spec, its machine being what the verb begins with."""
    wanted = hand.make_spec()
    hand.made.append(wanted.name)
    if verb != "create":
        hand.provider.create(wanted)
        hand.until(wanted.name, Phase.RUNNING)
    if verb == "start":
        hand.provider.stop(wanted.name)
        hand.until(wanted.name, Phase.STOPPED)
    hand.provider.console(wanted.name)  # there is a connection, and its handshake is over
    return wanted


#: the suite loses answers of those two that make and remove; the long proof of all, in three ways
LOSSES = [
    pytest.param(verb, fault, marks=() if fault == "lose" and verb in ("create", "delete") else pytest.mark.slow)
    for verb in ANSWERS
    for fault in ("lose", "tear", "stall")
]


@pytest.mark.parametrize(("verb", "fault"), LOSSES)
def test_whichever_answer_is_lost_nothing_is_lost_or_doubled(verb, fault, proxied):
    """The first answer of the verb is struck, then the second of another machine's, until there is none to strike."""
    struck = 1
    position = 0
    while struck:
        wanted = prepared_for(verb, proxied)
        proxied.proxy.break_(fault, skip=position)
        call = getattr(proxied.provider, verb)
        if verb == "reboot":  # which nobody asks for twice
            with contextlib.suppress(ProviderUnavailable):
                call(wanted.name)
        else:
            try_until(call, wanted if verb == "create" else wanted.name)
        struck = proxied.proxy.heal()
        proxied.until(wanted.name, ENDS.get(verb, Phase.RUNNING))
        ours = [one for one in proxied.admin.find(SETS)["items"] if wanted.instance in str(one["metadata"]["labels"])]
        assert len(ours) == (0 if verb == "delete" else 1)
        assert len(proxied.pods(wanted.name)) == (0 if verb in ENDS else 1)
        proxied.provider.delete(wanted.name)
        position += 1
    assert position > ANSWERS[verb]


def test_answers_that_stall_for_long_are_no_answers(proxied):
    name = proxied.running()
    proxied.proxy.break_("stall", times=10**6)
    with pytest.raises(ProviderUnavailable):
        proxied.provider.look(name)
    proxied.proxy.heal()
    proxied.until(name, Phase.RUNNING)


def test_a_watch_that_breaks_is_taken_up_again(proxied):
    name = proxied.running()
    list(proxied.provider.observe())
    for _ in range(3):
        proxied.proxy.cut()
        time.sleep(0.2)
    proxied.admin.patch(SETS, name, {"spec": {"replicas": 0}})
    end = time.monotonic() + 30
    while [seen.phase for seen in proxied.provider.observe()] != [Phase.STOPPED]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert proxied.provider.sets.counts.breaks >= 1
    assert proxied.provider.sets.counts.lists == 0


# ---- components ----
def test_an_api_server_that_is_frozen_gives_no_answer(hand):
    name = hand.running()
    hand.lab.freeze("kube-apiserver")
    for ask in (hand.provider.look, hand.provider.stop, hand.provider.delete):
        with pytest.raises(ProviderUnavailable):
            ask(name)
    hand.lab.thaw("kube-apiserver")
    try_until(hand.provider.look, name)
    # what was sent before the freeze may have been done by now; what was not is asked for again
    try_until(hand.provider.delete, name)
    hand.until(name, Phase.MISSING)


def test_an_api_server_that_was_killed_is_watched_again(hand):
    name = hand.running()
    assert name in [seen.name for seen in hand.provider.observe()]
    hand.lab.kill("kube-apiserver")
    with pytest.raises(ProviderUnavailable):
        hand.provider.look(name)
    assert name in [seen.name for seen in hand.provider.observe()], "nothing is gone because nobody answers"
    hand.lab.start("kube-apiserver")
    try_until(hand.provider.stop, name)
    end = time.monotonic() + 40
    while next(seen for seen in hand.provider.observe() if seen.name == name).phase is not Phase.STOPPED:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_outage_that_lasts_is_no_answer(hand, monkeypatch):
    name = hand.running()
    assert name in [seen.name for seen in hand.provider.observe()]
    monkeypatch.setattr(reflector, "STALE", 2.0)
    hand.lab.kill("kube-apiserver")
    assert "nothing was heard" in str(raises_in_time(ProviderUnavailable, lambda: list(hand.provider.observe())))
    hand.lab.start("kube-apiserver")
    monkeypatch.undo()
    end = time.monotonic() + 40
    while True:
        try:
            assert name in [seen.name for seen in hand.provider.observe()]
            break
        except ProviderUnavailable:
            assert time.monotonic() < end
            time.sleep(0.1)
    hand.until(name, Phase.RUNNING)


def test_a_frozen_etcd_gives_no_answer(hand):
    name = hand.running()
    hand.lab.freeze("etcd")
    for ask in (hand.provider.look, hand.provider.stop):
        with pytest.raises(ProviderUnavailable):
            ask(name)
    with pytest.raises(ProviderUnavailable):
        hand.provider.create(hand.make_spec())
    hand.lab.thaw("etcd")
    try_until(hand.provider.stop, name)
    hand.until(name, Phase.STOPPED)


def test_without_a_scheduler_a_start_waits(hand):
    hand.lab.freeze("kube-scheduler")
    name = hand.create()
    hand.stays(name, Phase.PENDING)
    hand.lab.thaw("kube-scheduler")
    hand.until(name, Phase.RUNNING)


def test_without_controllers_a_stop_waits_and_is_not_believed(hand):
    name = hand.running()
    hand.lab.freeze("kube-controller-manager")
    late = hand.create()
    hand.provider.stop(name)
    hand.stays(late, Phase.PENDING)
    hand.stays(name, Phase.STOPPING)
    hand.lab.thaw("kube-controller-manager")
    hand.until(name, Phase.STOPPED)
    hand.until(late, Phase.RUNNING)


def test_what_controllers_have_not_begun_may_still_come(hand):
    """They may have read the start and not yet the stop: no pod is there, and one may come."""
    hand.lab.freeze("kube-controller-manager")
    name = hand.create()
    hand.provider.stop(name)
    hand.stays(name, Phase.STOPPING)
    hand.lab.thaw("kube-controller-manager")
    hand.until(name, Phase.STOPPED)
    hand.stays(name, Phase.STOPPED)


def test_what_controllers_have_not_begun_keeps_its_home(exclusive):
    exclusive.lab.freeze("kube-controller-manager")
    wanted = exclusive.make_spec()
    exclusive.made.append(exclusive.provider.create(wanted))
    exclusive.provider.stop(wanted.name)
    with pytest.raises(HomeHeld, match=wanted.name):
        exclusive.create(home=wanted.home)
    exclusive.lab.thaw("kube-controller-manager")
    exclusive.until(wanted.name, Phase.STOPPED)
    exclusive.until(exclusive.create(home=wanted.home), Phase.RUNNING)


def test_a_reboot_with_other_data_waits_for_the_controllers(hand, monkeypatch):
    """A pod that is made from what they knew before would have the data back that a right was lost to."""
    monkeypatch.setattr(provider, "_NOTICE", 0.5)
    name = hand.running(mounts=(Mount(MountKind.DATA, "/data/run1", "/work/data/p1/r0001"),))
    hand.lab.freeze("kube-controller-manager")
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match="no notice"):
            hand.provider.reboot(name, [])
    assert "deletionTimestamp" not in hand.pod(name)["metadata"]
    hand.lab.thaw("kube-controller-manager")
    uid = hand.pod(name)["metadata"]["uid"]
    try_until(hand.provider.reboot, name, [])
    end = time.monotonic() + 30
    while [pod["metadata"]["uid"] for pod in hand.pods(name)] in ([], [uid]):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "/work/data/" not in str(hand.pod(name)["spec"]["containers"][0]["volumeMounts"])


#: the change that a part of the cluster fails before: of those that make two or more it is the second
CHANGE = {"create": 2, "start": 2, "stop": 1, "reboot": 1, "delete": 1}
#: the suite has two of them; the long proof all
FAILURES = [
    pytest.param(component, how, verb, marks=() if (how, verb) == ("kill", "create") and quick else pytest.mark.slow)
    for component, quick in zip(COMPONENTS[:4], (True, False, True, False), strict=True)
    for how in ("kill", "freeze")
    for verb in CHANGE
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("component", "how", "verb"), FAILURES)
def test_a_component_that_fails_in_the_middle_of_a_verb_loses_and_doubles_nothing(
    component, how, verb, hand, monkeypatch
):
    monkeypatch.setattr(client, "READ", 15.0)  # impatient with the verb alone
    wanted, cluster = prepared_for(verb, hand), hand.provider.cluster
    send, changes = cluster._send, []

    def fail_in_the_middle(client, method, path, *rest):
        if method != "GET" and "selfsubject" not in path:
            changes.append(method)
            if len(changes) == CHANGE[verb]:
                getattr(hand.lab, how)(component)
        return send(client, method, path, *rest)

    call, given = getattr(hand.provider, verb), wanted if verb == "create" else wanted.name
    with monkeypatch.context() as failing:
        failing.setattr(client, "READ", 1.0)
        failing.setattr(cluster, "_send", fail_in_the_middle)
        with contextlib.suppress(ProviderUnavailable):
            call(given)
    hand.lab.heal()
    assert len(changes) >= CHANGE[verb]
    if verb != "reboot":  # which nobody asks for twice
        try_until(call, given)
    # the garbage collector takes a minute to see that the API server is back
    hand.until(wanted.name, ENDS.get(verb, Phase.RUNNING), seconds=150)
    ours = [one for one in hand.admin.find(SETS)["items"] if wanted.instance in str(one["metadata"]["labels"])]
    assert len(ours) == (0 if verb == "delete" else 1)
    assert len(hand.pods(wanted.name)) == (0 if verb in ENDS else 1)
