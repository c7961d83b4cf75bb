"""The contract, kept by the local provider with a real supervisor and real sandboxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from instances.providers.base import ImageSpec, Spec
from instances.providers.local import LocalProvider
from tests.providers.contract import ProviderContract, plain_spec
from tests.providers.local.conftest import running
from tests.providers.local.host import DEPLOYMENT, Host, Sandbox


@pytest.fixture(scope="module")
def supervised() -> Iterator[Host]:
    with running() as host:
        yield host


class TestLocal(ProviderContract):
    @pytest.fixture
    def provider(self, supervised: Host) -> LocalProvider:
        return supervised.provider

    @pytest.fixture
    def spec(self) -> Callable[..., Spec]:
        return lambda **more: plain_spec(deployment=DEPLOYMENT, image=ImageSpec("agent", "agent"), **more)

    @pytest.fixture
    def run(self, supervised: Host) -> str:
        folder = supervised.state / "run1"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return str(folder)

    def mounted(self, provider: LocalProvider, ref: str) -> list[str]:
        """Ask the kernel, from inside."""
        sandbox = Sandbox(self.host, ref)
        sandbox.wait()
        return sorted(set(re.findall(r"/work/data/\S+", sandbox.run("print(open('/proc/self/mounts').read())"))))

    @pytest.fixture(autouse=True)
    def _host(self, supervised: Host) -> None:
        self.host = supervised
