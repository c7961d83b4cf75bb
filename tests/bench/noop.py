"""A provider whose machines are empty files: starts cost the portal's own work and nothing else. For benches alone.

Any number of workers see the same machines. Option `backend`: `host:port` of what answers for all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
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
    Rejected,
    Spec,
    Usage,
)


class NoopProvider:
    """A machine runs while its file is there; the file's name is the machine's, its text the instance."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.deployment = str(options["deployment"])
        self.folder = Path(options["state_dir"]) / "data" / "noop"
        self.folder.mkdir(exist_ok=True)
        host, _, port = str(options["backend"]).rpartition(":")
        self.endpoints = (Endpoint("jupyter", "tcp", host=host, port=int(port)),)

    def create(self, spec: Spec) -> str:
        (self.folder / spec.name).write_text(spec.instance)
        return spec.name

    def delete(self, ref: str) -> None:
        (self.folder / ref).unlink(missing_ok=True)

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        raise Rejected("what has no machine is not stopped")

    stop = reboot = start

    def observe(self) -> Iterable[Observation]:
        for entry in os.scandir(self.folder):
            seen = self.look(entry.name)
            if seen.phase is not Phase.MISSING:
                yield seen

    def look(self, ref: str) -> Observation:
        with contextlib.suppress(FileNotFoundError):
            instance = (self.folder / ref).read_text()
            return Observation(ref, ref, instance, Phase.RUNNING, self.endpoints, deployment=self.deployment)
        return Observation(ref="", name="", instance="", phase=Phase.MISSING)

    def watch(self, wake: Callable[[str], None]) -> None:
        """Nothing happens to a file."""

    def home_usage(self, home: Home) -> Usage:
        return Usage(0, home.limit, None)

    def delete_home(self, home: Home) -> None:
        """There is none."""

    def console(self, ref: str) -> str:
        return ""

    def capacity(self) -> Iterable[Capacity]:
        return []

    def images(self) -> Iterable[ImageSpec]:
        return []

    def flavours(self) -> Iterable[FlavourSpec]:
        return []
