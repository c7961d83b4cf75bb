"""The checked-in corpus: inputs that reach something of their own, one JSON string a line, a character for a byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FILE = Path(__file__).with_name("corpus.jsonl")


def read() -> list[bytes]:
    return [json.loads(line).encode("latin-1") for line in FILE.read_text().splitlines()] if FILE.exists() else []


def write(inputs: list[bytes]) -> None:
    lines = sorted(json.dumps(data.decode("latin-1")) for data in set(inputs))
    FILE.write_text("".join(line + "\n" for line in lines))


def unpack(inputs: list[bytes], folder: Path) -> None:
    """Lay inputs out as libFuzzer wants them, a file each."""
    folder.mkdir(exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:24]).write_bytes(data)


def pack(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]
