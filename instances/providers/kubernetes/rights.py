"""The rights that the portal's account needs in its namespace, and which of them are not there.

deploy/kubernetes/role.yaml grants exactly REQUIRED; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Right:
    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


def _rights(group: str, resources: str, verbs: str) -> list[Right]:
    return [Right(group, resource, verb) for resource in resources.split() for verb in verbs.split()]


REQUIRED = (
    *_rights("apps", "statefulsets", "create get list watch patch delete"),
    *_rights("", "pods", "get list watch delete"),
    *_rights("", "persistentvolumeclaims", "create get list delete"),
    *_rights("", "secrets", "create delete"),
    *_rights("", "events resourcequotas", "list"),
    *_rights("", "pods/log", "get"),
)
#: by a ClusterRole: without the first nothing is ever concluded to be gone, without the second capacity is a guess
NAMESPACE, NODES = Right("", "namespaces", "get"), Right("", "nodes", "list")
#: by a ClusterRole, for an import of what the cluster offers and nothing else
CLASSES = Right("storage.k8s.io", "storageclasses", "list")
#: what would let somebody who takes the portal over read every session's token, or enter every session
FORBIDDEN = (
    *_rights("", "secrets", "get list watch"),
    *_rights("", "pods/exec pods/attach pods/portforward", "create get"),
    *_rights("", "pods/ephemeralcontainers", "patch update"),
)


def granted(right: Right, rules: Iterable[Mapping[str, Any]], namespace: str = "") -> bool:
    """Whether one of the rules of a SelfSubjectRulesReview gives a right."""
    return any(
        _has(rule.get("verbs"), right.verb)
        and _has(rule.get("apiGroups"), right.group)
        and _has_resource(rule.get("resources"), right.resource)
        and (not rule.get("resourceNames") or namespace in rule["resourceNames"])
        for rule in rules
    )


def missing(rules: Sequence[Mapping[str, Any]], namespace: str) -> list[Right]:
    """Return the rights without which the provider cannot work."""
    required = [right for right in REQUIRED if not granted(right, rules)]
    return required + ([] if granted(NAMESPACE, rules, namespace) else [NAMESPACE])


def excessive(rules: Sequence[Mapping[str, Any]]) -> list[Right]:
    """Return the rights that the account should not have."""
    return [right for right in FORBIDDEN if granted(right, rules)]


def _has(given: list[str] | None, wanted: str) -> bool:
    return any(one in ("*", wanted) for one in given or ())


def _has_resource(given: list[str] | None, wanted: str) -> bool:
    return _has(given, wanted) or ("/" in wanted and f"*/{wanted.partition('/')[2]}" in (given or ()))
