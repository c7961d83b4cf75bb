"""The command lines of level a. What a real node needs besides (level b) is a module like this one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.labs.kubernetes import kwok
from tests.labs.kubernetes.pki import Pki

PORTS = ("api", "etcd", "peer", "controller", "scheduler", "kwok", "kwok-solo")
_LOCAL = "http://127.0.0.1"


def lines(programs: Path, folder: Path, ports: dict[str, int], pki: Pki, audited: str) -> dict[str, list[str]]:
    """Return the command line of each component; the API server writes down every call of the account `audited`."""
    flags = {
        "etcd": _etcd(folder, ports),
        "kube-apiserver": _api_server(folder, ports, pki, audited),
        "kube-controller-manager": _controllers(ports, pki),
        "kube-scheduler": _scheduler(folder, ports, pki),
        "kwok": _kwok(folder, ports, pki, "kwok", "pool"),
        "kwok-solo": _kwok(folder, ports, pki, "kwok-solo", "solo"),
    }
    return {
        name: [str(programs / name.removesuffix("-solo")), *(f"--{flag}={value}" for flag, value in given.items())]
        for name, given in flags.items()
    }


def _etcd(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    """A test's etcd: what a power cut would lose is of no use anyway."""
    return {
        "name": "lab",
        "data-dir": str(folder / "etcd"),
        "unsafe-no-fsync": "true",
        "listen-client-urls": f"{_LOCAL}:{ports['etcd']}",
        "advertise-client-urls": f"{_LOCAL}:{ports['etcd']}",
        "listen-peer-urls": f"{_LOCAL}:{ports['peer']}",
        "initial-advertise-peer-urls": f"{_LOCAL}:{ports['peer']}",
        "initial-cluster": f"lab={_LOCAL}:{ports['peer']}",
        "log-level": "warn",
    }


def _api_server(folder: Path, ports: dict[str, int], pki: Pki, audited: str) -> dict[str, str]:
    certificate, key = pki.certificate("server", user="kube-apiserver")
    public, private = pki.key_pair("accounts")
    rules = [{"level": "Metadata", "users": [audited]}, {"level": "None"}]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    (folder / "audit.json").write_text(json.dumps(policy))
    return {
        "etcd-servers": f"{_LOCAL}:{ports['etcd']}",
        "bind-address": "127.0.0.1",
        "advertise-address": "127.0.0.1",
        "secure-port": str(ports["api"]),
        "endpoint-reconciler-type": "none",
        "service-cluster-ip-range": "10.223.0.0/20",
        "authorization-mode": "Node,RBAC",
        "anonymous-auth": "false",
        "client-ca-file": str(pki.root),
        "tls-cert-file": str(certificate),
        "tls-private-key-file": str(key),
        "service-account-issuer": pki.server,
        "service-account-key-file": str(public),
        "service-account-signing-key-file": str(private),
        "audit-policy-file": str(folder / "audit.json"),
        "audit-log-path": str(folder / "log" / "audit.log"),
        "profiling": "false",
        # how long pods stay on a node that is silent; a real cluster's five minutes are too long for a test
        "default-not-ready-toleration-seconds": "20",
        "default-unreachable-toleration-seconds": "20",
    }


def _controllers(ports: dict[str, int], pki: Pki) -> dict[str, str]:
    config = pki.kubeconfig("controllers", user="system:kube-controller-manager")
    return _as(config, ports["controller"]) | {
        "kubeconfig": str(config),
        "leader-elect": "false",
        # without it the controllers lack their own roles
        "use-service-account-credentials": "true",
        "service-account-private-key-file": str(pki.folder / "accounts.key"),
        "root-ca-file": str(pki.root),
        "enable-hostpath-provisioner": "true",
        "node-monitor-period": "1s",
        # as in a real cluster: on a machine with much other work kwok may come late by some seconds
        "node-monitor-grace-period": "40s",
        "kube-api-qps": "1000",
        "kube-api-burst": "2000",
        "pvclaimbinder-sync-period": "5s",
        "profiling": "false",
    }


def _scheduler(folder: Path, ports: dict[str, int], pki: Pki) -> dict[str, str]:
    account = pki.kubeconfig("scheduler", user="system:kube-scheduler")
    config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(account), "qps": 1000, "burst": 2000},
        "leaderElection": {"leaderElect": False},
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 1,
    }
    file = folder / "scheduler.json"
    file.write_text(json.dumps(config))
    return _as(account, ports["scheduler"]) | {"config": str(file)}


def _as(config: Path, port: int) -> dict[str, str]:
    return {
        "authentication-kubeconfig": str(config),
        "authorization-kubeconfig": str(config),
        "bind-address": "127.0.0.1",
        "secure-port": str(port),
    }


def _kwok(folder: Path, ports: dict[str, int], pki: Pki, name: str, pool: str) -> dict[str, str]:
    account = pki.kubeconfig(name, group="system:masters")
    file = folder / f"{name}.yaml"
    file.write_text(kwok.config(pool, ports[name]))
    return {"kubeconfig": str(account), "config": str(file)}
