"""`manage.py check_provider` tries a cluster out: what it finds, what it says of what it cannot see, what it leaves."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from instances.providers.base import Finding, ImageSpec, ProviderError, Rejected
from instances.providers.kubernetes import KubernetesProvider, trial
from instances.providers.kubernetes.trial import Trial
from tests.portals import until
from tests.ports import free_ports
from tests.providers.kubernetes.conftest import options_of
from tests.providers.kubernetes.faults import raises_in_time

pytestmark = pytest.mark.kubernetes
KINDS = ("statefulsets", "pods", "persistentvolumeclaims", "secrets")


@pytest.fixture
def provider(prepared) -> Iterator[KubernetesProvider]:
    """A deployment of its own: its trials are told apart."""
    made = KubernetesProvider(options_of(prepared))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LOOK", 1.0)


def trial_of(provider: KubernetesProvider, spec: Any) -> Trial:
    return Trial(provider.cluster, provider._post_secret, spec)


def left(lab: Any) -> list[str]:
    found = (one["metadata"]["name"] for kind in KINDS for one in lab.admin.find(kind)["items"])
    return [name for name in found if "trial" in name]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_cluster_that_is_well_and_what_cannot_be_seen_in_it(provider, lab, make_spec):
    """Pods of this lab only claim to run: nothing can be read of them, and so network policy is not passed."""
    findings = by_name(list(trial_of(provider, make_spec()).run()))
    assert {what: finding.good for what, finding in findings.items()} == {
        "image and start": True,
        "storage of a disk": True,
        "storage of a home": True,
        "network policy": None,
    }
    assert "ran" in findings["image and start"].text
    assert "not seen" in findings["network policy"].text
    assert findings["network policy"].keep == {}, "what is known stands"
    assert left(lab) == []


def test_what_a_trial_makes_is_no_instance(provider, lab, make_spec):
    running = trial_of(provider, make_spec()).run()
    next(running)
    [made] = [one for one in lab.admin.find("statefulsets")["items"] if "trial" in one["metadata"]["name"]]
    assert made["metadata"]["labels"]["beamport/deployment"] == provider.site.tag
    assert list(provider.observe()) == []
    assert not provider.sets.snapshot()
    running.close()
    assert left(lab) == []


def test_what_a_killed_trial_has_left_goes_with_the_next(provider, prepared, lab, make_spec):
    killed = trial_of(provider, make_spec()).run()
    next(killed)
    others = KubernetesProvider(options_of(prepared))
    assert trial_of(others, make_spec()).clear() == [], "another deployment's stays"
    others.close()
    assert left(lab)
    again = trial_of(provider, make_spec())
    first = next(again.run())
    assert (first.what, first.good) == ("clean-up", True)
    again.clear()
    assert left(lab) == []
    killed.close()


def test_a_trial_that_is_broken_off_leaves_nothing(provider, lab, make_spec, monkeypatch):
    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    one = trial_of(provider, make_spec())
    monkeypatch.setattr(one, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(one.run())
    assert left(lab) == []


def test_what_goes_before_it_is_removed_is_no_error(provider, lab, make_spec, monkeypatch):
    """A claim is listed, goes by itself, and is then asked to go."""
    delete, late = provider.cluster.delete, []

    def deleted_before(kind: str, name: str, *given: str) -> Any:
        delete(kind, name, *given)
        until(lambda: all(one["metadata"]["name"] != name for one in lab.admin.find(kind)["items"]))
        late.append(name)
        return delete(kind, name, *given)

    monkeypatch.setattr(provider.cluster, "delete", deleted_before)
    assert list(trial_of(provider, make_spec()).run())
    assert late
    assert left(lab) == []


def test_an_image_that_is_not_there_is_said(provider, lab, make_spec, monkeypatch):
    monkeypatch.setattr(trial, "START", 6.0)
    wanted = replace(make_spec(), image=ImageSpec("x", "lab/pull:1"))
    findings = by_name(list(trial_of(provider, wanted).run()))
    assert findings["image and start"].good is False
    assert "Failed to pull image" in findings["image and start"].text
    assert findings["network policy"].good is None
    assert left(lab) == []


def test_a_class_that_makes_no_volumes_is_said(prepared, lab, make_spec, monkeypatch):
    monkeypatch.setattr(trial, "START", 3.0)
    provider = KubernetesProvider(options_of(prepared, home_class="lab-never"))
    findings = by_name(list(trial_of(provider, make_spec()).run()))
    assert findings["storage of a home"].good is False
    assert "lab-never" in findings["storage of a home"].text
    assert findings["image and start"].good is False
    assert left(lab) == []
    provider.close()


def test_without_rights_nothing_is_passed(lab, make_spec, monkeypatch):
    monkeypatch.setattr(trial, "START", 3.0)
    account = lab.namespace()
    lab.drop("RoleBinding", "beamport", account.namespace)
    provider = KubernetesProvider(options_of(account))
    refused = raises_in_time(ProviderError, lambda: list(trial_of(provider, make_spec()).run()))
    assert "cannot" in str(refused)
    provider.close()


# ---- the second pod's word ----
@pytest.mark.parametrize(
    ("said", "good", "keep"),
    [
        ("beamport-trial []", True, {"isolation": "seen"}),
        ('beamport-trial ["another pod"]', False, {"isolation": ""}),
        ("beamport-trial {", None, {}),
        ('beamport-trial {"a": 1}', None, {}),
        ("", None, {}),
    ],
)
def test_what_the_second_pod_says_is_the_finding(provider, make_spec, monkeypatch, said, good, keep):
    monkeypatch.setattr(provider.cluster, "log", lambda pod, **query: f"starting\n{said}\n")
    finding = by_name(list(trial_of(provider, make_spec()).run()))["network policy"]
    assert (finding.good, finding.keep) == (good, keep)
    assert ("another pod. Either" in finding.text) is (good is False)


def test_the_second_pod_tells_what_it_reaches():
    """The program itself, on this machine: with a place that is open and one that is not."""
    [own, closed] = free_ports(2)
    program = trial._LOOKS.replace("sleep(3)", "sleep(0)").replace("sleep(600)", "sleep(0)")
    with socket.create_server(("127.0.0.1", 0)) as open_one:
        places = f'{{"open": ["127.0.0.1", {open_one.getsockname()[1]}], "closed": ["127.0.0.1", {closed}]}}'
        argv = [sys.executable, "-I", "-c", program, str(own), places]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=50, env={})
    assert done.stdout == 'beamport-trial ["open"]\n'


def test_what_is_reached_late_counts_and_what_was_closed_since_does_not():
    """A network that needs a moment is no policy; a policy that needs a moment is one."""
    [late, own] = free_ports(2)
    program = trial._LOOKS.replace("sleep(3)", "sleep(0.5)").replace("sleep(600)", "sleep(0)")
    with socket.create_server(("127.0.0.1", 0)) as early:
        places = f'{{"early": ["127.0.0.1", {early.getsockname()[1]}], "late": ["127.0.0.1", {late}]}}'
        argv = [sys.executable, "-I", "-c", program, str(own), places]
        looking = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={})
        early.accept()[0].close()
    with socket.create_server(("127.0.0.1", late)):
        assert looking.communicate(timeout=50)[0] == 'beamport-trial ["late"]\n'


# ---- production ----
def test_outside_the_demo_nothing_is_made_where_isolation_was_not_seen(prepared, make_spec, settings):
    from instances import clouds
    from tests.factories.instances import ProviderFactory

    row = ProviderFactory.build(kind="kubernetes", options=options_of(prepared))
    settings.DEMO = False
    assert clouds.options_of(row)["production"] is True
    unseen = KubernetesProvider(options_of(prepared, production=True))
    with pytest.raises(Rejected, match="check_provider"):
        unseen.create(make_spec())
    for word in ("seen", "assured"):
        KubernetesProvider(options_of(prepared, production=True, isolation=word))._see_that_it_is_isolated()
    with pytest.raises(ProviderError, match="isolation"):
        KubernetesProvider(options_of(prepared, isolation="yes"))
