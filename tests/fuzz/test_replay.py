"""What the fuzzer has found and where it began, without the fuzzer; and that its checks would see a broken gateway."""

from __future__ import annotations

import re
from collections.abc import Callable

import h11
import pytest

from instances.gateway import bodies, exchange, headers, http1, tunnel
from instances.gateway.connection import Client
from tests.fuzz import corpus
from tests.fuzz.machine import Broken
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import one

_PARTS = 8
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("part", range(_PARTS))
def test_every_input_of_the_corpus_holds(part: int) -> None:
    inputs = sorted({*corpus.read(), *seeds()})
    for data in inputs[part::_PARTS]:
        one(data)


def test_the_corpus_stays_small() -> None:
    assert len(corpus.read()) >= 50
    assert corpus.FILE.stat().st_size <= 500_000


# ---- broken gateways ----
def _believes_any_framing(patch: Patch) -> None:
    patch.setattr(http1, "_section", http1._read_section)  # what it reads wrongly must not be remembered
    patch.setattr(http1, "_length", lambda fields, _minor, _status: (None, b"transfer-encoding" in fields))


def _takes_chunk_extensions(patch: Patch) -> None:
    patch.setattr(bodies, "_CHUNK_SIZE", re.compile(rb"[0-9A-Fa-f]{1,15}"))
    line = bodies.ChunkedBody._line
    patch.setattr(
        bodies.ChunkedBody, "_line", lambda self, text, out: line(self, text.strip().split(b" ")[0] + b"\r\n", out)
    )


def _passes_all_cookies(patch: Patch) -> None:
    patch.setattr(headers, "request_to_instance", lambda request, _cookie, _origin: headers.request_to_portal(request))


def _ends_cut_responses_cleanly(patch: Patch) -> None:
    patch.setattr(Client, "abort", lambda self: self.transport.close())


def _reuses_connections_in_doubt(patch: Patch) -> None:
    finish = exchange.Exchange._finish
    patch.setattr(exchange.Exchange, "_finish", lambda self, _rest: finish(self, b""))


def _forgets_back_ends(patch: Patch) -> None:
    patch.setattr(exchange.Exchange, "client_lost", lambda self: None)


def _loses_bytes_in_tunnels(patch: Patch) -> None:
    patch.setattr(tunnel.End, "data_received", lambda self, data: self.write(data[::2]))


def _reads_on_and_on(patch: Patch) -> None:
    patch.setattr(Client, "pause", lambda self, why: None)
    patch.setattr(Client, "pause_writing", lambda self: None)


def _breaks(data: bytes) -> bool:
    try:
        one(data)
    except (Broken, h11.ProtocolError):
        return True
    return False


@pytest.mark.parametrize(
    "break_it",
    [
        _believes_any_framing,
        _takes_chunk_extensions,
        _passes_all_cookies,
        _ends_cut_responses_cleanly,
        _reuses_connections_in_doubt,
        _forgets_back_ends,
        _loses_bytes_in_tunnels,
        _reads_on_and_on,
    ],
)
def test_a_broken_gateway_is_seen(break_it: Callable[[Patch], None], monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    assert any(_breaks(data) for data in seeds())
