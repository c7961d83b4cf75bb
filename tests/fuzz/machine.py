"""A whole gateway without sockets: one client, its back ends and the time are moved by a script of bytes.

A script is a list of steps with 0xFE between them, each a letter and what it needs:
`c` bytes from the client, `u` from the back end in use, `i` from an idle one · `C` the client closes, `E` the back end
closes, `X` it breaks · `h` back ends are slow to accept, `o` one accepts, `f` one refuses · `B` the client stops
reading, `D` it reads again, `b` and `d` the same of the back end · `t` seconds pass · `W` the session is withdrawn.
In what the client sends `{c}` stands for a session's fields, `{h}` for the instance's Host and `{p}` for the portal's.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from instances.gateway import connection, upstream
from instances.gateway.clock import Clock
from instances.gateway.config import Config
from instances.gateway.connection import Client
from instances.gateway.http1 import HEAD_LIMIT
from instances.gateway.log import Log
from instances.gateway.server import Gateway
from instances.gateway.upstream import Endpoint, NotConnected, Pool, Target, Upstream

END = b"\xfe"
HIGH = 512
#: what may still be written to a side that takes nothing: what was read at once, and an answer of the gateway's own
_MORE = 8192
_SLUG, _INSTANCE, _SID = "alpha1234", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
_SOCKETS = socket.socketpair()  # something to poll that never closes


class Broken(AssertionError):
    """A promise of the gateway does not hold."""


class Still(Clock):
    """The portal's time stands, so that cookies are the same in every run."""

    def now(self) -> float:
        return 1_000_000.0

    def set(self, portal_now: float) -> None: ...


class Transport(asyncio.Transport):
    """As uvloop's: delivers nothing while reading is paused, and says when too much waits to be written."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.protocol: Any = None
        self.out = bytearray()
        self.got = bytearray()
        self.waiting = 0
        self.after_pause = 0
        self.blocked = self.told = self.closing = self.lost = False
        self.reading = True
        #: what was written before the tunnel began
        self.tunnel_at: int | None = None
        #: how our side ended: "" while it has not, "closed" with all that was written, or "cut"
        self.end_of_ours = ""
        self.ended: list[Exception | None] = []
        self._inbox = bytearray()

    # ---- what a script does ----
    def deliver(self, data: bytes) -> None:
        if not self.lost and not self.ended:
            self._inbox += data
            self.pump()

    def end(self, error: Exception | None) -> None:
        """The other side closes, or breaks."""
        if not self.ended:
            self.ended.append(error)
            self.pump()

    def block(self) -> None:
        self.blocked = True

    def drain(self) -> None:
        self.blocked, self.waiting, self.after_pause = False, 0, 0
        if self.told:
            self.told = False
            self.protocol.resume_writing()
        if self.closing:
            self._lose(None)

    def pump(self) -> None:
        while self.reading and self._inbox and not self.closing:
            data = bytes(self._inbox)
            self._inbox.clear()
            self.got += data
            self.protocol.data_received(data)
        if self.reading and self.ended and not self.closing:
            self.closing = True
            self._lose(self.ended[0])

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.loop.call_soon(lambda: self.protocol.connection_lost(error))

    # ---- what asyncio promises ----
    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.out += data
        if self.blocked:
            if self.told:
                self.after_pause += len(data)
                if self.after_pause > _MORE:
                    raise Broken("written to a side that takes nothing")
            self.waiting += len(data)
            if self.waiting > HIGH and not self.told:
                self.told = True
                self.protocol.pause_writing()

    def close(self) -> None:
        self.end_of_ours = self.end_of_ours or "closed"
        if not self.closing:
            self.closing = True
            if not self.waiting:
                self._lose(None)

    def abort(self) -> None:
        self.end_of_ours = self.end_of_ours or "cut"
        self.closing = True
        self._lose(None)

    def write_eof(self) -> None:
        self.end_of_ours = "closed"

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.closing and not self.reading:
            self.reading = True
            self.loop.call_soon(self.pump)

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol
        self.tunnel_at = len(self.out)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "socket": _SOCKETS[0]}.get(name, default)


class Back:
    """One connection to a back end: which, and what passed."""

    def __init__(self, target: Target, transport: Transport, protocol: Upstream) -> None:
        self.instance = target.guarded
        self.transport = transport
        self.protocol = protocol
        #: how much had come whenever it went back to the pool
        self.returned: list[int] = []


class Backs(Pool):
    """The gateway's pool, whose connections go nowhere and are made when the script says so."""

    def __init__(self) -> None:
        super().__init__(lambda _uid: True)
        self.made: list[Back] = []
        self.slow = False
        self.asked: list[asyncio.Future[None]] = []

    async def connect(self, target: Target) -> Upstream:
        loop = asyncio.get_running_loop()
        if self.slow:
            self.asked.append(loop.create_future())
            await self.asked[-1]
        protocol = Upstream(self, target.key)
        transport = Transport(loop)
        transport.protocol = protocol
        protocol.connection_made(transport)
        self.made.append(Back(target, transport, protocol))
        return protocol

    def give_back(self, upstream: Upstream) -> None:
        if upstream.transport.is_closing() or upstream.user is None:
            raise Broken("a connection in doubt in the pool")
        back = next(one for one in self.made if one.protocol is upstream)
        back.returned.append(len(back.transport.got))
        super().give_back(upstream)

    def hesitate(self) -> None:
        self.slow = True

    def chat(self, data: bytes) -> None:
        """The idle ones say something that nobody asked for."""
        for back in [one for one in self.made if self.holds(one)]:
            back.transport.deliver(data)

    def answer(self, error: Exception | None) -> None:
        while self.asked and (asked := self.asked.pop(0)):
            if asked.done():
                continue
            asked.set_exception(error) if error else asked.set_result(None)
            return

    def in_use(self) -> Back | None:
        return next((back for back in reversed(self.made) if not back.transport.lost and not self.holds(back)), None)

    def holds(self, back: Back) -> bool:
        return any(back.protocol in idle for idle in self._idle.values())


