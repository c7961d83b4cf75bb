"""The agent in a pod: the first process of the main container, laid in by the machine's Secret.

Only there it sees the session's own cgroup, and no image has to bring it. It runs the command that the image's row
names; without one it could not know what to run, and there is no agent.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from instances.providers.base import Service, Spec

NAME, PORT = "agent", 9810
#: key in the Secret and name of the file
FILE = "agent.py"
FOLDER = "/opt/beamport"
_SOURCE = Path(__file__).resolve().parents[3] / "deploy" / "images" / "agent" / FILE

Object = dict[str, Any]


@cache
def source() -> str:
    return _SOURCE.read_text()


def is_in(spec: Spec) -> bool:
    """Whether a machine gets the agent: its command is known, and it brings none of its own."""
    options = spec.image.options
    brings = any(service.name == NAME for service in spec.services)
    return bool(options.get("command")) and bool(options.get("agent", True)) and not brings


def services(spec: Spec) -> tuple[Service, ...]:
    """Return the services of a machine, the agent among them."""
    more = (Service(NAME, PORT, "/report", required=False),) if is_in(spec) else ()
    return (*spec.services, *more)


def put_into(pod: Object, spec: Spec, folders: dict[str, tuple[str, int]]) -> Object:
    """Return a pod with the agent before its command. `folders`: name → path and bytes that were asked for."""
    if not is_in(spec):
        return pod
    main, *others = pod["containers"]
    jupyter = next((service.port for service in spec.services if service.name == "jupyter"), 0)
    given = {
        "AGENT_PORT": str(PORT),
        "AGENT_JUPYTER": str(jupyter),
        "AGENT_FOLDERS": json.dumps(folders, sort_keys=True),
    }
    token = {"name": "AGENT_TOKEN", "valueFrom": {"secretKeyRef": {"name": spec.name, "key": NAME}}}
    python = str(spec.image.options.get("python", "python3"))
    wrapped = {
        **main,
        "command": [python, "-I", "-B", f"{FOLDER}/{FILE}", "--", *main["command"]],
        "env": [*main["env"], *({"name": name, "value": value} for name, value in given.items()), token],
        "ports": [*main["ports"], {"name": NAME, "containerPort": PORT}],
        "volumeMounts": [*main["volumeMounts"], {"name": NAME, "mountPath": FOLDER, "readOnly": True}],
    }
    volume = {"name": NAME, "secret": {"secretName": spec.name, "items": [{"key": FILE, "path": FILE}]}}
    return {**pod, "containers": [wrapped, *others], "volumes": [*pod["volumes"], volume]}
