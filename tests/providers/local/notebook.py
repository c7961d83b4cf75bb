"""Talking to a JupyterLab: HTTP and kernels; on its unix socket as the gateway does, with the token in a header."""

from __future__ import annotations

import http.client
import json
import socket
import uuid
from typing import Any

from websockets.sync.client import connect

HOST = "abc.apps.localhost"


class Jupyter:
    def __init__(self, path: str, token: str) -> None:
        self.path, self.host, self.headers = path, HOST, {"Authorization": f"token {token}"}

    def connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(self.path)
        return connection

    def ask(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """Return status and JSON (or text) of one request."""
        connection = http.client.HTTPConnection(self.host)
        connection.sock = self.connected()
        try:
            connection.request(method, target, json.dumps(body) if body is not None else None, self.headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/api/status")[0] == 200
        except OSError:
            return False

    def kernel(self) -> Kernel:
        status, made = self.ask("POST", "/api/kernels", {"name": "python3"})
        assert status == 201, made
        return Kernel(self, made["id"])


class Kernel:
    def __init__(self, jupyter: Jupyter, number: str) -> None:
        self.session = uuid.uuid4().hex
        self.number = number
        self.opened = connect(
            f"ws://{jupyter.host}/api/kernels/{number}/channels?session_id={self.session}",
            sock=jupyter.connected(),
            additional_headers=jupyter.headers,
            open_timeout=30,
            max_size=None,
        )
        self.socket = self.opened.__enter__()

    def run(self, code: str, seconds: float = 40) -> tuple[str, list[dict[str, str]], str]:
        """Run one cell; return its text, what it displayed by type, and its error."""
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": "execute_request", "session": self.session, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(message))
        text, shown, error = "", [], ""
        while True:
            heard = json.loads(self.socket.recv(timeout=seconds))
            if heard.get("parent_header", {}).get("msg_id") != number:
                continue
            kind, content = heard["msg_type"], heard["content"]
            if kind == "stream":
                text += str(content["text"])
            elif kind in ("display_data", "execute_result"):
                shown.append(content["data"])  # type: ignore[arg-type]
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return text, shown, error

    def close(self) -> None:
        self.opened.__exit__(None, None, None)
