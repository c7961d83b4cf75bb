from __future__ import annotations

from tests.instances.conftest import bring_up, history, settle


def test_a_request_becomes_active_when_the_gateway_hears_it(instance, cloud):
    settle(instance)
    assert instance.state == "starting"
    bring_up(instance)
    assert instance.state == "active"
    assert history(instance) == ["requested", "building", "starting", "active"]