class Machine:
    """One gateway for a process; each run begins and ends with nothing open."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.errors: list[object] = []
        self.loop.set_exception_handler(lambda _loop, context: self.errors.append(context))
        connection.WRITE_LIMIT = upstream.WRITE_LIMIT = HIGH
        self.cookie = self.loop.run_until_complete(self._make())

    async def _make(self) -> bytes:
        nowhere = Endpoint("/nowhere")
        self.gateway = gateway = Gateway(
            Config(
                listen=(("127.0.0.1", 8000),),
                portal_url="http://localhost:8000",
                apps_domain="apps.localhost:8000",
                web=nowhere,
                internal=nowhere,
                token="t",
                instance_key=b"k" * 32,
            ),
            Log(os.open(os.devnull, os.O_WRONLY)),
        )
        gateway.clock = gateway.sessions._clock = Still()
        log = gateway.log.event
        gateway.log.event = self._event(log)  # type: ignore[method-assign]
        key = base64.urlsafe_b64encode(b"1" * 32).decode()
        gateway.sessions.keys.set({"current": "k1", "keys": {"k1": key}})
        service = {"name": "jupyter", "kind": "unix", "path": "/nowhere", "roles": ["owner"]}
        gateway.apply(
            {
                "type": "route",
                "slug": _SLUG,
                "instance": _INSTANCE,
                "state": "active",
                "version": 1,
                "secret_epoch": 1,
                "services": [service],
            }
        )
        return gateway.sessions.cookie(self._session()).partition(";")[0].encode()

    def _session(self) -> Any:
        """Have the session live (again)."""
        self.gateway.sessions._revoked.clear()
        row = {"sid": _SID, "slug": _SLUG, "instance": _INSTANCE, "role": "owner", "epoch": 1, "version": 1}
        return self.gateway.sessions.add({**row, "expires": 1_000_200.0})

    def _event(self, log: Any) -> Any:
        def event(level: str, event: str, **more: Any) -> None:
            if level == "error":
                self.errors.append((event, more))
            log(level, event, **more)

        return event

    def spelled(self, data: bytes) -> bytes:
        """Put in what the short forms stand for."""
        fields = b"Cookie: " + self.cookie + b"\r\nSec-Fetch-Site: same-origin"
        data = data.replace(b"{c}", fields).replace(b"{p}", b"Host: localhost:8000")
        return data.replace(b"{h}", b"Host: alpha1234.apps.localhost:8000")

    def run(self, script: bytes, piece: int = 0) -> Run:
        """Play a script; with `piece` everything comes in pieces of so many bytes."""
        self.errors.clear()
        self._session()
        run = Run(self, piece)
        self.loop.run_until_complete(run.play(script))
        if self.errors:
            raise Broken(self.errors[0])
        return run


class Run:
    """What one script did."""

    def __init__(self, machine: Machine, piece: int) -> None:
        self.machine, self.gateway, self.piece = machine, machine.gateway, piece
        self.backs = self.gateway.pool = Backs()
        self.client = Client(self.gateway, "127.0.0.1")
        self.front = Transport(machine.loop)
        self.front.protocol = self.client
        self.disturbed = self.refused = False
        self.now = time.monotonic()

    async def play(self, script: bytes) -> None:
        self.gateway.reception._per_address = {"127.0.0.1": 1}
        self.gateway.reception._held = {self.client}
        self.client.connection_made(self.front)
        for step in script.split(END)[:64]:
            if step:
                await self._step(step[:1], step[1:])
                self._look()
        self.refused = self.front.end_of_ours == "cut"
        await self._over()

    async def _settle(self) -> None:
        """Until nothing more happens by itself."""
        for _ in range(1000):
            await asyncio.sleep(0)
            if not self.machine.loop._ready:  # type: ignore[attr-defined]
                return
        raise Broken("it never comes to rest")

    async def _step(self, what: bytes, data: bytes) -> None:
        back = self.backs.in_use()
        if what == b"c":
            await self._deliver(self.front, self.machine.spelled(data))
        elif what == b"u" and back is not None:
            await self._deliver(back.transport, data)
        else:
            self.disturbed = self.disturbed or what != b"u"
            self._act(what, data, back)
        await self._settle()

    async def _deliver(self, transport: Transport, data: bytes) -> None:
        size = self.piece or len(data) or 1
        for start in range(0, len(data), size):
            transport.deliver(data[start : start + size])
            if self.piece:
                await asyncio.sleep(0)

    def _act(self, what: bytes, data: bytes, back: Back | None) -> None:
        acts: dict[bytes, Callable[[], None]] = {
            b"C": lambda: self.front.end(None),
            b"B": self.front.block,
            b"D": self.front.drain,
            b"h": self.backs.hesitate,
            b"o": lambda: self.backs.answer(None),
            b"f": lambda: self.backs.answer(NotConnected("refused")),
            b"i": lambda: self.backs.chat(data),
            b"t": lambda: self._pass(int.from_bytes(data[:1], "big") * 2),
            b"W": lambda: self.gateway.sessions.withdraw(_SID),
        }
        if back is not None:
            acts |= {
                b"E": lambda: back.transport.end(None),
                b"X": lambda: back.transport.end(ConnectionResetError()),
                b"b": back.transport.block,
                b"d": back.transport.drain,
            }
        acts.get(what, lambda: None)()

    def _pass(self, seconds: int) -> None:
        self.now += seconds
        self.client.check(self.now)
        if self.client.tunnel is not None:
            self.client.tunnel.moved(self.now)

    def _look(self) -> None:
        """What must hold after every step."""
        if len(self.client._buffer) > HEAD_LIMIT + 262_144:
            raise Broken("a client's buffer grows")
        for idle in self.backs._idle.values():
            for one in idle:
                if one.user is not None or one.transport.is_closing():
                    raise Broken("a connection in doubt in the pool")
        if self.machine.errors:
            raise Broken(self.machine.errors[0])

    async def _over(self) -> None:
        """The client goes; nothing may stay."""
        self.front.abort()
        self.backs.answer(NotConnected("over"))
        await self._settle()
        for back in self.backs.made:
            if not self.backs.holds(back) and not back.transport.lost and not back.transport.closing:
                raise Broken("a back end's connection outlives its client")
            back.transport.abort()
        await self._settle()
        gateway = self.gateway
        left = [gateway.reception.clients, gateway.reception._per_address, self.backs._idle]
        left += [gateway.registry._by_session, gateway.registry._by_instance]
        left += [{task for task in gateway._tasks if not task.done()}]
        if any(left):
            raise Broken(f"left behind: {left}")
        gateway.log._lines.clear()
        gateway.usage._counts.clear()
