"""docs/operate/kubernetes.md, command by command against the lab: from a namespace to a first pod and a gateway."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from instances import clouds, services, transitions
from instances.lifecycle import State
from instances.models import Plan, Provider
from instances.providers.kubernetes import trial
from tests.factories.auth import UserFactory
from tests.factories.experiments import ExperimentFactory
from tests.gateway.authority import Authority
from tests.labs.kubernetes.cluster import NAMESPACE, ROOT, SHARED, Lab
from tests.providers.kubernetes.test_contract import reach, until
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

    def adapt(self, name: str, changes: dict[str, str]) -> None:
        """Copy the example of the page and put the site's own words into it."""
        text = (ROOT / "deploy" / "kubernetes" / "offer.toml").read_text()
        for example, ours in changes.items():
            assert text.count(example) == 1
            text = text.replace(example, ours)
        (self.folder / name).write_text(text)

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
    monkeypatch.chdir(tmp_path)
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

    operator.adapt(
        "cluster.toml",
        {
            "/etc/beamport/cluster.conf": str(config),
            '"cephfs"': f'"{SHARED}"',
            '"ceph-rbd"': '"lab-disk"',
            "registry.example.org/beamport/jupyter:1.0": "lab/jupyter:1",
        },
    )
    assert "8 would change" in operator.manage("manage.py offer cluster.toml --dry-run")
    assert not Provider.objects.exists()
    assert "check_provider cluster --confirm" in operator.manage("manage.py offer cluster.toml")
    assert "nothing to mend" in operator.manage("manage.py check_provider cluster --confirm --only-look")
    assert "nothing to change" in operator.manage("manage.py offer cluster.toml"), "what was confirmed is kept"

    said = operator.manage("manage.py check_provider cluster")
    assert "+ storage of a home" in said
    assert "+ image and start" in said
    assert "? network policy" in said, "what pods that only claim to run cannot show is not passed"
    assert "0 to mend, 1 not seen" in said

    row, alice, experiment = Provider.objects.get(), UserFactory(), ExperimentFactory(pid="", proposal__opened=True)
    plan = Plan.objects.get(slug="cluster-small")
    instance = services.request_instance(alice, plan=plan, experiments=[experiment.uid], name="analysis")
    reach(instance, State.STARTING)
    assert transitions.mark_ready(instance.uid) is transitions.Marked.DONE
    reach(instance, State.ACTIVE)
    services.delete(instance, by=alice)
    reach(instance, State.DELETED)
    clouds.drop(row)

    operator.kubectl("apply -f deploy/kubernetes/gateway/namespace.yaml")
    lab._wait_for_accounts(GATEWAY)
    operator.kubectl("-n beamport-gateway create secret generic")
    operator.kubectl("-n beamport-gateway create secret tls")
    operator.kubectl("apply -k deploy/kubernetes/gateway")
    path = f"/apis/apps/v1/namespaces/{GATEWAY}/deployments/{GATEWAY}"
    until(lambda: lab.admin.ask("GET", path)["status"].get("readyReplicas") == 2)
    assert {command.split()[0] for command in COMMANDS if command not in operator.done} == {"uv"}
