"""The lab, and the provider in it with the account that deploy/kubernetes gives to a portal."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from instances.providers.base import ImageSpec, Spec
from instances.providers.kubernetes import KubernetesProvider
from tests.labs.kubernetes.cluster import SHARED, Account, Lab
from tests.labs.kubernetes.fixtures import account, healed, lab
from tests.providers.contract import plain_spec

__all__ = ["account", "healed", "lab"]

IMAGE = ImageSpec("JupyterLab", "lab/jupyter:1")
DATA = "open-data"


def options_of(account: Account, **more: Any) -> dict[str, Any]:
    """Return a Provider row's options for a namespace of the lab, with a deployment of its own."""
    return {
        "deployment": str(uuid.uuid4()),
        "kubeconfig": str(account.kubeconfig),
        "namespace": account.namespace,
        "namespace_uid": account.namespace_uid,
        "home_class": SHARED,
        "data": [{"prefix": "/data", "claim": DATA}],
        **more,
    }


@pytest.fixture(scope="module")
def prepared(lab: Lab, account: Account) -> Account:
    """The portal's namespace with a claim of data, and volumes for homes."""
    lab.apply(
        {
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": DATA},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        },
        account.namespace,
    )
    lab.shelve(60)
    return account


@pytest.fixture(scope="module")
def cloud(prepared: Account) -> Iterator[KubernetesProvider]:
    """One provider for a module: what it makes is told apart by the instance."""
    provider = KubernetesProvider(options_of(prepared))
    yield provider
    provider.close()


@pytest.fixture
def make_spec(cloud: KubernetesProvider) -> Callable[..., Spec]:
    return lambda **more: plain_spec(deployment=cloud.site.deployment, image=IMAGE, **more)
