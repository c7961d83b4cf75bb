"""Enforces NetworkPolicy on the lab's real node: `python -m tests.labs.kubernetes.policy KUBECONFIG NODE`.

A site's network plug-in does this; none is to be had as a Go module of its own. It shows that our manifest says what we
mean, not that a site's plug-in obeys it. Namespaces, pods, address blocks with exceptions, ports by number, range and
name are translated to nftables, anew within a third of a second of a change. The node itself reaches its pods, as in
every cluster (its kubelet probes them). There is no IPv6 between pods.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from instances.providers.base import ProviderError
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.site import Site

TABLE = "pods-policy"
#: direction → the address of the other side, the key of its rules, and of our side
_WAYS = {"Ingress": ("saddr", "from", "daddr"), "Egress": ("daddr", "to", "saddr")}
_ANYWHERE = ["0.0.0.0/0"]

Object = dict[str, Any]


def ruleset(pods: list[Object], policies: list[Object], spaces: list[Object], node: str) -> str:
    """Return the nftables that let the node's pods have what the policies say, and no more; pure."""
    alive = [pod for pod in pods if pod["status"].get("podIP") and pod["status"].get("phase") in ("Pending", "Running")]
    labels = {space["metadata"]["name"]: _labels(space) for space in spaces}
    chains: list[str] = []
    jumps: dict[str, list[str]] = {"Ingress": [], "Egress": []}
    for pod in alive:
        if pod["spec"].get("nodeName") != node or pod["spec"].get("hostNetwork"):
            continue
        for way, (_, _, ours) in _WAYS.items():
            mine = [policy for policy in policies if _is_for(policy, pod, way)]
            if not mine:
                continue
            address = pod["status"]["podIP"]
            name = f"{way.lower()}_{address.replace('.', '_')}"
            allowed = [line for policy in mine for line in _allowed(policy, pod, way, alive, labels)]
            chains.append("\n".join([f"chain {name} {{", *allowed, "drop", "}"]))
            jumps[way].append(f"ip {ours} {address} jump {name}")
    known = "ct state established,related accept"
    forward = [known, "meta nfproto ipv6 drop", *jumps["Egress"], *jumps["Ingress"]]
    to_node = [known, 'iifname != "lo" meta nfproto ipv6 drop', *jumps["Egress"]]
    return "\n".join(
        [
            f"table inet {TABLE} {{",
            *chains,
            "\n".join(["chain forward {", "type filter hook forward priority -5;", *forward, "}"]),
            "\n".join(["chain input {", "type filter hook input priority -5;", *to_node, "}"]),
            "}\n",
        ]
    )


def _is_for(policy: Object, pod: Object, way: str) -> bool:
    spec = policy["spec"]
    return (
        policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and way in spec.get("policyTypes", ["Ingress"])
        and _matches(spec.get("podSelector", {}), _labels(pod))
    )


def _allowed(
    policy: Object, pod: Object, way: str, pods: list[Object], spaces: dict[str, dict[str, str]]
) -> Iterator[str]:
    """Yield a rule for each pair of peer and port that the policy allows."""
    other, key, _ = _WAYS[way]
    for rule in policy["spec"].get(way.lower()) or []:
        peers = rule.get(key) or [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
        for peer in peers:
            yes, no = _addresses(peer, policy["metadata"]["namespace"], pods, spaces)
            if not yes:
                continue
            where = f"ip {other} {{ {', '.join(yes)} }}" + (f" ip {other} != {{ {', '.join(no)} }}" if no else "")
            # a named port is the receiver's, which is ours only on the way in
            for port in _ports(rule.get("ports"), [pod] if way == "Ingress" else pods):
                yield f"{where} {port} return"


def _addresses(
    peer: Object, namespace: str, pods: list[Object], spaces: dict[str, dict[str, str]]
) -> tuple[list[str], list[str]]:
    """Return the addresses that a peer means, and those that it leaves out."""
    if block := peer.get("ipBlock"):
        return [block["cidr"]], list(block.get("except", ()))
    meant = {namespace}
    if "namespaceSelector" in peer:
        meant = {name for name, labels in spaces.items() if _matches(peer["namespaceSelector"], labels)}
    found = [pod for pod in pods if pod["metadata"]["namespace"] in meant]
    return [pod["status"]["podIP"] for pod in found if _matches(peer.get("podSelector", {}), _labels(pod))], []


def _ports(given: list[Object] | None, receivers: list[Object]) -> Iterator[str]:
    if not given:
        yield ""
    for one in given or ():
        protocol = one.get("protocol", "TCP").lower()
        if "port" not in one:
            yield f"meta l4proto {protocol}"
            continue
        numbers = sorted(_numbers(one["port"], receivers))
        if numbers:
            ranges = [f"{number}-{one['endPort']}" if "endPort" in one else str(number) for number in numbers]
            yield f"{protocol} dport {{ {', '.join(ranges)} }}"


def _numbers(port: int | str, receivers: list[Object]) -> set[int]:
    if isinstance(port, int):
        return {port}
    containers = [container for pod in receivers for container in pod["spec"]["containers"]]
    return {one["containerPort"] for each in containers for one in each.get("ports", ()) if one.get("name") == port}


_OPERATORS = {
    "In": lambda labels, one: labels.get(one["key"]) in one["values"],
    "NotIn": lambda labels, one: labels.get(one["key"]) not in one["values"],
    "Exists": lambda labels, one: one["key"] in labels,
    "DoesNotExist": lambda labels, one: one["key"] not in labels,
}


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    exact: Iterable[tuple[str, str]] = selector.get("matchLabels", {}).items()
    wanted = selector.get("matchExpressions", ())
    return all(labels.get(key) == value for key, value in exact) and all(
        _OPERATORS[one["operator"]](labels, one) for one in wanted
    )


def _labels(found: Object) -> dict[str, str]:
    return dict(found["metadata"].get("labels") or {})


def main(kubeconfig: str, node: str) -> None:
    cluster = Cluster(Site(deployment="network-policy", namespace="default", kubeconfig=kubeconfig))
    paths = ("/api/v1/pods", "/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/namespaces")
    applied = ""
    while True:
        try:
            pods, policies, spaces = (cluster.ask("GET", path)["items"] for path in paths)
            wanted = ruleset(pods, policies, spaces, node)
            if wanted != applied:
                text = f"add table inet {TABLE}\ndelete table inet {TABLE}\n{wanted}"
                subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
                applied = wanted
                print(f"{time.strftime('%T')} {wanted.count(' jump ')} pods and ways", flush=True)
        except (ProviderError, subprocess.CalledProcessError) as error:
            print(f"{time.strftime('%T')} {error}", flush=True)
        time.sleep(0.3)


if __name__ == "__main__":
    main(*sys.argv[1:])
