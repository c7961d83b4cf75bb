"""Child processes, each with a log and a pid file: started, adopted, restarted with back-off, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from portal.embedded.people import CannotStart, Person

LARGEST_LOG = 10 * 2**20
#: a child that ran this long counts as well again
STEADY_SECONDS = 60.0
LONGEST_WAIT = 30.0


def started_at(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; with its pid that names it for good. None when it is gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


@dataclass(frozen=True)
class Program:
    """What to run as whom, and how to see that it works."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    person: Person
    #: answers, seen from outside; None = it runs, and that is all there is to see
    answers: Callable[[], bool] | None = None
    #: whether it still works, whatever the parts beside it do; None = not to be asked
    healthy: Callable[[], bool] | None = None
    #: seconds between the polite signal and the end
    patience: float = 10.0


def open_log(path: Path, owner: Person | None = None) -> int:
    """Open a log to append to, moved to `.1` first when it has grown large; links are not followed."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LARGEST_LOG:
            path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if owner and os.geteuid() == 0:
        os.fchown(descriptor, owner.uid, owner.gid)
    return descriptor


def last_lines(path: Path, count: int = 12) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    return ""


@dataclass
class Child:
    """One running program, ours or taken over from a parent that was killed."""

    program: Program
    run: Path
    logs: Path
    pid: int = 0
    started: int = 0
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    since: float = 0.0
    again_at: float | None = None
    exit_text: str = field(default="ended")

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def log(self) -> Path:
        return self.logs / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        return self.run / f"{self.name}.pid"

    def adopt(self) -> bool:
        """Take over the process that the pid file names, if it is still the same one."""
        with contextlib.suppress(OSError, ValueError):
            pid, started = (int(word) for word in self.pid_file.read_text().split())
            if started_at(pid) == started:
                self.pid, self.started, self.process = pid, started, None
                self.since = time.monotonic()
                return True
        return False

    def start(self) -> None:
        """Start it and remember who it is."""
        log = open_log(self.log)
        try:
            self.process = subprocess.Popen(
                self.program.argv,
                env=self.program.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.program.person.ids(),
            )
        except OSError as error:
            raise CannotStart(f"{self.name}: {self.program.argv[0]}: {error.strerror}") from error
        finally:
            os.close(log)
        self.pid, self.started = self.process.pid, started_at(self.process.pid) or 0
        self.since, self.again_at = time.monotonic(), None
        fresh = self.pid_file.with_suffix(".new")
        fresh.write_text(f"{self.pid} {self.started}\n")
        fresh.replace(self.pid_file)

    def alive(self) -> bool:
        if self.process is None:
            return self.pid > 0 and started_at(self.pid) == self.started
        code = self.process.poll()
        if code is not None:
            self.exit_text = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
        return code is None

    def keep(self, say: Callable[[str], None]) -> None:
        """Start it again after it died, later each time it dies soon."""
        now = time.monotonic()
        if self.again_at is None:
            if self.alive():
                return
            self.failures = 0 if now - self.since > STEADY_SECONDS else self.failures + 1
            self.again_at = now + self._pause()
            say(f"{self.name} {self.exit_text}; it starts again in {self._pause():.1f} s. Its log: {self.log}")
        if now >= self.again_at:
            try:
                self.start()
            except (CannotStart, OSError):
                self.failures += 1
                self.again_at = time.monotonic() + self._pause()
                raise

    def _pause(self) -> float:
        return min(LONGEST_WAIT, 0.25 * 2.0 ** min(self.failures, 10))

    def answers(self) -> bool:
        return self.alive() and (self.program.answers is None or self.program.answers())

    def wait_ready(self, seconds: float, pause: Callable[[float], None] = time.sleep) -> None:
        """Wait until it answers; say what its log says when it does not."""
        until = time.monotonic() + seconds
        while not self.answers():
            if not self.alive():
                raise CannotStart(f"{self.name} {self.exit_text}. Its last lines:\n{self._indented()}")
            if time.monotonic() > until:
                raise CannotStart(f"{self.name} does not answer after {seconds:.0f} s. Its log: {self.log}")
            pause(0.05)

    def finish(self, seconds: float, pause: Callable[[float], None] = time.sleep) -> None:
        """Run it to its end, which has to be a good one."""
        self.start()
        until = time.monotonic() + seconds
        try:
            while self.alive():
                if time.monotonic() > until:
                    raise CannotStart(f"{self.name} takes longer than {seconds:.0f} s. Its log: {self.log}")
                pause(0.05)
        finally:
            self.stop()
        if self.process and self.process.returncode:
            raise CannotStart(f"{self.name} failed. Its last lines:\n{self._indented()}")

    def _indented(self) -> str:
        return "\n".join(f"    {line}" for line in last_lines(self.log).splitlines()) + f"\n  Its log: {self.log}"

    def ask_to_stop(self) -> None:
        """Send the polite signal; `wait_stopped` sees it through."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def wait_stopped(self) -> None:
        until = time.monotonic() + self.program.patience
        while self.alive() and time.monotonic() < until:
            time.sleep(0.02)
        if self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            while self.alive():
                time.sleep(0.02)
        self.pid_file.unlink(missing_ok=True)

    def stop(self) -> None:
        self.ask_to_stop()
        self.wait_stopped()
