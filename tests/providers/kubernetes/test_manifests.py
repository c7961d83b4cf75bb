"""What is sent to the API server, whole: a field that comes or goes is seen here first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from instances.providers.base import (
    FlavourSpec,
    Home,
    ImageMissing,
    ImageSpec,
    Mount,
    MountKind,
    MountMissing,
    PosixId,
    Rejected,
    Service,
    Spec,
)
from instances.providers.kubernetes import manifests
from instances.providers.kubernetes.options import OPTIONS, READERS
from instances.providers.kubernetes.site import BadOptions, Site, site_of
from tests.providers.kubernetes.objects import DEPLOYMENT, INSTANCE, NAME, site

AGENT = Path(__file__).resolve().parents[3] / "deploy" / "images" / "agent" / "agent.py"
DIGEST = "registry.example/jupyter@sha256:" + "ab" * 32
OURS = {"app.kubernetes.io/managed-by": "beamport", "beamport/deployment": DEPLOYMENT}
TAGS = {**OURS, "beamport/instance": INSTANCE, "beamport/machine": NAME}
DATA = {"prefix": "/gpfs/open", "claim": "open-data", "path": "exfel"}

SPEC = Spec(
    name=NAME,
    deployment=DEPLOYMENT,
    instance=INSTANCE,
    attempt=1,
    image=ImageSpec("JupyterLab", DIGEST),
    flavour=FlavourSpec("small", 1.5, 2**31, 5 * 2**30),
    services=(Service("jupyter", 8888, "/api/status"),),
    mounts=(
        Mount(MountKind.DATA, "/gpfs/open/p900/r0001", "/work/data/p900/r0001"),
        Mount(MountKind.HOME, "ada-x", "/work/home", read_only=False),
    ),
    home=Home("ada-x", 10 * 2**30),
    identity=PosixId(54321, 54300, (7, 8)),
    network="none",
    secret_epoch=3,
    host="k2.apps.example",
    welcome={"Welcome.ipynb": "{}"},
)


def test_the_statefulset():
    options = {
        "data": [DATA],
        "scratch_class": "fast",
        "node_selector": {"pool": "analysis"},
        "tolerations": [{"key": "analysis", "operator": "Exists"}],
        "pull_secrets": ["registry"],
        "priority_class": "interactive",
        "user_namespaces": True,
    }
    size = {"cpu": "1500m", "memory": "2147483648", "ephemeral-storage": "2147483648"}
    made = manifests.statefulset(SPEC, site(**options))
    assert manifests.unpack(made["metadata"]["annotations"].pop("beamport/welcome")) == {"Welcome.ipynb": "{}"}
    assert made == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": NAME,
            "labels": {**TAGS, "beamport/home": "ada-x"},
            "annotations": {"beamport/secret-epoch": "3", "beamport/services": '[["jupyter", 8888]]'},
        },
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"beamport/machine": NAME}},
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 1,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
            "template": {
                "metadata": {"labels": TAGS},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 30,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 54321,
                        "runAsGroup": 54300,
                        "fsGroup": 54300,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "supplementalGroups": [7, 8],
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "main",
                            "image": DIGEST,
                            "imagePullPolicy": "IfNotPresent",
                            "workingDir": "/work",
                            "env": [
                                {"name": "HOME", "value": "/work/home"},
                                {"name": "BEAMPORT_HOST", "value": "k2.apps.example"},
                                {"name": "BEAMPORT_INSTANCE", "value": INSTANCE},
                                {
                                    "name": "JUPYTER_TOKEN",
                                    "valueFrom": {"secretKeyRef": {"name": NAME, "key": "jupyter"}},
                                },
                            ],
                            "ports": [{"name": "jupyter", "containerPort": 8888}],
                            "resources": {"requests": size, "limits": size},
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                                "readOnlyRootFilesystem": True,
                            },
                            "startupProbe": {"tcpSocket": {"port": 8888}, "periodSeconds": 1, "failureThreshold": 120},
                            "readinessProbe": {"tcpSocket": {"port": 8888}, "periodSeconds": 5},
                            "volumeMounts": [
                                {"name": "scratch", "mountPath": "/work"},
                                {"name": "tmp", "mountPath": "/tmp"},
                                {"name": "home", "mountPath": "/work/home"},
                                {"name": "welcome", "mountPath": "/opt/welcome", "readOnly": True},
                                {
                                    "name": "data-0",
                                    "mountPath": "/work/data/p900/r0001",
                                    "readOnly": True,
                                    "subPath": "exfel/p900/r0001",
                                },
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "tmp", "emptyDir": {"sizeLimit": "1073741824"}},
                        {"name": "home", "persistentVolumeClaim": {"claimName": "bp-home-ada-x"}},
                        {
                            "name": "welcome",
                            "secret": {
                                "secretName": NAME,
                                "items": [{"key": "welcome-0", "path": "Welcome.ipynb"}],
                                "optional": True,
                            },
                        },
                        {"name": "data-0", "persistentVolumeClaim": {"claimName": "open-data", "readOnly": True}},
                    ],
                    "nodeSelector": {"pool": "analysis"},
                    "tolerations": [{"key": "analysis", "operator": "Exists"}],
                    "imagePullSecrets": [{"name": "registry"}],
                    "priorityClassName": "interactive",
                    "hostUsers": False,
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "scratch", "labels": TAGS},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "5368709120"}},
                        "storageClassName": "fast",
                    },
                }
            ],
        },
    }


def test_the_home_belongs_to_nobody():
    assert manifests.claim(Home("ada-x", 5), site(home_class="shared", home_access="ReadWriteOncePod")) == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "bp-home-ada-x", "labels": {**OURS, "beamport/home": "ada-x"}},
        "spec": {
            "accessModes": ["ReadWriteOncePod"],
            "resources": {"requests": {"storage": "5"}},
            "storageClassName": "shared",
        },
    }


def test_the_secret_goes_with_the_machine():
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": NAME, "uid": "u-1", "blockOwnerDeletion": True}
    assert manifests.secret(NAME, "u-1", {"jupyter": "t"}, {"b": "2", "a": "1"}, site()) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "labels": {**OURS, "beamport/machine": NAME}, "ownerReferences": [owner]},
        "type": "Opaque",
        "immutable": True,
        "stringData": {"jupyter": "t", "welcome-0": "1", "welcome-1": "2"},
    }


def test_a_gpu_is_asked_for_by_its_kind():
    spec = replace(SPEC, mounts=(), flavour=FlavourSpec("gpu", 4, 2**34, 0, gpus=2, gpu_kind="mi300"))
    made = manifests.statefulset(spec, site(gpu_resources={"mi300": "amd.com/gpu", "": "nvidia.com/gpu"}))
    resources = made["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["amd.com/gpu"] == resources["limits"]["amd.com/gpu"] == "2"


def test_an_image_may_name_its_command_and_environment():
    options = {"command": ["lab"], "args": ["--port=8888"], "environment": {"HOME": "/", "A": 1}, "agent": False}
    image = ImageSpec("x", DIGEST, options)
    main = manifests.statefulset(replace(SPEC, mounts=(), image=image), site())["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert (main["command"], main["args"]) == (["lab"], ["--port=8888"])
    assert {"name": "A", "value": "1"} in main["env"]
    assert [one["value"] for one in main["env"] if one["name"] == "HOME"] == ["/work/home"]


def test_an_image_may_go_to_nodes_that_others_may_not_take():
    gpus = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ours = {"key": "analysis", "operator": "Exists"}
    placing = {"node_selector": {"gpu": "a100"}, "tolerations": [gpus], "priority_class": "batch"}
    assert OPTIONS.image(placing) == placing  # and an operator's file may say so
    where = site(node_selector={"pool": "analysis"}, tolerations=[ours], priority_class="interactive")
    asked = [replace(SPEC, mounts=(), image=ImageSpec("x", DIGEST, options)) for options in (placing, {})]
    first, second = (manifests.pod_spec(spec, where) for spec in asked)
    assert (first["nodeSelector"], first["tolerations"]) == ({"pool": "analysis", "gpu": "a100"}, [ours, gpus])
    assert (second["nodeSelector"], second["tolerations"]) == ({"pool": "analysis"}, [ours])
    assert (first["priorityClassName"], second["priorityClassName"]) == ("batch", "interactive")


def test_the_agent_runs_the_images_command_and_is_reached_by_a_token_of_its_own():
    image = ImageSpec("x", DIGEST, {"command": ["lab", "--ip=0.0.0.0"], "args": ["--port=8888"]})
    spec = replace(SPEC, mounts=SPEC.mounts[1:], image=image)
    made = manifests.statefulset(spec, site())
    assert made["metadata"]["annotations"]["beamport/services"] == '[["jupyter", 8888], ["agent", 9810]]'
    pod = made["spec"]["template"]["spec"]
    main = pod["containers"][0]
    assert main["command"] == ["python3", "-I", "-B", "/opt/beamport/agent.py", "--", "lab", "--ip=0.0.0.0"]
    assert main["args"] == ["--port=8888"]
    assert main["ports"][-1] == {"name": "agent", "containerPort": 9810}
    assert main["env"][-4:] == [
        {"name": "AGENT_PORT", "value": "9810"},
        {"name": "AGENT_JUPYTER", "value": "8888"},
        {"name": "AGENT_FOLDERS", "value": '{"home": ["/work/home", 10737418240], "scratch": ["/work", 5368709120]}'},
        {"name": "AGENT_TOKEN", "valueFrom": {"secretKeyRef": {"name": NAME, "key": "agent"}}},
    ]
    assert main["volumeMounts"][-1] == {"name": "agent", "mountPath": "/opt/beamport", "readOnly": True}
    items = [{"key": "agent.py", "path": "agent.py"}]
    assert pod["volumes"][-1] == {"name": "agent", "secret": {"secretName": NAME, "items": items}}
    data = manifests.secret(NAME, "u-1", {"jupyter": "t", "agent": "a"}, {}, site())["stringData"]
    assert data == {"jupyter": "t", "agent": "a", "agent.py": AGENT.read_text()}


@pytest.mark.parametrize(
    "change",
    [
        {"image": ImageSpec("x", DIGEST, {"command": ["lab"], "agent": False})},
        {"services": (Service("jupyter", 8888), Service("agent", 9000)), "image": ImageSpec("x", DIGEST, {})},
        {"services": (Service("agent", 9000),), "image": ImageSpec("x", DIGEST, {"command": ["lab"]})},
    ],
)
def test_an_image_may_do_without_the_agent_or_bring_one(change):
    made = manifests.statefulset(replace(SPEC, mounts=(), **change), site())["spec"]["template"]["spec"]
    assert made["containers"][0].get("command") in (None, ["lab"])
    assert [volume for volume in made["volumes"] if volume["name"] == "agent"] == []


def test_without_an_identity_it_runs_as_the_sites_plain_user():
    made = manifests.pod_spec(replace(SPEC, mounts=(), identity=None), site(uid=1234, gid=567))
    context = made["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (1234, 567, 567)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"identity": PosixId(0, 0)}, Rejected),
        ({"image": ImageSpec("x", "no-such-image")}, ImageMissing),
        ({"image": ImageSpec("x", "registry.example/jupyter")}, ImageMissing),
        ({"name": "Robert'); DROP"}, Rejected),
        ({"name": "x" * 53}, Rejected),
        ({"home": Home("../../etc", 1)}, Rejected),
        ({"mounts": (Mount(MountKind.DATA, "/gpfs/secret/p1", "/work/data/p1"),)}, MountMissing),
        ({"mounts": (Mount(MountKind.DATA, "/gpfs/open/../secret", "/work/data/p1"),)}, MountMissing),
        ({"mounts": (Mount(MountKind.DATA, "/gpfs/open2/p1", "/work/data/p1"),)}, MountMissing),
        ({"mounts": (Mount(MountKind.DATA, "gpfs/open/p1", "/work/data/p1"),)}, MountMissing),
        ({"mounts": (Mount(MountKind.PROJECT, "/gpfs/open/p1", "/work/project"),)}, Rejected),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_sent(change, error):
    with pytest.raises(error):
        manifests.statefulset(replace(SPEC, **change), site(data=[DATA]))


def test_data_are_read_only_whatever_is_asked_for():
    mount = Mount(MountKind.DATA, "/a/b", "/work/data/b", read_only=False)
    csi = {"driver": "nfs.csi.k8s.io", "readOnly": False, "volumeAttributes": {"server": "s", "share": "/a"}}
    volumes, mounts = manifests.data_of([mount], site(data=[{"prefix": "/a", "csi": csi}]))
    assert volumes == [{"name": "data-0", "csi": {**csi, "readOnly": True}}]
    assert mounts == [{"name": "data-0", "mountPath": "/work/data/b", "readOnly": True, "subPath": "b"}]


def test_a_start_replaces_the_data_and_nothing_else():
    where = site(data=[DATA])
    made = manifests.statefulset(SPEC, where)
    assert manifests.with_data(made, SPEC.mounts[:1], where) == {}
    changed = manifests.with_data(made, [], where)["template"]["spec"]
    before = made["spec"]["template"]["spec"]
    assert changed["volumes"] == before["volumes"][:-1]
    main, was = changed["containers"][0], before["containers"][0]
    assert main == {**was, "volumeMounts": was["volumeMounts"][:-1]}


def test_a_deployment_that_can_be_no_label_is_tagged_by_its_digest():
    odd = site_of({"deployment": "_" + "x" * 80, "namespace": "n"})
    other = site_of({"deployment": "_" + "x" * 81, "namespace": "n"})
    assert len(odd.tag) <= 63
    assert odd.tag != other.tag
    assert site().tag == DEPLOYMENT


def test_a_row_may_say_all_of_a_site_but_what_the_portal_itself_knows():
    assert set(READERS) == set(Site.__dataclass_fields__) - {"deployment", "production", "secrets"}


def test_a_size_may_be_written_as_people_say_it():
    assert site(scratch_size="1.5 GiB").scratch_size == 3 * 2**29
    assert site(scratch_size=2**30).scratch_size == 2**30


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": 5},
        {"namespace": "n", "scratch_size": "10 GB"},
        {"namespace": "n", "home_access": "ReadOnlyMany"},
        {"namespace": "n", "data": [{"prefix": "/a"}]},
        {"namespace": "n", "data": [{"prefix": "a", "claim": "c"}]},
        {"namespace": "n", "data": [{"prefix": "/a", "claim": "c", "path": "../x"}]},
        {"namespace": "n", "data": [{"prefix": "/a", "hostPath": "/"}]},
    ],
)
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(BadOptions):
        site_of({"deployment": DEPLOYMENT, **options})
