"""The rights that are asked for are those that deploy/kubernetes grants, and each one that is taken away is named."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from instances.providers.kubernetes.rights import NAMESPACE, NODES, REQUIRED, Right, excessive, granted, missing

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"


def rules_in(file: str) -> list[dict]:
    found = yaml.safe_load_all((FOLDER / file).read_text())
    return next(one["rules"] for one in found if one["kind"] in ("Role", "ClusterRole"))


ROLE, LOOK = rules_in("role.yaml"), rules_in("cluster-role.yaml")


def rights_of(rules: list[dict]) -> set[Right]:
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_role_grants_exactly_what_is_required():
    assert rights_of(ROLE) == set(REQUIRED)
    assert rights_of(LOOK) == {NAMESPACE, NODES}


def test_with_the_role_nothing_is_missing_and_nothing_too_much():
    assert missing(ROLE + LOOK, "beamport") == []
    assert excessive(ROLE + LOOK) == []


@pytest.mark.parametrize("right", [*REQUIRED, NAMESPACE], ids=str)
def test_a_right_that_was_taken_away_is_named(right):
    rules = deepcopy(ROLE + LOOK)
    for rule in rules:
        if right.group in rule["apiGroups"] and right.resource in rule["resources"]:
            if len(rule["resources"]) > 1:
                rule["resources"].remove(right.resource)
            else:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb != right.verb]
    assert missing(rules, "beamport") == [right]


def test_the_look_at_another_namespace_is_not_ours():
    assert missing(ROLE + LOOK, "elsewhere") == [NAMESPACE]


@pytest.mark.parametrize("rule", [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])
def test_an_administrators_account_is_said_to_be_too_much(rule):
    assert missing([rule], "beamport") == []
    assert {str(right) for right in excessive([rule])} >= {
        *("get secrets", "create pods/exec", "get pods/attach", "create pods/portforward"),
        "patch pods/ephemeralcontainers",
    }


def test_a_rule_for_a_subresource_is_no_rule_for_its_resource():
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}
    assert granted(Right("", "pods/log", "get"), [rule])
    assert not granted(Right("", "pods", "get"), [rule])
