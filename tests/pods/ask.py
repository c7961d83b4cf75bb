"""Who reaches whom: a program that tries addresses, the pods that run it, and doors to what listens on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from pathlib import Path

from playwright.sync_api import Page

from instances.providers.base import ProviderError, Spec
from tests.browser.conftest import terminal
from tests.labs.kubernetes import node
from tests.labs.kubernetes.real import RealLab

Targets = dict[str, tuple[str, int]]
#: namespace and labels of the gateway's pods, as the policy admits them
GATEWAY = ("beamport-gateway", {"app.kubernetes.io/name": "beamport-gateway"})

#: prints {"name": "open" or why not}; the first byte of an answer is not waited for
_TRY = """
import json, socket
found = {{}}
for name, (host, port) in {targets!r}.items():
    try:
        socket.create_connection((host, port), 3).close()
        found[name] = "open"
    except OSError as error:
        found[name] = type(error).__name__
print("FOUND" + json.dumps(found) + "END", flush=True)
"""


class Door:
    """A port of the node's address on the pods' network that leads to what listens on loopback or a unix socket."""

    def __init__(self, to: tuple[str, int] | Path) -> None:
        self._to = to
        self._listener = socket.create_server((node.ADDRESS, 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                if isinstance(self._to, Path):
                    behind = socket.socket(socket.AF_UNIX)
                    behind.connect(str(self._to))
                else:
                    behind = socket.create_connection(self._to, 3)
                behind.close()
                client.close()

    def close(self) -> None:
        self._listener.close()


def from_terminal(page: Page, targets: Targets) -> dict[str, str]:
    """Try from inside an instance, as its person would."""
    text = _TRY.format(targets=targets).strip().encode().hex()
    return _read(terminal(page, f"python3 -c \"exec(bytes.fromhex('{text}'))\"", 60))


def from_exec(lab: RealLab, spec: Spec, targets: Targets) -> dict[str, str]:
    """Try from inside a machine."""
    return _read(lab.run(spec, "python3", "-c", _TRY.format(targets=targets)))


def from_pod(lab: RealLab, namespace: str, labels: dict[str, str], image: str, targets: Targets) -> dict[str, str]:
    """Try from a pod with these labels, made for that alone."""
    name = f"ask-{uuid.uuid4().hex[:8]}"
    container = {"name": "ask", "image": image, "imagePullPolicy": "Never"}
    # the policy follows a new pod within a third of a second, as a plug-in would: let it
    command = ["python3", "-c", "import time; time.sleep(2)" + _TRY.format(targets=targets)]
    spec = {"restartPolicy": "Never", "containers": [{**container, "command": command}]}
    path = f"/api/v1/namespaces/{namespace}/pods"
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}, "spec": spec}
    lab.admin.ask("POST", path, body=body)
    end = time.monotonic() + 120
    while lab.pod(namespace, name).get("status", {}).get("phase") != "Succeeded":
        assert time.monotonic() < end, lab.pod(namespace, name)
        time.sleep(0.2)
    return _read(lab.log(namespace, name))


def make_namespace(lab: RealLab, name: str) -> None:
    """A namespace of somebody else, where nothing is enforced."""
    lab.apply({"kind": "Namespace", "metadata": {"name": name}})
    path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(ProviderError):
            lab.admin.ask("GET", path)
            return
        assert time.monotonic() < end
        time.sleep(0.1)


def _read(text: str) -> dict[str, str]:
    joined = text.replace("\r", "").replace("\n", "")
    found: dict[str, str] = json.loads(joined.rpartition("FOUND")[2].partition("END")[0])
    return found
