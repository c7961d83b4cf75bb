"""P4 and P6: 1 KB messages on fifty WebSockets through each relay in turn, and the memory that an idle one takes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import cast

import uvloop

from tests.bench.peers.backend import FRAME, MESSAGE
from tests.bench.peers.lib import PATIENCE, Goal, Processes, Sample, in_turn, scratch
from tests.bench.peers.proxies import CHANNELS, CHP, OURS, WEBSOCKIFY, Proxies, Target
from tests.bench.peers.setup import Peers

CONNECTIONS, SECONDS = 50, 3.0
#: websockify has a process for each
IDLE, IDLE_OURS = 100, 5000
#: a mask of zeros leaves the message as it is
_SENT = b"\x82\xfe" + MESSAGE.to_bytes(2) + bytes(4 + MESSAGE)
_HANDSHAKE = (
    "GET /ws/echo HTTP/1.1\r\n{fields}Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def connect(port: int, fields: Mapping[str, str]) -> socket.socket:
    """Return an open WebSocket."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(_HANDSHAKE.format(fields="".join(f"{name}: {value}\r\n" for name, value in fields.items())).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        more = sock.recv(4096)
        assert more, head
        head += more
    assert b" 101 " in head.partition(b"\r\n")[0], head
    return sock


def check(target: Target) -> None:
    """One message through and back, byte for byte."""
    with connect(target.port, target.fields) as sock:
        sock.sendall(_SENT)
        back = b""
        while len(back) < len(FRAME):
            back += sock.recv(65536)
        assert back == FRAME, f"{target.name} changed a message"
    print(f"  {target.name}: one message byte for byte", flush=True)


class Sender(asyncio.Protocol):
    """Sends the next message when the last has come back."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.count = self.came = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write
        self.write(_SENT)

    def data_received(self, data: bytes) -> None:
        messages, self.came = divmod(self.came + len(data), len(FRAME))
        self.count += messages
        if messages and time.monotonic() < self.until:
            self.write(_SENT)


async def exchange(target: Target) -> int:
    """Return how many messages went and came back."""
    loop, senders = asyncio.get_running_loop(), []
    opened = [connect(target.port, target.fields) for _ in range(CONNECTIONS)]
    until = time.monotonic() + SECONDS
    for sock in opened:
        sock.setblocking(False)
        senders.append(await loop.create_connection(lambda: Sender(until), sock=sock))
    await asyncio.sleep(SECONDS + 0.3)
    for transport, _ in senders:
        transport.close()
    return sum(sender.count for _, sender in senders)


def idle(target: Target, count: int) -> tuple[float, float]:
    """Return KB per idle WebSocket, and MB in all."""
    before = target.pss()
    opened = [connect(target.port, target.fields) for _ in range(count)]
    time.sleep(1)
    after = target.pss()
    for sock in opened:
        sock.close()
    return 1024 * (after - before) / count, after


class Sockets:
    def __init__(self, targets: dict[str, Target]) -> None:
        self.targets = targets
        self.cpu = {name: Sample() for name in targets}

    def measure(self, name: str) -> Callable[[int], Awaitable[None]]:
        async def measured(_round: int) -> None:
            target = self.targets[name]
            before = target.cpu()
            count = await asyncio.to_thread(uvloop.run, exchange(target))
            self.cpu[name].add(1e6 * (target.cpu() - before) / count)

        return measured

    def goals(self) -> list[Goal]:
        for name, sample in self.cpu.items():
            print(f"  1 KB message through {name}, CPU µs: {sample}")
        own = self.cpu[OURS].median
        found = [
            Goal("P4", f"CPU of a 1 KB message / {name}", own, "µs", limit, self.cpu[name].median)
            for name, limit in ((CHP, 0.8), (WEBSOCKIFY, 1 / 3), (CHANNELS, 1 / 5))
        ]
        each, total = idle(self.targets[OURS], IDLE_OURS)
        other, _ = idle(self.targets[WEBSOCKIFY], IDLE)
        return [
            *found,
            Goal("P6", f"memory of an idle WebSocket, {IDLE_OURS} open", each, "KB", 16),
            Goal("P6", f"the same / {WEBSOCKIFY}", each, "KB", 1 / 200, other),
            Goal("P6", f"gateway with {IDLE_OURS} idle WebSockets", total, "MB", 150),
        ]


async def run(peers: Peers, rounds: int) -> list[Goal]:
    with scratch() as folder, Processes(folder) as processes:
        proxies = Proxies(peers, processes)
        targets = await asyncio.to_thread(proxies.start, CHP, WEBSOCKIFY, CHANNELS, OURS)
        targets[OURS] = replace(targets[OURS], fields=proxies.sockets_of_ours())
        for name in (CHP, WEBSOCKIFY, CHANNELS):
            targets[name] = replace(targets[name], fields={"Host": f"127.0.0.1:{targets[name].port}"})
        for target in targets.values():
            await asyncio.to_thread(check, target)
        sockets = Sockets(targets)
        await in_turn(rounds, {name: sockets.measure(name) for name in targets})
        return await asyncio.to_thread(sockets.goals)
