"""NetworkPolicy in nftables: what the lab enforces is what the manifest says."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.labs.kubernetes.cluster import MANIFESTS
from tests.labs.kubernetes.policy import ruleset

OURS = {"app.kubernetes.io/managed-by": "beamport"}
SPACES = [
    {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}
    for name in ("beamport", "beamport-gateway", "kube-system")
]


def pod(name: str, namespace: str, address: str, labels: dict[str, str], **more: Any) -> dict[str, Any]:
    containers = [{"ports": [{"name": "jupyter", "containerPort": 8888}]}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "real-1", "containers": containers} | more,
        "status": {"podIP": address, "phase": "Running"},
    }


INSTANCE = pod("bp-1", "beamport", "10.224.0.2", OURS)
GATEWAY = pod("gateway", "beamport-gateway", "10.224.0.3", {"app.kubernetes.io/name": "beamport-gateway"})
STRANGER = pod("stranger", "beamport", "10.224.0.4", {})


def policy() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / "network-policy.yaml").read_text())
    found["metadata"]["namespace"] = "beamport"
    return found


def chain(text: str, name: str) -> list[str]:
    match = re.search(rf"chain {name} {{\n(.*?)\n}}", text, re.S)
    return match[1].split("\n") if match else []


def test_an_instance_is_entered_by_the_gateways_pods_and_leaves_for_the_internet() -> None:
    text = ruleset([INSTANCE, GATEWAY, STRANGER], [policy()], SPACES, "real-1")
    assert chain(text, "ingress_10_224_0_2") == ["ip saddr { 10.224.0.3 } tcp dport { 8888 } return", "drop"]
    out = chain(text, "egress_10_224_0_2")
    assert len(out) == 2
    assert out[0].startswith("ip daddr { 0.0.0.0/0 } ip daddr != { 10.0.0.0/8, ")
    assert out[1] == "drop"
    assert "ip daddr 10.224.0.2 jump ingress_10_224_0_2" in chain(text, "forward")
    assert chain(text, "input")[-1] == "ip saddr 10.224.0.2 jump egress_10_224_0_2"


def test_a_pod_that_no_policy_means_is_left_alone() -> None:
    text = ruleset([GATEWAY, STRANGER], [policy()], SPACES, "real-1")
    assert "drop" not in re.sub(r".*ipv6 drop", "", text)


def test_selectors_ports_and_exceptions() -> None:
    found = policy()
    wanted = {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["data"]}]}
    found["spec"] = {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": wanted}], "ports": [{"port": 80, "endPort": 90}, {"protocol": "UDP"}]}],
    }
    data = pod("data", "beamport", "10.224.0.9", {"tier": "data"})
    ended = pod("ended", "beamport", "10.224.0.10", {"tier": "data"})
    ended["status"]["phase"] = "Succeeded"
    text = ruleset([INSTANCE, data, ended], [found], SPACES, "real-1")
    assert chain(text, "egress_10_224_0_2") == [
        "ip daddr { 10.224.0.9 } tcp dport { 80-90 } return",
        "ip daddr { 10.224.0.9 } meta l4proto udp return",
        "drop",
    ]
    assert chain(text, "ingress_10_224_0_2") == []
