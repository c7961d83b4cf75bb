"""Keep the inputs that reach something of their own: a step between lines of the gateway that no smaller one takes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from instances import gateway
from tests.fuzz.targets import one

_FOLDER = str(Path(gateway.__path__[0]))
Steps = set[tuple[str, int, int]]


def steps(data: bytes) -> Steps:
    """Return the steps that an input takes."""
    taken: Steps = set()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(_FOLDER):
            return None
        last = frame.f_lineno

        def within(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                taken.add((path, last, frame.f_lineno))
                last = frame.f_lineno
            return within

        return within

    sys.settrace(trace)
    try:
        one(data)
    finally:
        sys.settrace(None)
    return taken


def minimise(inputs: list[bytes]) -> list[bytes]:
    known: Steps = set()
    kept = []
    for data in sorted(inputs, key=len):
        taken = steps(data)
        if not taken <= known:
            known |= taken
            kept.append(data)
    return kept
