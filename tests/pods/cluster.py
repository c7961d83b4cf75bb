"""The portal's row for the lab's cluster, as an operator would make it: run by `manage.py shell` of the portal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from instances.providers.kubernetes import build as images
from tests.browser.conftest import Running
from tests.labs.kubernetes.cluster import SHARED, Account, Lab
from tests.portals import ROOT, environment

PROVIDER, CLAIM = "cluster", "open-data"
#: of sessions: nobody's on this machine, and not the image's own
UID, GID = 45678, 4567
_ROW = """
import json, os
from instances.models import Flavour, Image, Plan, Provider

given = json.loads(os.environ["CLUSTER_ROW"])
local = Provider.objects.get(name="local")
row = Provider.objects.create(
    name=given["name"], kind="kubernetes", facility=local.facility, options=given["options"])
theirs = Image.objects.get(provider=local)
image = Image.objects.create(
    provider=row, name=theirs.name, reference=given["image"], services=theirs.services,
    options={"command": given["command"]})
for plan in Plan.objects.filter(image=theirs):
    here = plan.flavour
    plan.image, plan.flavour = image, Flavour.objects.create(
        provider=row, name=here.name, cores=here.cores, memory=here.memory, disk=2**30)
    plan.save()
"""


def add_row(running: Running, lab: Lab, account: Account, image: str) -> None:
    """Have the portal offer the cluster in its own host's place; the account is the restricted one."""
    lay_data(lab, account.namespace, running.data)
    options = {
        "kubeconfig": str(_key(running.state, account)),
        "namespace": account.namespace,
        "home_class": SHARED,
        "scratch_class": "lab-disk",
        "data": [{"prefix": str(running.data), "claim": CLAIM}],
        "uid": UID,
        "gid": GID,
    }
    command = images.CONFIG["Cmd"]  # named, so that the agent runs it
    given = json.dumps({"name": PROVIDER, "options": options, "image": image, "command": command})
    manage(running, "shell", "-c", _ROW, CLUSTER_ROW=given)
    manage(running, "check_provider", PROVIDER, "--confirm")


def manage(running: Running, *words: str, **variables: str) -> str:
    """Run a command of the portal as its operator."""
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=environment(running.state, running.port, PORTAL_URL=running.url, **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _key(state: Path, account: Account) -> Path:
    """Lay the kubeconfig where the portal's person alone reads it, with the authority's certificate beside it."""
    owner = (state / "run" / "back").stat()
    config: dict[str, Any] = json.loads(account.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    root = state / "cluster-root.crt"
    root.write_bytes(Path(cluster["certificate-authority"]).read_bytes())
    cluster["certificate-authority"] = str(root)
    path = state / "cluster.conf"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    for file in (root, path):
        os.chown(file, owner.st_uid, owner.st_gid)
    return path


def lay_data(lab: Lab, namespace: str, data: Path, name: str = CLAIM) -> None:
    """Make the operator's volume of the data, and the claim that instances mount it by."""
    spec: dict[str, Any] = {"accessModes": ["ReadOnlyMany"], "storageClassName": "operators"}
    volume = {"capacity": {"storage": "1Ti"}, "hostPath": {"path": str(data), "type": "Directory"}}
    lab.apply({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec | volume})
    wanted = {"resources": {"requests": {"storage": "1Ti"}}, "volumeName": name}
    lab.apply({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec | wanted}, namespace)
