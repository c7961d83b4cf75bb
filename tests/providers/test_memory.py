"""The memory provider: the contract, and what only it can do."""

from __future__ import annotations

import threading
import urllib.request
from dataclasses import replace

import pytest

from instances.lifecycle import Phase
from instances.providers.base import ImageSpec, MountKind, NoCapacity
from instances.providers.memory import MemoryProvider
from tests.providers.contract import ProviderContract, plain_spec

DEPLOYMENT = "deployment-of-these-tests"
IMAGE = ImageSpec("JupyterLab", "jupyter")


def spec_of(**more):
    return plain_spec(deployment=DEPLOYMENT, image=IMAGE, **more)


class TestMemory(ProviderContract):
    @pytest.fixture
    def provider(self):
        provider = MemoryProvider({"deployment": DEPLOYMENT})
        yield provider
        provider.close()

    @pytest.fixture
    def spec(self):
        return spec_of

    @pytest.fixture
    def run(self):
        return "/data/run1"

    def mounted(self, provider, ref):
        return [m.target for m in provider.machines[ref].spec.mounts if m.kind is MountKind.DATA]

    def test_another_deployments_machine_is_neither_seen_nor_touched(self, provider):
        ref = provider.create(replace(spec_of(), deployment="somebody-elses"))
        assert list(provider.observe()) == []
        assert provider.look(ref).phase is Phase.MISSING
        provider.delete(ref)
        assert ref in provider.machines

    def test_a_script_is_gone_through_look_by_look(self):
        provider = MemoryProvider({"deployment": DEPLOYMENT, "phases": ["pending", "pending", "running"]})
        ref = provider.create(spec_of())
        assert [provider.look(ref).phase for _ in range(4)] == ["pending", "pending", "running", "running"]

    def test_a_full_cloud_has_no_capacity(self):
        provider = MemoryProvider({"deployment": DEPLOYMENT, "flavours_total": 1})
        provider.create(spec_of())
        with pytest.raises(NoCapacity):
            provider.create(spec_of())

    def test_a_running_machine_can_answer_on_a_real_port(self):
        provider = MemoryProvider({"deployment": DEPLOYMENT, "serve": True})
        ref = provider.create(spec_of())
        (endpoint,) = provider.look(ref).endpoints
        with urllib.request.urlopen(f"http://{endpoint.host}:{endpoint.port}/api/status", timeout=10) as answer:
            assert answer.status == 200
        provider.stop(ref)
        assert provider.look(ref).endpoints == ()
        provider.close()

    def test_watch_tells_what_changed(self, provider):
        seen: list[str] = []
        heard = threading.Event()
        listener = threading.Thread(target=provider.watch, args=(lambda ref: (seen.append(ref), heard.set()),))
        listener.start()
        ref = provider.create(spec_of())
        assert heard.wait(10)
        provider.close()
        listener.join(10)
        assert ref in seen
        assert not listener.is_alive()
