"""A TCP proxy before the API server: passes TLS as it is, and loses, tears or stalls answers when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """Listens on loopback. `fault` is for all connections, at once: "" passes everything.

    `lose` cuts the connection when the server begins to answer, `tear` after some of the answer, `stall` keeps the
    answer for ever, `refuse` takes no connection. The request has always arrived.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.fault = ""
        #: how many more answers the fault strikes; then all is well
        self.times = 0
        #: how many answers pass before
        self.skip = 0
        self.struck = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def break_(self, fault: str, times: int = 1, skip: int = 0) -> None:
        """Have this happen to so many answers, after the next `skip`."""
        with self._lock:
            self.fault, self.times, self.skip, self.struck = fault, times, skip, 0

    def heal(self) -> int:
        """Pass everything again, cut what was stalled, and return how many answers were struck."""
        with self._lock:
            self.fault, self.times = "", 0
        self.cut()
        return self.struck

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _end(one)

    def close(self) -> None:
        _end(self._listener)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.fault == "refuse":
                _end(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server), timeout=5)
            except OSError:
                _end(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            asked = threading.Event()
            threading.Thread(target=self._pass_requests, args=(client, server, asked), daemon=True).start()
            threading.Thread(target=self._pass_answers, args=(server, client, asked), daemon=True).start()

    def _pass_requests(self, client: socket.socket, server: socket.socket, asked: threading.Event) -> None:
        """Pass what the client sends. A request is a record of data (23) that is longer than the handshake's end."""
        try:
            while data := client.recv(2**16):
                if data[0] == 23 and len(data) > 200:
                    asked.set()
                server.sendall(data)
        except OSError:
            pass
        finally:
            _end(client)
            _end(server)

    def _pass_answers(self, server: socket.socket, client: socket.socket, asked: threading.Event) -> None:
        try:
            while data := server.recv(2**16):
                fault = self._strike() if asked.is_set() else ""
                if fault == "stall":
                    continue
                if fault:
                    time.sleep(0.3)  # what was asked for is done by now
                    if fault == "tear":
                        client.sendall(data[: max(1, len(data) - 40)])
                    break
                client.sendall(data)
        except OSError:
            pass
        finally:
            _end(server)
            _end(client)

    def _strike(self) -> str:
        with self._lock:
            if self.times <= 0 or not self.fault:
                return ""
            if self.skip:
                self.skip -= 1
                return ""
            self.times -= 1
            self.struck += 1
            return self.fault


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
