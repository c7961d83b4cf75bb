"""A real Kubernetes on this machine, in a folder of its own; level a: etcd, API server, controllers, scheduler, kwok.

Real are the API, its rights, admission, quotas, scheduling and controllers; pods only claim to run (kwok.py). Nothing
leaves loopback. The manifests of deploy/kubernetes are what the portal's account gets, exactly.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from instances.providers.base import ProviderError
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.errors import Exists, NotThere
from instances.providers.kubernetes.site import Site
from tests.labs.kubernetes import commands, kwok
from tests.labs.kubernetes.pki import Pki
from tests.labs.kubernetes.processes import Daemon
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes"
#: of the portal in the lab
NAMESPACE, ACCOUNT = "beamport", "beamport"
ACCOUNT_NAME = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
#: in the order in which they start
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kwok-solo")
NODES = ("fake-1", "fake-2")
#: a node with a kwok of its own (`freeze("kwok-solo")` loses it) that takes only what tolerates this
SOLO, TAINT = "fake-solo", "lab/solo"
#: the class of shared volumes
SHARED = "lab-shared"
_PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "ResourceQuota": "/api/v1/namespaces/{namespace}/resourcequotas",
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "PersistentVolume": "/api/v1/persistentvolumes",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims",
    "PriorityLevelConfiguration": "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
    "FlowSchema": "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
}

Object = dict[str, Any]


@dataclass(frozen=True)
class Account:
    """The portal's way into one namespace."""

    namespace: str
    namespace_uid: str
    kubeconfig: Path


