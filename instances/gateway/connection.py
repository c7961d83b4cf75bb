"""A client's connection: reads one head at a time, and what is done with it is the gateway's to say."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

from instances.gateway import pages
from instances.gateway.bodies import Refused
from instances.gateway.headers import Tossed
from instances.gateway.http1 import FIELD_LIMIT, HEAD_LIMIT, Request, check_first_line, head_end, parse_request
from instances.gateway.tunnel import has_unread, vanished

if TYPE_CHECKING:
    from instances.gateway.exchange import Exchange
    from instances.gateway.server import Gateway
    from instances.gateway.session import Session
    from instances.gateway.tunnel import Tunnel

WRITE_LIMIT = 128 * 1024
_LINGER_SECONDS = 2.0
_COOKIE = re.compile(rb"\r\ncookie:[^\r\n]*", re.IGNORECASE)


class Client(asyncio.Protocol):
    """Idle, reading a head, deciding, in an exchange, a tunnel, or lingering until the other side has read the end."""

    __slots__ = (
        "_buffer",
        "_deadline",
        "_gateway",
        "_idle",
        "_lingering",
        "_seen",
        "_stalled",
        "_task",
        "address",
        "exchange",
        "paused",
        "request",
        "session",
        "transport",
        "tunnel",
        "write_paused",
    )
    #: why nothing is read from the client
    CONNECTING, BACK_PRESSURE, PIPELINED, UNREAD = 1, 2, 4, 8
    transport: asyncio.Transport

    def __init__(self, gateway: Gateway, address: str) -> None:
        self._gateway = gateway
        self._buffer: bytes | bytearray = b""
        self._seen = 0
        self._idle = gateway.config.limits.idle
        self._deadline = time.monotonic() + self._idle
        self._lingering = False
        self._stalled = 0.0
        self._task: asyncio.Task[None] | None = None
        self.address = address
        self.exchange: Exchange | None = None
        self.paused = 0
        self.request: Request | None = None
        self.session: Session | None = None
        self.tunnel: Tunnel | None = None
        self.write_paused = False

    # ---- asyncio ----
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self._gateway.admit(self)

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.from_client(data)
        elif self._lingering:
            return
        elif self._task is not None:
            self.hold(data)
        else:
            if self._buffer:
                if isinstance(self._buffer, bytes):
                    self._buffer = bytearray(self._buffer)
                self._buffer += data
            else:
                self._buffer = data
            self._read_head()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._stalled = time.monotonic()
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.paused & self.UNREAD:
            self.resume(self.UNREAD)
            asyncio.get_running_loop().call_soon(self._next)
        elif self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_lost()
            self._log(exchange, exchange.status or 499)
        self._gateway.gone(self)

    def ended(self) -> None:
        """The tunnel is over."""
        self._gateway.count_tunnel(self, time.monotonic())
        exchange, self.exchange, self.tunnel = self.exchange, None, None
        if exchange is not None:
            self._log(exchange, exchange.status)
        self._gateway.gone(self)

    # ---- reading ----
    @property
    def began(self) -> float:
        """By when a head that has begun must be complete; 0 when none has."""
        return self._deadline if self._seen and not self._lingering else 0.0

    def _read_head(self) -> None:
        buffer = self._buffer
        try:
            end = head_end(buffer, self._seen)
            if end < 0:
                check_first_line(buffer)
                if not self._seen:
                    self._deadline = time.monotonic() + self._gateway.config.limits.head
                self._seen = len(buffer)
                self.resume(self.PIPELINED)
                return
            self._seen = 0
            head = bytes(buffer[:end])
            if end == len(buffer):
                self._buffer = b""
            else:
                self._buffer = buffer if isinstance(buffer, bytearray) else bytearray(buffer)
                del self._buffer[:end]  # moves nothing: requests may come by the thousand
            buffer = head
            request = self.request = parse_request(head)
            self._gateway.handle(self, request)
        except Refused as refused:
            self.refuse(refused, buffer)
        except Exception as error:
            self.broken(error)

    def refuse(self, refused: Refused, start: bytes | bytearray = b"") -> None:
        """Answer a request that is not passed on, and close; its body is not read. `start` is what was sent."""
        if isinstance(refused, Tossed):
            answer = pages.tossed()
        elif refused.status == 431 and self.request is None:
            answer = pages.too_large(any(len(line) > FIELD_LIMIT for line in _COOKIE.findall(start)))
        else:
            answer = pages.refusal(refused.status, str(refused), self.request)
        self.answer(answer)

    def broken(self, error: BaseException) -> None:
        """A fault of ours: it is said, never hung up on."""
        self._gateway.log.event("error", "request failed", error=repr(error))
        if self.exchange is not None:
            self.exchange.fail(500)
        else:
            self.answer(pages.refusal(500, "something went wrong here; try it again", self.request))

    def hold(self, data: bytes) -> None:
        """Keep what belongs to the next request (or to a tunnel that is not open yet), and read no more."""
        self._buffer = bytearray(self._buffer) + data if self._buffer else data
        self.pause(self.PIPELINED)
        if len(self._buffer) > HEAD_LIMIT + 262_144:
            self.abort()

    def take_held(self) -> bytes:
        held, self._buffer = bytes(self._buffer), b""
        return held

    def pause(self, why: int) -> None:
        if not self.paused and not self.transport.is_closing():
            self.transport.pause_reading()
        self.paused |= why

    def resume(self, why: int) -> None:
        if self.paused:
            self.paused &= ~why
            if not self.paused and not self.transport.is_closing():
                self.transport.resume_reading()

    def resume_all(self) -> None:
        self.resume(self.paused)

    # ---- answering ----
    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        if not self._buffer:
            exchange.begin(b"")
        elif exchange.takes_body:
            self.resume(self.PIPELINED)
            exchange.begin(self.take_held())
        else:
            self.pause(self.PIPELINED)
            exchange.begin(b"")

    def later(self, task: asyncio.Task[None]) -> None:
        """A decision that takes a call to the portal is under way."""
        self._task = task
        task.add_done_callback(self._given_up)

    def _given_up(self, task: asyncio.Task[None]) -> None:
        if self._task is task and not self.transport.is_closing():
            self.decided()
            self.broken(asyncio.CancelledError() if task.cancelled() else task.exception() or RuntimeError("undecided"))

    def decided(self) -> None:
        self._task = None
        self.resume(self.PIPELINED)

    def answer(self, answer: pages.Answer) -> None:
        """Send an answer of the gateway's own."""
        request = self.request
        keep = answer.keep and request is not None and request.keep_alive and not request.has_body
        keep = keep and bool(request and request.minor) and not self._gateway.draining
        head_only = request is not None and request.method == b"HEAD"
        data = answer.render(keep=keep, head_only=head_only, strict=self._gateway.hsts)
        self.transport.write(data)
        if self.exchange is None:
            self._gateway.log_own(self, answer.status, len(data))
        self.finished(keep=keep, linger=True)

    def finish_with(self, answer: pages.Answer) -> None:
        """The exchange failed before anything was sent."""
        self.resume(self.CONNECTING)
        self.answer(answer)

    def finished(self, *, keep: bool, linger: bool) -> None:
        """The response is out: read the next request, or close."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._log(exchange, exchange.status)
        self.request = None
        if keep:
            self._deadline = time.monotonic() + self._idle
            wait = self.PIPELINED if self._buffer else 0
            if self.write_paused:  # who does not read our answers gets no more of them
                wait |= self.UNREAD
            elif self._buffer:
                asyncio.get_running_loop().call_soon(self._next)
            if self.paused != wait:
                self.pause(wait)
                self.resume(~wait)
        elif linger:
            self._linger()
        else:
            self._deadline = time.monotonic() + self._gateway.config.limits.stalled
            self.transport.close()

    def _next(self) -> None:
        if self.exchange is None and self._task is None and self._buffer and not self.transport.is_closing():
            self._read_head()

    def _linger(self) -> None:
        """Close, but not while the other side still sends: it would lose our answer (RFC 9112 §9.6)."""
        self._lingering = True
        self._buffer = b""
        unread = self.transport.get_write_buffer_size()
        self._deadline = time.monotonic() + (self._idle if unread else _LINGER_SECONDS)
        self.resume_all()
        if not self.transport.is_closing() and self.transport.can_write_eof():  # TLS has no half-closed state here
            self.transport.write_eof()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self.tunnel is not None:
            self.tunnel.abort()
        else:
            self.transport.abort()

    def cut(self) -> None:
        """End what is under way; who has had no answer yet is told to ask again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self.answer(pages.interrupted(self.request))
        elif self.exchange is not None and not self.exchange.status:
            self.exchange.fail(503)
        else:
            self.abort()

    def _log(self, exchange: Exchange, status: int) -> None:
        self._gateway.log_exchange(self, exchange, status)

    # ---- time ----
    def check(self, now: float) -> None:
        """Called each second."""
        limits = self._gateway.config.limits
        if self.tunnel is not None:
            if self.tunnel.idle(now) > limits.tunnel_idle or self.tunnel.stuck(now) > limits.stalled:
                self.abort()
        elif self.write_paused and now - self._stalled > limits.stalled:
            self.abort()
        elif self.paused and vanished(self.transport):
            self.transport.close()
        elif self.exchange is not None:
            self.exchange.check(now)
        elif now > self._deadline and self._task is None:
            self._overdue()

    def _overdue(self) -> None:
        if self._lingering or self.transport.is_closing():
            self.transport.abort()
        elif self._seen:
            self.refuse(Refused(408, "the request did not come in time"))
        elif not has_unread(self.transport):
            self.transport.close()

    def drain(self) -> None:
        """Close when idle; what is under way may end, and what has come already is answered."""
        idle = self.exchange is None and self._task is None and self.tunnel is None
        if idle and not self._buffer and not has_unread(self.transport):
            self.transport.close()
