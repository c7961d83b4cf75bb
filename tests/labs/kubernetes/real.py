"""The lab with a real node, level b: a `Lab` with more components, inside a room (room.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from instances.providers.base import ProviderError, Spec
from instances.providers.kubernetes import manifests
from instances.providers.kubernetes.build import PATH, pack
from tests.labs.kubernetes import node, room
from tests.labs.kubernetes.cluster import COMPONENTS, NAMESPACE, Lab, Object
from tests.labs.kubernetes.processes import DidNotStart
from tests.ports import free_ports

_NETWORK = {"net/ipv4/ip_forward": 1, "net/bridge/bridge-nf-call-iptables": 1, "net/bridge/bridge-nf-call-ip6tables": 1}


class RealLab(Lab):
    """Pods are containers here; the only node is real. Its files go with the room."""

    components = (*COMPONENTS[:4], "containerd", "network-policy", "volumes", "kubelet")
    nodes = (node.NAME,)
    ready_by = "kubelet"

    def __init__(self, programs: dict[str, Path]) -> None:
        place, self.group = os.environ.get(room.FOLDER), os.environ.get(room.GROUP)
        if not place or not self.group:
            raise DidNotStart("a real node is started in a room only: make test-pods")
        self.made = programs
        super().__init__(programs["etcd"].parent, Path(place))
        self.folder.chmod(0o711)
        self.ports |= dict(zip(node.PORTS, free_ports(len(node.PORTS)), strict=True))

    def _lines(self) -> dict[str, list[str]]:
        given = super()._lines()
        given["kube-apiserver"] += node.for_api_server(self.pki)
        return given | node.lines(self.made, self.folder, self.ports, self.pki, self.group or "")

    def _start_nodes(self) -> None:
        _lay_network()
        # images in memory (1.4 GB while one is loaded): thousands of small files, made and deleted at once
        store = self.folder / "containerd"
        store.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=700", "images", str(store)], check=True)
        self.daemons["containerd"].start()
        self.daemons["containerd"].wait_until(lambda: self._ctr("version") is not None)
        pause = self.folder / "pause"
        pause.mkdir()
        shutil.copy(self.made["pause"], pause / "pause")
        archive = self.folder / "pause.tar"
        pack(pause, archive, node.PAUSE, {"Entrypoint": ["/pause"], "Env": [f"PATH={PATH}"]})
        self.load(archive)
        for name in ("network-policy", "volumes", "kubelet"):
            self.daemons[name].start()

    def load(self, archive: Path) -> None:
        """Give the node an image."""
        if self._ctr("images", "import", "--local", "--discard-unpacked-layers", str(archive)) is None:
            raise DidNotStart(f"{archive.name} is no image: {self.daemons['containerd'].log}")

    def _ctr(self, *words: str) -> str | None:
        argv = [str(self.made["ctr"]), "--address", str(node.socket(self.folder)), "--namespace", "k8s.io", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
        return done.stdout if done.returncode == 0 else None

    def remove(self) -> None:
        """End the daemons; pods, mounts and files end with the room, files last: some of them are mounts of others."""
        for name in reversed(self.components):
            self._stop(name)

    def pod(self, namespace: str, name: str) -> Object:
        """Return a pod as it is now; empty when there is none."""
        try:
            return self.admin.ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        except ProviderError:
            return {}

    def address(self, spec: Spec) -> str:
        """Return where a machine's pod is."""
        return str(self.pod(NAMESPACE, manifests.pod(spec.name))["status"]["podIP"])

    def run(self, spec: Spec, *argv: str) -> str:
        """Run a command in a machine and return all it says; empty while there is none to run it in."""
        words = ["exec", manifests.pod(spec.name), "--container", manifests.MAIN, "--", *argv]
        return self._kubectl(NAMESPACE, *words).stdout

    def log(self, namespace: str, name: str) -> str:
        """Return what a pod has printed."""
        return self._kubectl(namespace, "logs", name).stdout

    def _kubectl(self, namespace: str, *words: str) -> subprocess.CompletedProcess[str]:
        config = self.pki.folder / "admin.conf"
        argv = [str(self.made["kubectl"]), f"--kubeconfig={config}", f"--namespace={namespace}", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=300)


def _lay_network() -> None:
    """Make the bridge that the kubelet listens on; the CNI plug-in hangs the pods on it."""
    for name, value in _NETWORK.items():
        path = Path("/proc/sys") / name
        if not path.exists():
            raise DidNotStart(f"this kernel has no {name}: no policy could be kept between pods of one bridge")
        path.write_text(str(value))
    for words in (
        ("link", "add", node.BRIDGE, "type", "bridge"),
        ("address", "add", f"{node.ADDRESS}/16", "dev", node.BRIDGE),
        ("link", "set", node.BRIDGE, "up"),
    ):
        subprocess.run(["ip", *words], check=True)
