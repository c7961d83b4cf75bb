"""Level b: command lines and files of a real node: containerd with runc, a kubelet, and a network for its pods.

It lives in a room (room.py), so its paths, its bridge and its addresses are nobody else's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.labs.kubernetes.pki import Pki

NAME = "real-1"
PORTS = ("kubelet", "kubelet-health")
#: of the pods' network, where the node is too
RANGE, ADDRESS, BRIDGE = "10.224.0.0/16", "10.224.0.1", "pods0"
PAUSE = "localhost/beamport/pause:1"
#: Debian's packages runc and containernetworking-plugins
RUNC, PLUGINS = Path("/usr/sbin/runc"), Path("/usr/lib/cni")
#: where the controllers' own provisioner makes volumes
VOLUMES = Path("/tmp/hostpath_pv")

#: kernel settings of the whole machine that a kubelet wants otherwise; it gets files in their place, seen by it alone
TUNABLES = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
#: $1 a folder, then the command; whatever it mounts elsewhere is everybody's
_KEEP_KERNEL = f"""
folder=$1; shift
mkdir "$folder"
mount --make-rprivate /proc
for name in {" ".join(TUNABLES)}; do
    copy="$folder/$(echo $name | tr / _)"
    cat /proc/sys/$name >"$copy"
    mount --bind "$copy" /proc/sys/$name
done
exec "$@"
"""

_UNUSED = (
    *("io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"),
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "zfs", "devmapper", "erofs", "blockfile")),
)


def lines(programs: dict[str, Path], folder: Path, ports: dict[str, int], pki: Pki, group: str) -> dict[str, list[str]]:
    """Return the command line of each component of the node, in the order in which they start."""
    VOLUMES.mkdir(mode=0o755, exist_ok=True)
    return {
        "containerd": [str(programs["containerd"]), "--config", str(_containerd(programs, folder))],
        "network-policy": _ours("policy", str(pki.kubeconfig("network-policy", group="system:masters")), NAME),
        "volumes": _ours("volumes", str(VOLUMES)),
        "kubelet": _kubelet(programs, folder, ports, pki, group),
    }


def socket(folder: Path) -> Path:
    return folder / "containerd.sock"


def for_api_server(pki: Pki) -> list[str]:
    """Return what lets the API server reach the kubelet: for logs."""
    certificate, key = pki.certificate("kubelet-client", group="system:masters")
    flags = {
        "kubelet-client-certificate": certificate,
        "kubelet-client-key": key,
        "kubelet-certificate-authority": pki.root,
        "kubelet-preferred-address-types": "InternalIP",
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def _ours(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.labs.kubernetes.{module}", *arguments]


def _containerd(programs: dict[str, Path], folder: Path) -> Path:
    """Write containerd's file: cgroupfs, no AppArmor, and scores as they are where one may not lower them."""
    (folder / "cni").mkdir()
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(_network(folder)))
    runc = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc"
    text = f"""version = 3
root = "{folder}/containerd"
state = "{folder}/containerd-run"
disabled_plugins = {json.dumps(_UNUSED)}
[grpc]
  address = "{socket(folder)}"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
  disable_apparmor = true
  disable_hugetlb_controller = true
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{PLUGINS}"]
    conf_dir = "{folder}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [{runc}]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = "{programs["containerd-shim-runc-v2"]}"
      [{runc}.options]
        BinaryName = "{RUNC}"
        SystemdCgroup = false
"""
    file = folder / "containerd.toml"
    file.write_text(text)
    return file


def _network(folder: Path) -> dict[str, object]:
    """Pods on one bridge with the node, which is their way to everything else: there is nothing else in the room."""
    addresses = {
        "type": "host-local",
        "dataDir": str(folder / "addresses"),
        "ranges": [[{"subnet": RANGE, "gateway": ADDRESS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}


def _kubelet(programs: dict[str, Path], folder: Path, ports: dict[str, int], pki: Pki, group: str) -> list[str]:
    account = pki.kubeconfig("kubelet", group="system:nodes", user=f"system:node:{NAME}")
    certificate, key = pki.certificate("kubelet-server", user=f"system:node:{NAME}")
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "port": ports["kubelet"],
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": ports["kubelet-health"],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.root)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{socket(folder)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": ["pods"],
        "maxPods": 30,
        "podPidsLimit": 512,
        "resolvConf": "",
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi"},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(folder / "log" / "pods"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "kubeReserved": {"memory": "1Gi"},
    }
    file = folder / "kubelet.json"
    file.write_text(json.dumps(config))
    flags = {
        "config": file,
        "kubeconfig": account,
        "root-dir": folder / "kubelet",
        "cert-dir": pki.folder,
        "hostname-override": NAME,
        "node-ip": ADDRESS,
    }
    apart = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", _KEEP_KERNEL, "kubelet"]
    command = [str(programs["kubelet"]), *(f"--{name}={value}" for name, value in flags.items())]
    return [*apart, str(folder / "kernel"), *command]
