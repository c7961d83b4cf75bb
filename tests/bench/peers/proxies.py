"""The proxies side by side in front of the same back ends, one process each: nginx, configurable-http-proxy,
jupyter-server-proxy, websockify, a Channels relay, and Beamport's gateway, the only one that authorises.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.peers.lib import PATIENCE, ROOT, Processes, cpu, listens, pss
from tests.bench.peers.setup import Peers
from tests.ports import free_port

OURS, NGINX, TUNED, CHP, JSP = (
    "beamport",
    "nginx",
    "nginx, larger buffers",
    "configurable-http-proxy",
    "jupyter-server-proxy",
)
WEBSOCKIFY, CHANNELS = "websockify", "channels on uvicorn"
FILES = {"1k.bin": 1024, "10m.bin": 10 << 20}
_HERE = ROOT / "tests" / "bench" / "peers"

_NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid %(name)s.pid; error_log %(name)s.err; %(user)s
events { worker_connections 16384; }
http {
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000; keepalive_timeout 300s;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  %(body)s
}
"""
_FILES = "server { listen 127.0.0.1:%d backlog=4096; root %s; }"
_PROXY = """
  upstream files { server 127.0.0.1:%(files)d; keepalive 64; }
  map $http_upgrade $connection_out { default upgrade; '' ''; }
  proxy_http_version 1.1; proxy_set_header Host $host; proxy_read_timeout 1d;
  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_out;
  server { listen 127.0.0.1:%(plain)d backlog=4096; location / { proxy_pass http://files; } }
  server { listen 127.0.0.1:%(tuned)d backlog=4096; location / { proxy_pass http://files; }
    proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k; }
"""


@dataclass(frozen=True)
class Target:
    """Something that is asked: where, what every request says, and whose CPU counts."""

    name: str
    port: int
    pid: int
    prefix: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}/{path}"

    def cpu(self) -> float:
        return cpu(self.pid)

    def pss(self) -> float:
        return pss(self.pid)


class Proxies:
    """Starts what is asked for, in a folder of its own."""

    def __init__(self, peers: Peers, processes: Processes) -> None:
        self.peers, self.processes = peers, processes
        self.files, self.sockets, self.plain = free_port(), free_port(), free_port()
        self._nginx_ports = free_port(2)

    def start(self, *names: str) -> dict[str, Target]:
        self._back_ends()
        makers: dict[str, Callable[[], Target]] = {
            OURS: self._ours,
            NGINX: lambda: self._proxy(NGINX, self._nginx_ports),
            TUNED: lambda: self._proxy(TUNED, self._nginx_ports + 1),
            CHP: self._chp,
            JSP: self._jsp,
            WEBSOCKIFY: self._websockify,
            CHANNELS: self._channels,
        }
        return {name: makers[name]() for name in names}

    def _start(self, name: str, argv: Iterable[object], port: int, **more: str) -> Target:
        given = [str(part) for part in argv]
        self.processes.start(name, given, self.peers.environment(**more), lambda: listens(port))
        return Target(name, port, self.processes.pid(name))

    def _back_ends(self) -> None:
        folder = self.processes.folder / "www"
        folder.mkdir(mode=0o755)
        for name, size in FILES.items():
            (folder / name).write_bytes(os.urandom(size))
        self._nginx("files", _FILES % (self.files, folder), self.files)
        argv = [sys.executable, _HERE / "backend.py", self.sockets, self.plain]
        self._start("sockets", argv, self.sockets)

    def _nginx(self, name: str, body: str, port: int) -> Target:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise RuntimeError("nginx is not installed; Debian's packages nginx and wrk are needed")
        configuration = self.processes.folder / f"{name}.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(_NGINX % {"name": self.processes.folder / name, "body": body, "user": user})
        return self._start(name, [program, "-c", configuration, "-p", self.processes.folder], port)

    def _proxy(self, name: str, port: int) -> Target:
        if NGINX not in self.processes.running:
            ports = {"files": self.files, "plain": self._nginx_ports, "tuned": self._nginx_ports + 1}
            self._nginx(NGINX, _PROXY % ports, port)
        return Target(name, port, self.processes.pid(NGINX))

    def _chp(self) -> Target:
        port = free_port(2)
        argv = [*self.peers.proxy_command, "--ip", "127.0.0.1", "--port", port, "--api-ip", "127.0.0.1"]
        argv += ["--api-port", port + 1, "--default-target", f"http://127.0.0.1:{self.files}", "--log-level", "error"]
        target = self._start(CHP, argv, port + 1, CONFIGPROXY_AUTH_TOKEN="bench")
        body = json.dumps({"target": f"http://127.0.0.1:{self.sockets}"}).encode()
        route = f"http://127.0.0.1:{port + 1}/api/routes/ws"
        fields = {"Authorization": "token bench"}
        urllib.request.urlopen(urllib.request.Request(route, body, fields), timeout=PATIENCE).close()
        return Target(CHP, port, target.pid)

    def _jsp(self) -> Target:
        port = free_port()
        argv = [self.peers.bin / "jupyter-server", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
        argv += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.log_level=ERROR"]
        target = self._start(JSP, [*argv, f"--ServerApp.root_dir={self.processes.folder}"], port)
        return Target(JSP, port, target.pid, f"/proxy/{self.files}")

    def _websockify(self) -> Target:
        port = free_port()
        return self._start(
            WEBSOCKIFY, [self.peers.bin / "websockify", f"127.0.0.1:{port}", f"127.0.0.1:{self.plain}"], port
        )

    def _channels(self) -> Target:
        port = free_port()
        argv = [
            self.peers.bin / "uvicorn",
            "channels_relay:app",
            "--app-dir",
            _HERE,
            "--port",
            port,
            "--lifespan",
            "off",
        ]
        argv += ["--no-access-log", "--log-level", "warning", "--ws-per-message-deflate", "false"]
        return self._start(CHANNELS, argv, port, BACKEND=f"127.0.0.1:{self.sockets}")

    def _ours(self) -> Target:
        """The gateway in front of both; what plays its portal is not counted."""
        port, ready = free_port(), self.processes.folder / "ready.json"
        given = {"PEERS_HTTP": f"127.0.0.1:{self.files}", "PEERS_WS": f"127.0.0.1:{self.sockets}"}
        given |= {"PEERS_OURS_PORT": str(port), "PEERS_READY": str(ready), "PEERS_RUN": str(self.processes.folder)}
        script = ROOT / "tests" / "bench" / "serve_for_bench.py"
        self.processes.start(OURS, [sys.executable, str(script)], self.peers.environment(**given), ready.exists)
        said = json.loads(ready.read_text())
        return Target(OURS, port, said["pid"], "", said["http"]["headers"])

    def sockets_of_ours(self) -> dict[str, str]:
        """What a WebSocket's handshake with the gateway says: another instance, another cookie."""
        said = json.loads((self.processes.folder / "ready.json").read_text())
        fields: dict[str, str] = said["ws"]["headers"]
        return fields


def check(targets: Iterable[Target], folder: Path) -> None:
    """Every target answers both files byte for byte, before anything is measured."""
    for target in targets:
        for name in FILES:
            request = urllib.request.Request(target.url(name), headers=target.fields)
            began = time.perf_counter()
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                assert answer.read() == (folder / "www" / name).read_bytes(), f"{target.name}: {name} differs"
            print(f"  {target.name}: {name} byte for byte in {time.perf_counter() - began:.2f} s", flush=True)
