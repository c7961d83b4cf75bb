"""The agent in a real API server's pod: let in by Pod Security, laid in by the Secret, reached beside the service."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from instances.lifecycle import Phase
from instances.providers.base import Endpoint, ImageSpec
from tests.providers.kubernetes.test_contract import until

pytestmark = pytest.mark.kubernetes
AGENT = Path(__file__).resolve().parents[3] / "deploy" / "images" / "agent" / "agent.py"


def test_a_machine_with_a_command_has_the_agent(cloud, lab, make_spec):
    image = ImageSpec("x", "lab/jupyter:1", {"command": ["jupyter", "lab"]})
    wanted = replace(make_spec(), image=image)
    cloud.create(wanted)
    until(lambda: cloud.look(wanted.name).phase is Phase.RUNNING)
    pod = lab.admin.get("pods", f"{wanted.name}-0")
    address, uid = pod["status"]["podIP"], pod["metadata"]["uid"]
    assert cloud.look(wanted.name).endpoints == (
        Endpoint("jupyter", "tcp", host=address, port=8888, uid=uid),
        Endpoint("agent", "tcp", host=address, port=9810, uid=uid),
    )
    data = {
        name: base64.b64decode(text).decode() for name, text in lab.admin.get("secrets", wanted.name)["data"].items()
    }
    assert data["agent.py"] == AGENT.read_text()
    assert len({data["agent"], data["jupyter"]}) == 2
    cloud.delete(wanted.name)
