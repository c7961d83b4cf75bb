"""The lab's daemons: started, frozen, killed and started again, each by its process id."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


class DidNotStart(Exception):
    """A daemon ended, or was not ready in time; the text holds the end of its log."""


class Daemon:
    """One program that is to run; it dies with us."""

    def __init__(self, name: str, argv: list[str], logs: Path) -> None:
        self.name, self.log = name, logs / f"{name}.log"
        self._argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DidNotStart(f"{self.name} does not run")
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if not self.is_alive:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.is_alive:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None and self.is_alive:
            self._process.kill()
            self._process.wait(10)

    def stop(self) -> None:
        """Ask it to end, then insist."""
        if self._process is None or not self.is_alive:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait_until(self, ready: Callable[[], bool], seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if not self.is_alive or time.monotonic() > end:
                said = self.log.read_bytes()[-1500:].decode(errors="replace")
                raise DidNotStart(f"{self.name}: {'not ready' if self.is_alive else 'ended'}\n{said}")
            time.sleep(0.05)
