"""The fuzzing process: libFuzzer's own command line, with the gateway's code watched for coverage."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["instances.gateway"]):
    from tests.fuzz.targets import machine, one

if __name__ == "__main__":
    machine()
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