class Lab:
    """Use as a context: up at its beginning, gone with all its files at its end."""

    components: tuple[str, ...] = COMPONENTS
    nodes: tuple[str, ...] = (*NODES, SOLO)
    #: the component that makes nodes ready
    ready_by = "kwok"

    def __init__(self, programs: Path, place: Path = Path("/var/tmp")) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="bpkl-", dir=place))
        self.logs = self.folder / "log"
        self.logs.mkdir()
        self.ports = dict(zip(commands.PORTS, free_ports(len(commands.PORTS)), strict=True))
        self.server = f"https://127.0.0.1:{self.ports['api']}"
        self.pki = Pki(self.folder / "pki", self.server)
        self.daemons: dict[str, Daemon] = {}

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    # ---- up and away ----
    def up(self) -> None:
        self.pki.kubeconfig("admin", group="system:masters")
        lines = self._lines()
        self.daemons = {name: Daemon(name, lines[name], self.logs) for name in self.components}
        self.daemons["etcd"].start()
        self.start("kube-apiserver")
        for name in COMPONENTS[2:4]:
            self.daemons[name].start()
        self._seed()
        self._start_nodes()
        for name in self.nodes:
            self.daemons[self.ready_by].wait_until(lambda name=name: self._node_is_ready(name))

    def _lines(self) -> dict[str, list[str]]:
        return commands.lines(self.programs, self.folder, self.ports, self.pki, ACCOUNT_NAME)

    def _start_nodes(self) -> None:
        for name in COMPONENTS[4:]:
            self.daemons[name].start()
        for name in NODES:
            self._add_node(kwok.node(name, "pool", gpus=2 if name == NODES[-1] else 0))
        self.add_solo()

    def remove(self) -> None:
        """Stop all that runs, clients first, and delete every file."""
        with ThreadPoolExecutor(len(self.components)) as pool:
            list(pool.map(lambda name: self._stop(name), self.components[2:]))
        for name in ("kube-apiserver", "etcd"):
            self._stop(name)
        for path in self._volumes:
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self, name: str) -> None:
        if name == "kube-apiserver" and name in self.daemons and self.daemons[name].is_alive:
            self._note_volumes()
        if name in self.daemons:
            self.daemons[name].stop()

    def start(self, name: str) -> None:
        """Start a component that was killed, and wait until it serves."""
        daemon = self.daemons[name]
        daemon.start()
        if name == "kube-apiserver":
            daemon.wait_until(self._api_answers)
        elif name == "etcd":
            daemon.wait_until(lambda: _is_open(self.ports["etcd"]))

    def freeze(self, name: str) -> None:
        self.daemons[name].freeze()

    def thaw(self, name: str) -> None:
        self.daemons[name].thaw()

    def kill(self, name: str) -> None:
        self.daemons[name].kill()

    def heal(self) -> None:
        """Bring back all that was frozen or killed."""
        for name in self.components:
            self.daemons[name].thaw()
            self.start(name)

    # ---- clients ----
    @cached_property
    def admin(self) -> Cluster:
        """The administrator's client, for the portal's namespace by its own paths and for all else by `ask`."""
        return self.in_namespace(NAMESPACE)

    def in_namespace(self, namespace: str) -> Cluster:
        path = self.pki.folder / "admin.conf"
        return Cluster(Site(deployment="administrator", namespace=namespace, kubeconfig=str(path)))

    def apply(self, found: Object, namespace: str = "") -> Object:
        """Make an object as the administrator; one that is there is left as it is."""
        path = _PATHS[found["kind"]].format(namespace=namespace)
        try:
            return self.admin.ask("POST", path, body=found)
        except Exists:
            return self.admin.ask("GET", f"{path}/{found['metadata']['name']}")

    def drop(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object as the administrator."""
        try:
            self.admin.ask("DELETE", f"{_PATHS[kind].format(namespace=namespace)}/{name}", body={})
        except NotThere:
            return

    # ---- namespaces ----
    def namespace(self, name: str = "", *, quota: Object | None = None) -> Account:
        """Make a namespace as deploy/kubernetes says, with a quota of its own, and return the portal's way into it."""
        name = name or f"lab-{uuid.uuid4().hex[:8]}"
        for found in self.manifests:
            if found["kind"] != "ResourceQuota":
                self.apply(_moved(found, name), name)
        if quota:
            self.apply({"kind": "ResourceQuota", "metadata": {"name": "lab"}, "spec": {"hard": quota}}, name)
        self._wait_for_accounts(name)
        uid = self.in_namespace(name).namespace_uid()
        return Account(name, uid, self.token(name))

    def token(self, namespace: str, server: str = "") -> Path:
        """Return a kubeconfig with a fresh token of the portal's account, valid for an hour."""
        path = f"{_PATHS['ServiceAccount'].format(namespace=namespace)}/{ACCOUNT}/token"
        answer = self.admin.ask("POST", path, body={"spec": {"expirationSeconds": 3600}})
        account = {"token": answer["status"]["token"]}
        name = f"portal-{namespace}" + (f"-{server.rpartition(':')[2]}" if server else "")
        return self.pki.write_config(name, account, server=server, namespace=namespace)

    @cached_property
    def manifests(self) -> list[Object]:
        """What `kubectl apply -k deploy/kubernetes` would apply."""
        argv = [str(self.programs / "kubectl"), "kustomize", str(MANIFESTS)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        return list(yaml.safe_load_all(done.stdout))

    def shelve(self, count: int) -> None:
        """Put volumes on the shelf that many pods may mount at a time: the lab's own provisioner makes none."""
        for _ in range(count):
            name = uuid.uuid4().hex
            folder = self.folder / "shared" / name
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            volume = {
                "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                "capacity": {"storage": "10Gi"},
                "storageClassName": SHARED,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder)},
            }
            self.apply({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume})

    def _wait_for_accounts(self, namespace: str) -> None:
        """A pod needs the namespace's default account, which a controller makes."""
        path = f"{_PATHS['ServiceAccount'].format(namespace=namespace)}/default"
        self.daemons["kube-controller-manager"].wait_until(lambda: _answers(lambda: self.admin.ask("GET", path)))

    # ---- what is in it from the beginning ----
    def _seed(self) -> None:
        classes = {"disk": "kubernetes.io/host-path", "never": "lab/nobody"}
        for name, provisioner in classes.items():
            default = {"storageclass.kubernetes.io/is-default-class": "true"} if name == "disk" else {}
            body = {"kind": "StorageClass", "metadata": {"name": f"lab-{name}", "annotations": default}}
            self.apply(body | {"provisioner": provisioner, "reclaimPolicy": "Delete"})
        by_hand = {"kind": "StorageClass", "metadata": {"name": SHARED}}
        self.apply(by_hand | {"provisioner": "kubernetes.io/no-provisioner"})

    def add_solo(self) -> None:
        """Make the node again that a test has deleted."""
        self._add_node(kwok.node(SOLO, "solo", taint=TAINT))

    def add_spare(self, name: str) -> None:
        """Make a node that takes what `SOLO` takes and does not go down with it, and wait until pods may come."""
        node = kwok.node(name, "pool", taint=TAINT)
        node["metadata"]["labels"]["lab/pool"] = "solo"
        self._add_node(node)
        self.daemons["kwok"].wait_until(lambda: self._node_is_ready(name))

    def _add_node(self, node: Object) -> None:
        self.apply(node)
        name = node["metadata"]["name"]
        self.admin.ask("PATCH", f"/api/v1/nodes/{name}/status", body={"status": node["status"]})

    def _node_is_ready(self, name: str) -> bool:
        """Ask whether pods may come: the controllers' own taints go some seconds after it says that it is ready."""
        try:
            node = self.admin.ask("GET", f"/api/v1/nodes/{name}")
        except NotThere:
            return False  # it has not come yet
        tainted = any(one["key"].startswith("node.kubernetes.io/") for one in node["spec"].get("taints", ()))
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ()))
        return ready and not tainted

    def _api_answers(self) -> bool:
        """Ask whether it is ready: before, its own roles may not be there, and the controllers would end."""
        context = ssl.create_default_context(cafile=str(self.pki.root))
        context.load_cert_chain(*(str(self.pki.folder / f"admin.{end}") for end in ("crt", "key")))
        try:
            with urllib.request.urlopen(f"{self.server}/readyz", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    # ---- volumes: the controller-manager's own provisioner makes folders outside ours ----
    @cached_property
    def _volumes(self) -> set[Path]:
        return set()

    def _note_volumes(self) -> None:
        try:
            found = self.admin.ask("GET", "/api/v1/persistentvolumes")["items"]
        except ProviderError:
            return
        paths = [Path(one["spec"]["hostPath"]["path"]) for one in found if "hostPath" in one["spec"]]
        self._volumes.update(path for path in paths if path.parent == Path("/tmp/hostpath_pv"))


def _moved(found: Object, namespace: str) -> Object:
    """Return a manifest for another namespace, as an overlay would."""
    text = json.dumps(found).replace(f'"namespace": "{NAMESPACE}"', f'"namespace": "{namespace}"')
    moved: Object = json.loads(text)
    if namespace == NAMESPACE:
        return moved
    if found["kind"] == "Namespace":
        moved["metadata"]["name"] = namespace
    if found["kind"].startswith("ClusterRole"):
        moved["metadata"]["name"] += f"-{namespace}"
    if found["kind"] == "ClusterRole":
        moved["rules"][0]["resourceNames"] = [namespace]
    if found["kind"] == "ClusterRoleBinding":
        moved["roleRef"]["name"] += f"-{namespace}"
    return moved


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ProviderError:
        return False
    return True


def _is_open(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0
