"""What a cluster offers to an operator who sets a provider up; each right for it is optional, and said when lacking."""

from __future__ import annotations

import time

import pytest

from instances.providers.kubernetes import survey
from tests.labs.kubernetes.cluster import ACCOUNT
from tests.providers.kubernetes.objects import site

GPU = {"nvidia.com/gpu": "4"}


def node(labels, taints=(), **allocatable):
    return {"metadata": {"labels": labels}, "spec": {"taints": list(taints)}, "status": {"allocatable": allocatable}}


def test_nodes_are_told_apart_by_labels_taints_and_gpus():
    common = {"kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux"}
    nodes = [
        node(
            common | {"pool": "gpu", "nvidia.com/gpu.product": "A100"}, [{"key": "gpu", "effect": "NoSchedule"}], **GPU
        ),
        node(common | {"pool": "cpu"}),
        node(common | {"pool": "cpu"}),
    ]
    assert survey.of_nodes(nodes, site()) == [
        ("node label", "nvidia.com/gpu.product=A100 (1 nodes)"),
        ("node label", "pool=cpu (2 nodes)"),
        ("node label", "pool=gpu (1 nodes)"),
        ("taint", "gpu=:NoSchedule (1 nodes)"),
        ("GPU", "nvidia.com/gpu A100: 4"),
    ]


def test_a_storage_class_says_what_matters():
    default = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    classes = [
        {"metadata": {"name": "ceph", **default}, "provisioner": "rbd.csi.ceph.com", "reclaimPolicy": "Retain"},
        {"metadata": {"name": "nfs"}, "provisioner": "nfs.csi.k8s.io", "reclaimPolicy": "Delete"},
    ]
    assert survey.of_classes(classes) == [
        ("storage class", "ceph (rbd.csi.ceph.com, the default, keeps what is deleted)"),
        ("storage class", "nfs (nfs.csi.k8s.io)"),
    ]


def test_two_images_of_one_name_are_two():
    one, other = (survey.image(f"registry.example/a/jupyter@sha256:{digit * 64}") for digit in "12")
    assert one.name == "jupyter 111111111111"
    assert one.name != other.name


@pytest.mark.kubernetes
def test_a_right_that_lacks_is_said_and_one_that_is_given_is_used(lab, cloud):
    assert (
        "not known",
        "the account may not list storageclasses.storage.k8s.io: give it that right, or write the options by hand",
    ) in cloud.survey()
    assert "nvidia.com/gpu: 2" in dict(cloud.survey())["GPU"]
    assert "gpu" in [flavour.name for flavour in cloud.flavours()]
    name = "lab-classes"
    rule = {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["list"]}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": cloud.site.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    try:
        lab.apply({"kind": "ClusterRole", "metadata": {"name": name}, "rules": [rule]})
        lab.apply(
            {"kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        )
        end = time.monotonic() + 20
        while ("storage class", "lab-disk (kubernetes.io/host-path, the default)") not in cloud.survey():
            assert time.monotonic() < end, cloud.survey()
            time.sleep(0.1)
    finally:
        lab.drop("ClusterRoleBinding", name)
        lab.drop("ClusterRole", name)
