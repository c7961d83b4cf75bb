"""What calls an operator: each thing that only people can mend is an error in a worker's log, with its name."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest

from instances.lifecycle import Phase
from instances.providers.base import ProviderUnavailable, Rejected
from instances.providers.kubernetes import KubernetesProvider, client, provider, rights
from tests.providers.kubernetes.apiserver import serving
from tests.providers.kubernetes.objects import DEPLOYMENT, NAME, machine, pod

RULES = [
    {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}
    for right in (*rights.REQUIRED, rights.NAMESPACE)
]


class Answers:
    """A cluster in which all is well, until a test changes one of its answers: (status, object) by the path's end."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[int, Any]] = {
            "selfsubjectrulesreviews": (201, {"status": {"resourceRules": RULES}}),
            "namespaces/beamport": (200, {"metadata": {"uid": "n-1"}}),
            f"statefulsets/{NAME}": (200, machine()),
            f"pods/{NAME}-0": (200, pod(ready=True)),
            "events": (200, {"items": []}),
        }

    def __call__(self, method: str, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        status, said = next(answer for end, answer in self.said.items() if path.endswith(end))
        return status, json.dumps(said).encode()


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def cloud(answers, tmp_path):
    with serving(answers, tmp_path) as (_, cluster):
        options = {"deployment": DEPLOYMENT, "namespace": "beamport", "namespace_uid": "n-1"}
        yield KubernetesProvider({**options, "kubeconfig": cluster.site.kubeconfig})


@pytest.fixture
def alarms(monkeypatch):
    """The text of each error in the log, with what it names."""
    error = Mock()
    for module in (client, provider):
        monkeypatch.setattr(module.log, "error", error)
    return lambda: [(call.args[0], call.kwargs) for call in error.call_args_list]


def test_where_all_is_well_nobody_is_called(cloud, alarms):
    assert cloud.look(NAME).phase is Phase.RUNNING
    assert alarms() == []


def test_a_right_that_is_missing_is_named_when_the_provider_begins(cloud, answers, alarms):
    less = [rule for rule in RULES if rule["verbs"] != ["watch"]]
    answers.said["selfsubjectrulesreviews"] = (201, {"status": {"resourceRules": less}})
    for _ in range(2):
        cloud.look(NAME)
    assert [(text, named["right"]) for text, named in alarms()] == [
        ("a right is missing", "watch statefulsets.apps"),
        ("a right is missing", "watch pods"),
    ]


def test_another_namespace_of_the_name(cloud, answers, alarms):
    answers.said["namespaces/beamport"] = (200, {"metadata": {"uid": "n-2"}})
    with pytest.raises(ProviderUnavailable):
        cloud.look(NAME)
    assert [(text, named["found"]) for text, named in alarms()] == [("another namespace", "n-2")]


@pytest.mark.parametrize("status", [401, 403])
def test_an_account_that_is_not_let_in(status, cloud, answers, alarms):
    answers.said[f"statefulsets/{NAME}"] = (status, {"kind": "Status", "message": "no"})
    with pytest.raises(ProviderUnavailable):
        cloud.look(NAME)
    assert [text for text, _ in alarms()] == ["not let in"]


def test_another_deployments_machine(cloud, answers, alarms):
    found = machine()
    found["metadata"]["labels"]["beamport/deployment"] = "another"
    answers.said[f"statefulsets/{NAME}"] = (200, found)
    with pytest.raises(Rejected):
        cloud.stop(NAME)
    assert [text for text, _ in alarms()] == ["another deployment's machine"]


def test_a_pod_that_its_machine_has_let_go(cloud, answers, alarms):
    answers.said[f"pods/{NAME}-0"] = (200, pod(ready=True, metadata={"ownerReferences": []}))
    assert cloud.look(NAME).endpoints == ()
    assert [(text, named["pod"]) for text, named in alarms()] == [("a pod that nobody owns", f"{NAME}-0")]
