"""The contract, kept by the local provider with a real supervisor and real sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from instances.providers.base import ImageSpec, Spec
from instances.providers.local import LocalProvider
from tests.providers.contract import ProviderContract, plain_spec
from tests.providers.local.conftest import running
from tests.providers.local.host import DEPLOYMENT, Host


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
