"""The gateway in the cluster, as deploy/kubernetes/gateway has it: taken by the API server, let in, without rights."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from instances.providers.base import ProviderError
from instances.providers.kubernetes import manifests
from tests.gateway.authority import Authority
from tests.labs.kubernetes.cluster import ROOT, Lab
from tests.ports import free_port
from tests.providers.kubernetes.objects import site
from tests.providers.kubernetes.test_manifests import SPEC

pytestmark = pytest.mark.kubernetes

DEPLOY = ROOT / "deploy" / "kubernetes"
NAMESPACE = "beamport-gateway"
KINDS = {
    "ServiceAccount": "/api/v1/namespaces/{0}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{0}/configmaps",
    "Service": "/api/v1/namespaces/{0}/services",
    "Deployment": "/apis/apps/v1/namespaces/{0}/deployments",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{0}/networkpolicies",
}


def kustomized(lab: Lab, folder: str) -> list[dict[str, Any]]:
    argv = [str(lab.programs / "kubectl"), "kustomize", str(DEPLOY / folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(done.stdout))


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [one] = [one for one in found if one["kind"] == kind]
    return one


def dry_run(lab: Lab, path: str, body: dict[str, Any]) -> None:
    """Have the API server and its admission look at an object, and keep nothing."""
    lab.admin.ask("POST", path, {"dryRun": "All", "fieldValidation": "Strict"}, body=body)


@pytest.fixture(scope="module")
def gateway(lab: Lab) -> list[dict[str, Any]]:
    """The manifests; their namespace is there, as every dry run needs it."""
    found = kustomized(lab, "gateway")
    lab.apply(of_kind(found, "Namespace"))
    lab._wait_for_accounts(NAMESPACE)
    return found


def pod(gateway: list[dict[str, Any]]) -> dict[str, Any]:
    template = copy.deepcopy(of_kind(gateway, "Deployment")["spec"]["template"])
    template["spec"]["serviceAccountName"] = "default"  # its own is not there in a dry run
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": "one"}}


@pytest.mark.parametrize("folder", ["gateway", "gateway-nodeport"])
def test_the_api_server_takes_each_of_them(lab, gateway, folder):
    others = [one for one in kustomized(lab, folder) if one["kind"] != "Namespace"]
    assert sorted({one["kind"] for one in others}) == sorted(KINDS), "no Role, no binding: it has no rights"
    for one in others:
        assert one["metadata"]["namespace"] == NAMESPACE
        dry_run(lab, KINDS[one["kind"]].format(NAMESPACE), one)


def test_its_pod_is_restricted(lab, gateway):
    dry_run(lab, f"/api/v1/namespaces/{NAMESPACE}/pods", pod(gateway))
    loose = pod(gateway)
    del loose["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(ProviderError, match="violates PodSecurity"):
        dry_run(lab, f"/api/v1/namespaces/{NAMESPACE}/pods", loose)


def test_it_gets_no_token_of_the_cluster_and_its_secrets_are_files(gateway):
    template = of_kind(gateway, "Deployment")["spec"]["template"]["spec"]
    assert template["automountServiceAccountToken"] is False
    assert of_kind(gateway, "ServiceAccount")["automountServiceAccountToken"] is False
    named = {entry["name"] for entry in template["containers"][0]["env"]}
    assert {"GATEWAY_TOKEN_FILE", "INSTANCE_KEY_FILE"} <= named
    assert not {"GATEWAY_TOKEN", "INSTANCE_KEY"} & (named | set(of_kind(gateway, "ConfigMap")["data"]))
    assert [volume["secret"]["defaultMode"] for volume in template["volumes"]] == [0o440, 0o440]


def test_each_policy_names_the_other_side_as_it_is(lab, gateway):
    [instances] = [one for one in lab.manifests if one["kind"] == "NetworkPolicy"]
    [ingress] = instances["spec"]["ingress"]
    [source] = ingress["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    labels = of_kind(gateway, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= labels.items()
    way = of_kind(gateway, "NetworkPolicy")["spec"]["egress"][0]["to"][0]
    assert way["podSelector"]["matchLabels"].items() <= manifests.labels(site()).items()
    assert way["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": instances["metadata"]["namespace"]
    }
    offered = {port["name"] for port in manifests.pod_spec(wrapped(), site())["containers"][0]["ports"]}
    assert {port["port"] for port in ingress["ports"]} == offered


def wrapped() -> Any:
    """A machine with an agent."""
    return replace(SPEC, mounts=(), image=replace(SPEC.image, options={"command": ["lab"]}))


def copied(target: Path) -> None:
    """Lay out what the Containerfile copies, and nothing else."""
    for line in (ROOT / "deploy" / "images" / "gateway" / "Containerfile").read_text().splitlines():
        word, *paths = line.split() or [""]
        if word == "COPY" and paths[-1].startswith("/opt/beamport/"):
            *sources, place = paths
            to = target / place.removeprefix("/opt/beamport/")
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    to.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, to)


def test_what_its_image_holds_suffices_to_start_it(gateway, tmp_path):
    """With the manifests' own variables, files in the modes that they have there, and no portal."""
    copied(tmp_path / "code")
    port = free_port()
    settings = of_kind(gateway, "ConfigMap")["data"]
    container = of_kind(gateway, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    pair = Authority(tmp_path).pair("portal.example.org", "*.apps-example.org", file="tls")
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    files = {"GATEWAY_TLS_CERT_FILE": pair.certificate, "GATEWAY_TLS_KEY_FILE": pair.key}
    for name in ("GATEWAY_TOKEN_FILE", "INSTANCE_KEY_FILE"):
        files[name] = tmp_path / name.lower()
        files[name].write_text(f"{name}-of-the-manifests-of-the-tests")
        files[name].chmod(0o440)
    assert files.keys() <= given.keys()
    given |= {name: str(path) for name, path in files.items()} | {"GATEWAY_LISTEN": f"127.0.0.1:{port}"}
    process = subprocess.Popen(
        [sys.executable, *container["command"][1:]],
        cwd=tmp_path / "code",
        env={"PATH": os.environ["PATH"], **settings, **given},
        stderr=(tmp_path / "log").open("wb"),
    )
    try:
        end = time.monotonic() + 30
        while "gateway listens" not in (said := (tmp_path / "log").read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
