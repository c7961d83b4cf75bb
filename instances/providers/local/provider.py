"""The local provider on the portal's side: each call is one line to the supervisor and one line back."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import (
    Capacity,
    Endpoint,
    FlavourSpec,
    Home,
    ImageSpec,
    Mount,
    Observation,
    Options,
    ProviderUnavailable,
    Spec,
    Usage,
)
from instances.providers.local.wire import LONGEST, pack_data, pack_spec, unpack_error
from portal.lib import readers
from portal.lib.readers import GIB

#: offered to the admin's import where the machine has as much
_FLAVOURS = (("small", 1, 1), ("medium", 2, 4), ("large", 4, 16), ("huge", 16, 64))
#: seconds: a look is quick; a start checks the data's folders, a stop lets the session save its work
_LOOK, _VERB, _COUNT = 5.0, 30.0, 60.0
#: nothing for so long means that the supervisor is gone; it sends a heartbeat each 5 s
_SILENCE = 20.0


class LocalProvider:
    """Machines on this host, made by the supervisor; a machine's ref is its name.

    Options: `deployment` (our tag), `socket` (the supervisor's; default: the site's `supervisor_socket`).
    """

    OPTIONS = Options(readers.table({"socket": readers.text(107, r"/.*", "an absolute path")}))

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.deployment = str(options.get("deployment", ""))
        self.socket = str(options.get("socket") or options.get("supervisor_socket") or "")

    # ---- verbs ----
    def create(self, spec: Spec) -> str:
        return str(self._ask(_VERB, "create", spec=pack_spec(spec)))

    def delete(self, ref: str) -> None:
        self._ask(_VERB, "delete", name=ref, deployment=self.deployment)

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        self._ask(_VERB, "start", name=ref, deployment=self.deployment, data=pack_data(data))

    def stop(self, ref: str) -> None:
        self._ask(_VERB, "stop", name=ref, deployment=self.deployment)

    def reboot(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        self._ask(_VERB, "reboot", name=ref, deployment=self.deployment, data=pack_data(data))

    # ---- sight ----
    def observe(self) -> Iterable[Observation]:
        found = self._ask(_LOOK, "list", deployment=self.deployment)
        with _sense():
            return [_observation(seen) for seen in found]

    def look(self, ref: str) -> Observation:
        found = self._ask(_LOOK, "look", name=ref, deployment=self.deployment)
        with _sense():
            return _observation(found)

    def watch(self, wake: Callable[[str], None]) -> None:
        """Block and report each change until the supervisor goes away."""
        with self._connected(_SILENCE) as lines:
            lines.send({"id": 1, "op": "watch"})
            while event := lines.receive():
                if event.get("name"):
                    wake(str(event["name"]))

    def console(self, ref: str) -> str:
        return str(self._ask(_LOOK, "console", name=ref, deployment=self.deployment))

    # ---- homes and what there is ----
    def home_usage(self, home: Home) -> Usage:
        found = self._ask(_COUNT, "home_usage", key=home.key)
        with _sense():
            at = datetime.fromtimestamp(found["at"], UTC) if found["at"] is not None else None
            return Usage(int(found["used"] or 0), int(found["limit"]) or home.limit, at)

    def delete_home(self, home: Home) -> None:
        self._ask(_VERB, "delete_home", key=home.key)

    def capacity(self) -> Iterable[Capacity]:
        """Count by memory: cores are shared, memory is not."""
        have = self._ask(_LOOK, "capacity")
        left = have["memory"] - have["given"]
        return [
            Capacity(flavour.name, max(0, left // flavour.memory), have["memory"] // flavour.memory)
            for flavour in _fitting(have)
        ]

    def images(self) -> Iterable[ImageSpec]:
        return [ImageSpec(reference, reference) for reference in self._ask(_LOOK, "images")]

    def flavours(self) -> Iterable[FlavourSpec]:
        return _fitting(self._ask(_LOOK, "capacity"))

    # ---- the socket ----
    def _ask(self, seconds: float, operation: str, **arguments: Any) -> Any:
        """Return the result; ProviderUnavailable when the supervisor is away, slow or speaks nonsense."""
        with self._connected(seconds) as lines:
            lines.send({"id": 1, "op": operation} | arguments)
            answer = lines.receive()
            if not answer:
                raise ProviderUnavailable("the supervisor hung up")
            if not answer.get("ok"):
                raise unpack_error(answer)
            return answer.get("result")

    @contextmanager
    def _connected(self, seconds: float) -> Iterator[_Lines]:
        with _sense(), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2.0)
            connection.connect(self.socket)
            connection.settimeout(seconds)
            yield _Lines(connection)


@contextmanager
def _sense() -> Iterator[None]:
    """Take no answer, a late one and nonsense for what they are: nothing is known."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProviderUnavailable(f"the supervisor gives no usable answer: {error or type(error).__name__}") from error


class _Lines:
    """JSON objects over a connection, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.rest = connection, b""

    def send(self, message: dict[str, Any]) -> None:
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Return the next object; an empty one when the other side hung up."""
        while b"\n" not in self.rest:
            data = self.connection.recv(65536)
            if not data:
                return {}
            self.rest += data
            if len(self.rest) > LONGEST:
                raise ValueError("an endless line")
        line, self.rest = self.rest.split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not an object")
        return message


def _observation(seen: dict[str, Any]) -> Observation:
    return Observation(
        ref=seen["name"],
        name=seen["name"],
        instance=seen.get("instance", ""),
        phase=Phase(seen["phase"]),
        endpoints=tuple(Endpoint(**endpoint) for endpoint in seen.get("endpoints", ())),
        reason=seen.get("reason", ""),
        detail=seen.get("detail", ""),
        deployment=seen.get("deployment", ""),
    )


def _fitting(have: dict[str, int]) -> list[FlavourSpec]:
    """Return the flavours that this machine could carry one of."""
    fitting = [one for one in _FLAVOURS if one[2] * GIB <= have["memory"] and one[1] <= have["cores"]] or [_FLAVOURS[0]]
    return [FlavourSpec(name, cores, memory * GIB, 0) for name, cores, memory in fitting]
