"""One request and its response: head up, body bytes as they come, head down, body bytes as they come."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from instances.gateway import headers, pages
from instances.gateway.bodies import Body, Refused
from instances.gateway.http1 import Fields, Request, Response, build, head_end, parse_response
from instances.gateway.tunnel import Tunnel, accept_of
from instances.gateway.upstream import NotConnected, Target, Upstream

if TYPE_CHECKING:
    from instances.gateway.access import Grant
    from instances.gateway.connection import Client
    from instances.gateway.server import Gateway

_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_INTERIM_LIMIT = 8


class Exchange:
    """Owned by its client connection; `grant` is None on the portal's host."""

    __slots__ = (
        "_body",
        "_client",
        "_gateway",
        "_head",
        "_interim",
        "_keep",
        "_partial",
        "_pending",
        "_response",
        "_response_body",
        "_target",
        "_task",
        "_turn",
        "_window",
        "_window_bytes",
        "began",
        "grant",
        "received",
        "request",
        "request_id",
        "sent",
        "status",
        "upstream",
    )

    def __init__(
        self,
        gateway: Gateway,
        client: Client,
        request: Request,
        target: Target,
        head: bytes,
        grant: Grant | None,
        request_id: str = "",
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._target = target
        self._head = head
        self._body = request.body()
        self._pending = b""
        self._partial: bytes | bytearray = b""
        self._interim = 0
        self._keep = False
        self._response: Response | None = None
        self._response_body: Body | None = None
        self._task: asyncio.Task[None] | None = None
        self.request = request
        self.request_id = request_id
        self.grant = grant
        self.upstream: Upstream | None = None
        self.began = self._window = self._turn = time.monotonic()
        self._window_bytes = 0
        self.received = self.sent = self.status = 0

    @property
    def takes_body(self) -> bool:
        """Whether bytes of the client belong to this request."""
        return not self._body.done

    # ---- towards the back end ----
    def begin(self, rest: bytes) -> None:
        """Send the request; `rest` is what came behind its head.

        Only a request that may be repeated takes an idle connection, which can die as we write.
        """
        request = self.request
        if rest:
            self.from_client(rest)
            if self._client.exchange is not self:
                return
        elif b"expect" in request.fields and request.has_body and request.minor:
            self._client.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        repeatable = request.method in _SAFE and not request.has_body and not request.websocket
        upstream = self._gateway.pool.take(self._target.key) if repeatable else None
        if upstream is not None:
            self._use(upstream)
        else:
            self._connect()

    def _connect(self) -> None:
        self._client.pause(self._client.CONNECTING)
        self._task = self._gateway.spawn(self._connected())

    async def _connected(self) -> None:
        try:
            upstream = await self._gateway.pool.connect(self._target)
        except NotConnected as error:
            self._gateway.log.event("warning", "back end not reached", error=error, request_id=self.request_id)
            self.fail(502)
            return
        if upstream.transport.is_closing():  # it ended before anybody was there to be told
            self.fail(502)
            return
        self._task = None
        if self._client.exchange is not self:
            upstream.close()
            return
        self._use(upstream)
        self._client.resume(self._client.CONNECTING)

    def _use(self, upstream: Upstream) -> None:
        self.upstream = upstream
        upstream.user = self
        if self._client.write_paused:
            upstream.transport.pause_reading()
        upstream.transport.write(self._head + self._pending if self._pending else self._head)
        self._pending = b""

    def from_client(self, data: bytes) -> None:
        """Take body bytes; what lies behind the body waits until this exchange is over."""
        if self._body.done:
            self._client.hold(data)
            return
        try:
            out, rest = self._body.feed(data)
        except Refused as refused:
            self.fail(refused.status)
            return
        self.received += len(data) - len(rest)
        if out:
            if self.upstream is not None:
                self.upstream.transport.write(out)
            else:
                self._pending += out
        if rest:
            self._client.hold(rest)

    # ---- from the back end ----
    def from_upstream(self, data: bytes) -> None:
        try:
            if self._response_body is None:
                self._read_head(data)
            else:
                self._relay(data)
        except Refused as refused:
            self._gateway.log.event("warning", "response refused", error=refused, request_id=self.request_id)
            self.fail(refused.status)

    def _read_head(self, data: bytes) -> None:
        start = len(self._partial)
        if start:
            self._partial += data
            if head_end(self._partial, start, status=502) < 0:
                return
            data, start = bytes(self._partial), 0
        while True:
            end = head_end(data, start, status=502)
            if end < 0:
                self._partial = bytearray(data)
                return
            response = parse_response(data[:end], self.request.method)
            data = data[end:]
            if response.status >= 200 or response.status == 101:
                break
            self._interim += 1  # nobody asked for 100, and 103 is only a hint
            if self._interim > _INTERIM_LIMIT:
                raise Refused(502, "too many interim responses")
            start = 0
        self._partial = b""
        if response.status == 101:
            self._switch(response, data)
        else:
            self._respond(response, data)

    def _respond(self, response: Response, data: bytes) -> None:
        request, client = self.request, self._client
        bare = response.chunked and not request.minor
        body = response.body(bare=bare)
        fields = self._filtered(response)
        self._keep = request.keep_alive and self._body.done and not (body.until_close or bare or self._gateway.draining)
        head = build(pages.status_line(response.status), fields, self._own_lines(response, bare))
        out, rest = body.feed(data) if data else (b"", b"")
        self._response, self._response_body, self.status = response, body, response.status
        self.sent = len(out)
        client.transport.write(head + out if out else head)
        if body.done:
            self._finish(rest)

    def _own_lines(self, response: Response, bare: bool) -> bytes:
        """Framing and connection of the response to the client, and a fresh session cookie when due."""
        counted = response.status != 204 if response.bodyless else not response.chunked
        lines = b""
        if response.length is not None and counted:
            lines = b"Content-Length: %d\r\n" % response.length
        elif response.chunked and not bare and not response.bodyless:
            lines = b"Transfer-Encoding: chunked\r\n"
        if not self._keep:
            lines += b"Connection: close\r\n"
        elif not self.request.minor:
            lines += b"Connection: keep-alive\r\n"
        if self.grant is not None and self.grant.renew and not headers.is_shared(response):
            lines += self._cookie_line()
        return lines

    def _cookie_line(self) -> bytes:
        if self.grant is None or not self.grant.renew:
            return b""
        return f"Set-Cookie: {self._gateway.sessions.cookie(self.grant.session)}\r\n".encode()

    def _filtered(self, response: Response) -> Fields:
        if self.grant is None or not response.check:
            return response.passed
        return headers.response_from_instance(response, self.request.host, self._gateway.config.portal_host)

    def _relay(self, data: bytes) -> None:
        body = self._response_body
        if body is None or body.done:
            raise Refused(502, "bytes behind the response")
        out, rest = body.feed(data)
        if out:
            self.sent += len(out)
            self._client.transport.write(out)
        if body.done:
            self._finish(rest)

    def _switch(self, response: Response, data: bytes) -> None:
        """Open the tunnel: only the matching answer to our own handshake does."""
        accepts = [value for name, value in response.passed if name.lower() == b"sec-websocket-accept"]
        key = self.request.fields.get(b"sec-websocket-key", b"")
        if not self.request.websocket or response.upgrade != b"websocket" or accepts != [accept_of(key)]:
            raise Refused(502, "upgrade nobody asked for")
        fields = self._filtered(response)
        lines = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + self._cookie_line()
        upstream, client = self.upstream, self._client
        if upstream is None:
            raise Refused(502, "no connection")
        client.transport.write(build(pages.status_line(101), fields, lines) + data)
        self.status = 101
        self.sent = len(data)
        self.upstream = upstream.user = None
        early = client.take_held()
        client.tunnel = Tunnel(client.transport, upstream.transport, self._tunnel_ended)
        client.resume_all()
        if client.write_paused:
            client.tunnel.front.pause_writing()
        if early:  # may be more than the back end takes: its end of the tunnel pauses the client again
            upstream.transport.write(early)

    def _tunnel_ended(self, tunnel: Tunnel) -> None:
        self.received += tunnel.front.count
        self.sent += tunnel.back.count
        self._client.ended()

    # ---- the end ----
    def _finish(self, rest: bytes) -> None:
        upstream, self.upstream = self.upstream, None
        response = self._response
        if upstream is None or response is None:
            return
        if self._client.write_paused:
            upstream.transport.resume_reading()
        if response.keep_alive and not rest and self._body.done:
            self._gateway.pool.give_back(upstream)
        else:
            upstream.close()
        self._client.finished(keep=self._keep, linger=not self._body.done)

    def upstream_lost(self, error: Exception | None) -> None:
        upstream, self.upstream = self.upstream, None
        body = self._response_body
        if body is not None:
            if body.until_close and error is None:
                self._client.finished(keep=False, linger=not self._body.done)
            else:
                self._client.abort()  # a cut body must not look whole
        elif upstream is not None and not upstream.fresh and not self._partial and not self._interim:
            self._connect()
        else:
            self._gateway.log.event(
                "warning", "back end hung up", error=error or "no answer", request_id=self.request_id
            )
            self.fail(502)

    def fail(self, status: int) -> None:
        """End with an error; a response that has begun is cut."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close()
        if self.status:
            self._client.abort()
            return
        self.status = status
        self._client.finish_with(self._gateway.failure(self, status))

    def client_lost(self) -> None:
        """The client went away or was withdrawn: nothing of this goes on."""
        if self._task is not None:
            self._task.cancel()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close()

    def pause_client(self) -> None:
        self._client.pause(self._client.BACK_PRESSURE)

    def resume_client(self) -> None:
        self._client.resume(self._client.BACK_PRESSURE)

    def check(self, now: float) -> None:
        """Time-outs: a request body that trickles, and a back end that neither reads nor answers."""
        limits = self._gateway.config.limits
        if self._body.done or self._client.paused:
            self._window, self._window_bytes = now, self.received
            if self._response_body is None and now - self._turn > limits.response:
                self.fail(504)
            return
        self._turn = now
        if now - self._window >= limits.body_window:
            slow = self.received - self._window_bytes < limits.body_rate * limits.body_window
            self._window, self._window_bytes = now, self.received
            if slow:
                self.fail(408)
