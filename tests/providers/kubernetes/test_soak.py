"""Many lives of machines while answers are lost: nothing is left, nothing is doubled (`make test-slow`)."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from instances.lifecycle import Phase
from instances.providers.base import ProviderError, ProviderUnavailable
from instances.providers.kubernetes import KubernetesProvider, client
from tests.labs.kubernetes.proxy import Proxy
from tests.providers.contract import plain_spec
from tests.providers.kubernetes.conftest import IMAGE, options_of

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.timeout(6 * 3600)]

CYCLES = int(os.environ.get("BEAMPORT_SOAK_CYCLES") or 500)
#: of a hundred calls so many have their answer lost, torn or stalled
FAULTS = 5
KINDS = ("statefulsets", "pods", "persistentvolumeclaims", "secrets")
SEED = 20261122


class Soak:
    def __init__(self, lab, provider: KubernetesProvider, proxy: Proxy) -> None:
        self.lab, self.provider, self.proxy = lab, provider, proxy
        self.dice = random.Random(SEED)
        self.struck = 0

    def do(self, verb: Callable[..., object], *given: object) -> None:
        """Call a verb until it is done, as the reconciler does; five times of a hundred an answer of it is struck."""
        breaks = self.dice.randrange(100) < FAULTS
        if breaks:
            self.proxy.break_(self.dice.choice(["lose", "tear", "stall"]), skip=self.dice.randrange(4))
        try:
            self._until_done(verb, *given)
        finally:
            struck = self.proxy.heal()
            self.struck += struck if breaks else 0

    def _until_done(self, verb: Callable[..., object], *given: object) -> None:
        end = time.monotonic() + 120
        while True:
            try:
                verb(*given)
            except ProviderUnavailable:
                assert time.monotonic() < end
                time.sleep(0.05)
            else:
                return

    def until(self, name: str, phase: Phase) -> None:
        end = time.monotonic() + 120
        while True:
            try:
                seen = self.provider.look(name)
            except ProviderError:
                seen = None
            if seen is not None and seen.phase is phase:
                return
            assert time.monotonic() < end, f"{name}: {seen}, not {phase}"
            time.sleep(0.05)

    def of(self, kind: str, text: str) -> list[str]:
        return [
            one["metadata"]["name"]
            for one in self.lab.admin.find(kind)["items"]
            if text in one["metadata"]["name"] or text in str(one["metadata"].get("labels", {}))
        ]

    def cycle(self) -> None:
        spec = plain_spec(deployment=self.provider.site.deployment, image=IMAGE)
        self.do(self.provider.create, spec)
        self.until(spec.name, Phase.RUNNING)
        assert len(self.of("statefulsets", spec.instance)) == len(self.of("pods", spec.instance)) == 1
        self.do(self.provider.stop, spec.name)
        self.until(spec.name, Phase.STOPPED)
        self.do(self.provider.start, spec.name)
        self.until(spec.name, Phase.RUNNING)
        assert len(self.of("pods", spec.instance)) == 1
        self.do(self.provider.delete, spec.name)
        self.until(spec.name, Phase.MISSING)
        assert spec.home is not None
        self.do(self.provider.delete_home, spec.home)


def test_after_hundreds_of_lives_with_lost_answers_nothing_is_left(lab, account, monkeypatch):
    monkeypatch.setattr(client, "READ", 3.0)  # a stalled answer costs that much
    lab.shelve(CYCLES + 5)
    proxy = Proxy(lab.ports["api"])
    server = f"https://127.0.0.1:{proxy.port}"
    config = lab.token(account.namespace, server)
    provider = KubernetesProvider(options_of(account, kubeconfig=str(config)))
    soak = Soak(lab, provider, proxy)
    try:
        for number in range(CYCLES):
            if number % 50 == 49:
                lab.token(account.namespace, server)  # it lasts for an hour; the file is read anew when it is refused
            soak.cycle()
        end = time.monotonic() + 60
        while left := {kind: found for kind in KINDS if (found := soak.of(kind, provider.site.tag))}:
            assert time.monotonic() < end, left
            time.sleep(0.5)
        assert provider.sets.counts.differences == provider.pods.counts.differences == 0
        assert soak.struck or CYCLES < 50
        print(f"{CYCLES} lives, {soak.struck} answers struck")
    finally:
        provider.close()
        proxy.close()
