"""docs/operate/kubernetes.md, command by command against the lab: from a namespace to a first pod and a gateway."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from instances import clouds
from instances.lifecycle import Phase
from instances.providers.base import ImageSpec
from instances.providers.kubernetes import trial
from tests.factories.instances import FlavourFactory, ImageFactory, PlanFactory, ProviderFactory
from tests.gateway.authority import Authority
from tests.labs.kubernetes.cluster import NAMESPACE, ROOT, SHARED, Lab
from tests.providers.contract import plain_spec
from tests.providers.kubernetes.test_contract import until
from tests.providers.kubernetes.test_gateway_manifests import KINDS

pytestmark = [pytest.mark.kubernetes, pytest.mark.django_db(transaction=True)]

PAGE = (ROOT / "docs" / "operate" / "kubernetes.md").read_text()
COMMANDS = [line.strip() for line in re.findall(r"^ {7}((?:kubectl|manage\.py|uv) .*)$", PAGE, re.M)]
GATEWAY = "beamport-gateway"


class Operator:
    """Who follows the page, with kubectl as the administrator, in a folder with the files that it names."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.done: list[str] = []
        (folder / "deploy").symlink_to(ROOT / "deploy")
        for name in ("gateway_token", "instance_key"):
            (folder / name).write_text(f"{name} of the page's tests, long enough to be one")
        pair = Authority(folder).pair("portal.example.org", "*.apps-example.org", file="tls")
        pair.certificate.rename(folder / "tls.crt")
        pair.key.rename(folder / "tls.key")

    def kubectl(self, beginning: str) -> str:
        """Run the page's one command that begins so."""
        exactly = [one for one in COMMANDS if one == f"kubectl {beginning}"]
        [command] = exactly or [one for one in COMMANDS if one.startswith(f"kubectl {beginning}")]
        self.done.append(command)
        argv = [str(self.lab.programs / "kubectl"), *shlex.split(command)[1:]]
        config = {"KUBECONFIG": str(self.lab.pki.folder / "admin.conf"), "HOME": str(self.folder)}
        run = subprocess.run(
            argv, cwd=self.folder, env=os.environ | config, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, f"{command}\n{run.stderr}"
        return run.stdout

    def manage(self, command: str) -> str:
        assert command in COMMANDS
        self.done.append(command)
        out = StringIO()
        try:
            call_command(*shlex.split(command)[1:], stdout=out)
        except CommandError as error:
            return f"{out.getvalue()}{error}\n"
        return out.getvalue()


@pytest.fixture
def operator(lab, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "LOOK", 1.0)
    yield Operator(lab, tmp_path)
    lab.drop("ResourceQuota", "beamport", NAMESPACE)
    for path in KINDS.values():
        for one in lab.admin.ask("GET", path.format(GATEWAY))["items"]:
            if one["metadata"]["name"].startswith(GATEWAY):
                lab.admin.ask("DELETE", f"{path.format(GATEWAY)}/{one['metadata']['name']}", body={})


def test_from_a_namespace_to_a_first_pod_and_a_gateway(operator, lab, tmp_path):
    operator.kubectl("apply -k deploy/kubernetes")
    token = operator.kubectl("-n beamport create token").strip()
    listed = operator.kubectl("auth can-i --list")
    assert "statefulsets.apps" in listed
    assert "pods/exec" not in listed
    assert (ROOT / "requirements" / "kubernetes.txt").read_text().count("--hash=")
    config = lab.pki.write_config("page", {"token": token}, namespace=NAMESPACE)

    [options] = re.findall(r'^ {7}(\{"kubeconfig".*?\})$', PAGE, re.M | re.S)
    here = {"kubeconfig": str(config), "home_class": SHARED, "scratch_class": "lab-disk"}
    row = ProviderFactory(name="CLUSTER", kind="kubernetes", options=json.loads(options) | here)
    assert "nothing to mend" in operator.manage("manage.py check_provider CLUSTER --confirm --only-look")

    services = [{"name": "jupyter", "port": 8888}]
    image = ImageFactory(provider=row, reference="lab/jupyter:1", options={"command": ["lab"]}, services=services)
    PlanFactory(image=image, flavour=FlavourFactory(provider=row))
    said = operator.manage("manage.py check_provider CLUSTER")
    assert "+ storage of a home" in said
    assert "+ image and start" in said
    assert "? network policy" in said, "what pods that only claim to run cannot show is not passed"
    assert "0 to mend, 1 not seen" in said

    row.refresh_from_db()
    cloud = clouds.cloud_of(row)
    wanted = plain_spec(deployment=cloud.site.deployment, image=ImageSpec("x", "lab/jupyter:1", {"command": ["lab"]}))
    cloud.create(wanted)
    until(lambda: cloud.look(wanted.name).phase is Phase.RUNNING)
    cloud.delete(wanted.name)
    cloud.close()

    operator.kubectl("apply -f deploy/kubernetes/gateway/namespace.yaml")
    lab._wait_for_accounts(GATEWAY)
    operator.kubectl("-n beamport-gateway create secret generic")
    operator.kubectl("-n beamport-gateway create secret tls")
    operator.kubectl("apply -k deploy/kubernetes/gateway")
    path = f"/apis/apps/v1/namespaces/{GATEWAY}/deployments/{GATEWAY}"
    until(lambda: lab.admin.ask("GET", path)["status"].get("readyReplicas") == 2)
    assert {command.split()[0] for command in COMMANDS if command not in operator.done} == {"uv"}
