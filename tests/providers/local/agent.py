"""What the tests' own small image runs inside a sandbox: it does what it is told over the session's socket.

One JSON line in ({"code": Python} or {"spawn": Python}), one out ({"out", "error"} or {"pid"}). Standard library only.
"""

import contextlib
import io
import json
import os
import socketserver
import subprocess
import sys
import traceback


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        if "spawn" in asked:
            child = subprocess.Popen([sys.executable, "-c", asked["spawn"]], start_new_session=True)
            answer = {"pid": child.pid}
        else:
            answer = run(asked["code"])
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def run(code: str) -> dict[str, str]:
    out, error = io.StringIO(), ""
    with contextlib.redirect_stdout(out):
        try:
            exec(code, {"__name__": "__session__"})
        except BaseException:
            error = traceback.format_exc()
    return {"out": out.getvalue(), "error": error}


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    path = os.environ["SOCKETS"] + "/jupyter.sock"
    with Server(path, Handler) as server:
        os.chmod(path, 0o660)
        print("agent ready", flush=True)
        server.serve_forever()
