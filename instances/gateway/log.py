"""One escaped JSON line per request and per event on standard error; no query strings, cookies or tickets."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from json import dumps
from typing import Any

_LONGEST = 300
_FLUSH_AT = 200


@lru_cache(4096)
def _what(host: bytes, method: bytes, path: bytes) -> str:
    """The members that come again and again."""
    quoted = (dumps(text.decode("latin-1")) for text in (host, method, path))
    return '"host":{},"method":{},"path":{}'.format(*quoted)


class Log:
    """Lines are gathered and written once a second, or when many wait."""

    def __init__(self, descriptor: int | None = None, *, shared: bool = False) -> None:
        """`shared`: several processes write to the same place, so that no write may be torn (pipe(7): PIPE_BUF)."""
        self._descriptor = sys.stderr.fileno() if descriptor is None else descriptor
        self._shared = shared
        self._lines: list[str] = []
        self._second = 0
        self._stamp = ""

    def _time(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        return self._stamp

    def request(
        self,
        address: str,
        host: bytes,
        method: bytes,
        target: bytes,
        status: int,
        received: int,
        sent: int,
        milliseconds: float,
        request_id: str,
        session: str,
    ) -> None:
        """`session` is a short hash, enough to see what belongs together."""
        what = _what(host[:_LONGEST], method, target.partition(b"?")[0][:_LONGEST])
        self._lines.append(
            f'{{"event":"request","logger":"gateway","level":"info","timestamp":"{self._time()}","client":"{address}",'
            f'{what},"status":{status},"received":{received},"sent":{sent},"ms":{milliseconds:.1f},'
            f'"request_id":"{request_id}","session":"{session}"}}\n'
        )
        if len(self._lines) >= _FLUSH_AT:
            self.flush()

    def event(self, level: str, event: str, **more: Any) -> None:
        row = {"event": event, "logger": "gateway", "level": level, "timestamp": self._time()}
        row |= {key: str(value)[:_LONGEST] for key, value in more.items()}
        self._lines.append(dumps(row) + "\n")
        self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        for part in _untorn(lines) if self._shared else ["".join(lines)]:
            self._write(part.encode())

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError:  # nobody reads our log any more; the connections matter more
                return


def _untorn(lines: list[str]) -> Iterator[str]:
    """Join lines to parts that one write takes as a whole. All of it is ASCII."""
    part: list[str] = []
    size = 0
    for line in lines:
        if part and size + len(line) > select.PIPE_BUF:
            yield "".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield "".join(part)
