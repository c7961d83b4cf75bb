"""What the tests of faults share: machines that are made and removed, and hands that reach into the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import ImageSpec, Observation, ProviderUnavailable, Spec
from instances.providers.kubernetes import KubernetesProvider
from tests.labs.kubernetes.cluster import Lab
from tests.labs.kubernetes.proxy import Proxy

SETS, PODS, CLAIMS = "statefulsets", "pods", "persistentvolumeclaims"


class Hand:
    """A provider, and what an operator or a fault does to its machines behind its back."""

    def __init__(self, lab: Lab, provider: KubernetesProvider, make_spec: Callable[..., Spec]) -> None:
        self.lab, self.provider, self.make_spec = lab, provider, make_spec
        self.admin = lab.in_namespace(provider.site.namespace)
        self.made: list[str] = []
        self.proxy: Proxy | None = None

    def create(self, image: str = "jupyter", **more: Any) -> str:
        wanted = self.make_spec(**more)
        wanted = replace(wanted, image=ImageSpec("x", f"lab/{image}:1"))
        self.made.append(wanted.name)
        return self.provider.create(wanted)

    def running(self, **more: Any) -> str:
        name = self.create(**more)
        self.until(name, Phase.RUNNING)
        return name

    def stopped(self, **more: Any) -> str:
        name = self.running(**more)
        self.provider.stop(name)
        self.until(name, Phase.STOPPED)
        return name

    def until(self, name: str, phase: Phase, reason: str | None = None, seconds: float = 30.0) -> Observation:
        """Look until a machine is in this phase, for this reason if one is given; no answer is not the end."""
        end = time.monotonic() + seconds
        while True:
            try:
                seen = self.provider.look(name)
            except ProviderUnavailable as error:
                said = str(error)
            else:
                if seen.phase is phase and reason in (None, seen.reason):
                    return seen
                said = f"{seen.phase} ({seen.reason}: {seen.detail}), not {phase} ({reason})"
            assert time.monotonic() < end, said
            time.sleep(0.05)

    def stays(self, name: str, phase: Phase, looks: int = 4) -> None:
        for _ in range(looks):
            seen = self.provider.look(name)
            assert seen.phase is phase, f"{seen.phase} ({seen.reason}: {seen.detail})"
            time.sleep(0.15)

    # ---- behind its back ----
    def set(self, name: str) -> dict[str, Any]:
        return self.admin.get(SETS, name)

    def pod(self, name: str) -> dict[str, Any]:
        return self.admin.get(PODS, f"{name}-0")

    def pods(self, name: str) -> list[dict[str, Any]]:
        return list(self.admin.find(PODS, labelSelector=f"beamport/machine={name}")["items"])

    def annotate(self, name: str, **annotations: str) -> None:
        notes = {f"lab/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.admin.patch(PODS, f"{name}-0", {"metadata": {"annotations": notes}})

    def repair(self, name: str) -> None:
        self.annotate(name, fault="none")

    def replicas(self, name: str) -> int:
        return int(self.set(name)["spec"]["replicas"])

    def remove_all(self) -> None:
        for name in self.made:
            try:
                pods = self.pods(name)
                for _ in pods[:1]:
                    self.repair(name)
                self.admin.patch(SETS, name, {"metadata": {"finalizers": None}})
            except Exception:
                pass
            self.provider.delete(name)


def raises_in_time(kind: type[Exception], ask: Callable[[], object], seconds: float = 20.0) -> Exception:
    """Ask until it raises this: what an administrator changes the API server's parts read from a watch."""
    end = time.monotonic() + seconds
    while True:
        try:
            ask()
        except kind as error:
            return error
        assert time.monotonic() < end, f"no {kind.__name__}"
        time.sleep(0.1)
