"""Figures for a monitoring system, in Prometheus' text format: numbers only, never names, hosts, cookies or addresses.

Each process counts for itself. A parent asks its processes, adds up, and keeps what processes that have ended counted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from instances.gateway.config import CannotStart, Config

if TYPE_CHECKING:
    from instances.gateway.server import Gateway

_PREFIX = "beamport_gateway_"
_TIMEOUT = 5.0
_LONGEST = 8192

#: name → kind, how processes are put together, what it is
_KNOWN: dict[str, tuple[str, Callable[[Iterable[float]], float], str]] = {
    "processes": ("gauge", sum, "Processes, those that drain included."),
    "draining": ("gauge", sum, "Processes that drain."),
    "connections": ("gauge", sum, "Open connections of clients."),
    "opening": ("gauge", sum, "Connections in their handshake."),
    "tunnels": ("gauge", sum, "Open WebSockets."),
    "sessions": ("gauge", max, "Living browser sessions on instances."),
    "routes": ("gauge", max, "Instances in the route table that are served."),
    "requests_total": ("counter", sum, "Requests passed on and answered, by class of status."),
    "answers_total": ("counter", sum, "Answers of the gateway's own, by status: refusals, redirects, pages."),
    "refused_total": ("counter", sum, "Connections not let in, by reason."),
    "received_bytes_total": ("counter", sum, "Bytes of bodies and WebSockets from clients."),
    "sent_bytes_total": ("counter", sum, "Bytes of bodies and WebSockets to clients."),
    "withdrawals_total": ("counter", sum, "Sessions withdrawn that had something open."),
    "withdrawn_connections_total": ("counter", sum, "Connections closed by withdrawals."),
    "withdrawal_seconds_total": ("counter", sum, "Time from the portal's word to the last connection closed."),
    "renewals_total": ("counter", sum, "Renewals of sessions, by outcome."),
    "link_up": ("gauge", min, "Whether the portal is heard."),
    "link_silence_seconds": ("gauge", max, "Since when nothing has been heard of the portal."),
    "loop_lag_seconds": ("gauge", max, "How late the event loop was at its last tick."),
    "accept_pauses_total": ("counter", sum, "Times that nothing could be accepted for lack of descriptors or memory."),
    "resident_bytes": ("gauge", sum, "Memory."),
    "open_files": ("gauge", sum, "Open descriptors."),
    "cpu_seconds_total": ("counter", sum, "Processor time."),
}

#: a name of `_KNOWN`, with a label or without: `requests_total{status="2xx"}`
Figures = dict[str, float]


class Metrics:
    """What is counted as it happens; everything else is looked up when somebody asks."""

    __slots__ = ("answers", "lag", "pauses", "received", "refused", "renewals", "requests", "sent", "withdrawals")

    def __init__(self) -> None:
        self.requests = [0] * 10
        self.answers: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.renewals: Counter[str] = Counter()
        self.received = self.sent = 0
        #: sessions, connections, seconds
        self.withdrawals = [0, 0, 0.0]
        self.lag = 0.0
        self.pauses = 0

    def figures(self, gateway: Gateway) -> Figures:
        reception = gateway.reception
        sessions, connections, seconds = self.withdrawals
        return {
            "processes": 1,
            "draining": int(gateway.draining),
            "connections": len(reception.clients),
            "opening": reception.opening,
            "tunnels": sum(1 for client in reception.clients if client.tunnel is not None),
            "sessions": len(gateway.sessions),
            "routes": sum(1 for route in gateway.routes if route.served),
            **{f'requests_total{{status="{n}xx"}}': self.requests[n] for n in range(1, 6)},
            **{f'answers_total{{status="{status}"}}': count for status, count in self.answers.items()},
            **{f'refused_total{{reason="{reason}"}}': count for reason, count in self.refused.items()},
            "received_bytes_total": self.received,
            "sent_bytes_total": self.sent,
            "withdrawals_total": sessions,
            "withdrawn_connections_total": connections,
            "withdrawal_seconds_total": seconds,
            **{f'renewals_total{{outcome="{outcome}"}}': count for outcome, count in self.renewals.items()},
            "link_up": int(gateway.link.up.is_set()),
            "link_silence_seconds": time.monotonic() - gateway.link.heard,
            "loop_lag_seconds": self.lag,
            "accept_pauses_total": self.pauses,
            **_process(),
        }


def _process() -> Figures:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "open_files": len(os.listdir("/proc/self/fd")),
        "cpu_seconds_total": time.process_time(),
    }


def _name(sample: str) -> str:
    return sample.partition("{")[0]


def counters(figures: Figures) -> Figures:
    """Return what goes on counting when a process has ended."""
    return {sample: value for sample, value in figures.items() if _KNOWN[_name(sample)][0] == "counter"}


def add_up(several: Iterable[Figures]) -> Figures:
    gathered: dict[str, list[float]] = {}
    for figures in several:
        for sample, value in figures.items():
            gathered.setdefault(sample, []).append(value)
    return {sample: _KNOWN[_name(sample)][1](values) for sample, values in gathered.items()}


def exposition(total: Figures, processes: dict[str, Figures]) -> str:
    """Return the text: the total under each name, the processes under `process_…` with a label."""
    lines = []
    for name, (kind, _merge, text) in _KNOWN.items():
        lines += [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]
        lines += [f"{_PREFIX}{sample} {value:.15g}" for sample, value in total.items() if _name(sample) == name]
    for name, (kind, _merge, text) in _KNOWN.items():
        if kind == "gauge" and processes:
            lines += [f"# HELP {_PREFIX}process_{name} {text}", f"# TYPE {_PREFIX}process_{name} gauge"]
            lines += [
                f'{_PREFIX}process_{name}{{process="{process}"}} {figures[name]:.15g}'
                for process, figures in processes.items()
                if name in figures
            ]
    return "\n".join(lines) + "\n"


async def serve(config: Config, text: Callable[[], Awaitable[str]]) -> list[asyncio.Server]:
    """Answer `GET /metrics` where it is wanted; raises CannotStart."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                found = head.startswith((b"GET /metrics HTTP/1.", b"GET /metrics?"))
                status, body = ("200 OK", await text()) if found else ("404 Not Found", "")
                fields = f"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"HTTP/1.1 {status}\r\n{fields}Connection: close\r\n\r\n{body}".encode())
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    try:
        return [await asyncio.start_server(answer, *address, limit=_LONGEST) for address in config.metrics_listen]
    except OSError as error:
        raise CannotStart(f"GATEWAY_METRICS_LISTEN: {error.strerror}.") from error


def of_one(gateway: Gateway) -> Callable[[], Awaitable[str]]:
    """Return what the metrics of a gateway without a parent are read with."""

    async def text() -> str:
        return exposition(gateway.metrics.figures(gateway), {})

    return text
