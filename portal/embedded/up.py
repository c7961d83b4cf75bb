"""`manage.py up`: the parent that starts everything on this machine, keeps it running and stops it in order.

It imports no Django, so that it stays small and can make the state folder before any settings are read.
"""

from __future__ import annotations

import argparse
import fcntl
import getpass
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from portal.embedded import people, steps
from portal.embedded.addresses import Site, check_ports
from portal.embedded.people import CannotStart
from portal.embedded.processes import Child
from portal.embedded.stack import Stack
from portal.embedded.state import State, state_folder
from portal.embedded.watch import Watch

ACCOUNTS = ("scientist", "collaborator", "operator")
#: how long a part may take until it answers, on a slow machine with a cold disk
PATIENCE = 60.0
#: first who lets people in, last where things are kept
STOPPED_TOGETHER = (("gateway",), ("web", "worker", "identity"), ("supervisor",), ("redis", "postgres"))
#: the first start also loads the demo data
PREPARE_PATIENCE = 600.0


class Asked(Exception):
    """Somebody asked to stop: Ctrl-C, SIGTERM or a closed terminal."""


class Signals:
    """Remembers that somebody asked to stop; waiting places look at it, so that nothing is cut in half."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.asked = True

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        if self.asked:
            raise Asked


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def only_one(state: State) -> Iterator[None]:
    """Refuse a second parent on the same state folder."""
    lock: IO[str]
    with open(state.run / "up.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise CannotStart(
                f"The portal of {state.folder} is running already (process {lock.read().strip() or 'unknown'}). "
                f"Stop that one, or name another BEAMPORT_STATE and PORT."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Up:
    """One life of the parent."""

    def __init__(self, state: State, site: Site) -> None:
        self.state, self.site = state, site
        self.signals = Signals()
        self.stack = Stack(state, site)
        self.children: list[Child] = []
        self.watches: list[Watch] = []

    def run(self) -> None:
        try:
            self._start()
            self.watches = [Watch(child, self.site.silence) for child in self.children]
            self._greet()
            while True:
                self.signals.pause(0.5)
                for child in self.children:
                    self._keep(child)
                for watch in self.watches:
                    watch.check(say)
        except Asked:
            say("\nStopping …")
        finally:
            self._stop()

    def _keep(self, child: Child) -> None:
        try:
            child.keep(say)
        except (CannotStart, OSError) as error:
            say(f"{child.name} could not be started again: {error}")

    def _start(self) -> None:
        stack = self.stack
        self._end_stale()
        if self.site.demo:
            check_ports(self.site.ports())
        if not os.environ.get("DATABASE_URL"):
            self._launch(stack.postgres())
        if not os.environ.get("REDIS_URL"):
            self._launch(stack.redis())
        provider = [self._launch(stack.identity())] if self.site.demo else []
        supervisor = self._launch(stack.supervisor())
        supervisor.wait_ready(PATIENCE, self.signals.pause)  # refuses at once where nothing can be isolated
        self._prepare(stack.prepare())
        late = [self._launch(make()) for make in (stack.worker, stack.web, stack.gateway)]
        for child in (*provider, *late):
            child.wait_ready(PATIENCE, self.signals.pause)

    def _end_stale(self) -> None:
        """What a parent that was killed left behind: PostgreSQL, Redis and sessions go on, the rest starts anew."""
        stale = [self.stack.stale(name) for name in ("gateway", "web", "worker", "identity", "prepare")]
        found = [child for child in stale if child.adopt()]
        if found:
            say(f"Ending what an earlier start left running: {', '.join(child.name for child in found)}")
        for child in found:
            child.ask_to_stop()
        for child in found:
            child.wait_stopped()

    def _launch(self, child: Child) -> Child:
        self.children.append(child)
        if child.adopt() and child.answers():
            say(f"{child.name} was still running and goes on")
            return child
        child.stop()
        child.start()
        return child

    def _prepare(self, child: Child) -> None:
        first = not (self.state.folder / "data").exists() or not any((self.state.folder / "data").iterdir())
        what = "Preparing the database"
        more = " and the demo data (the first time up to a minute)" if first and self.site.demo else ""
        with steps.step(what + more):
            child.finish(PREPARE_PATIENCE, self.signals.pause)

    def _stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for watch in self.watches:
            watch.end()
        for names in STOPPED_TOGETHER:
            group = [child for child in self.children if child.name in names]
            for child in group:
                child.ask_to_stop()
            for child in group:
                try:
                    child.wait_stopped()
                except (CannotStart, OSError) as error:
                    say(f"{child.name} did not stop: {error}")
        if self.children:
            say("Stopped.")

    def _greet(self) -> None:
        say(f"\nReady: {self.site.portal_url}\n")
        if self.site.demo:
            say(f"  Sign in as {', '.join(ACCOUNTS[:-1])} or {ACCOUNTS[-1]}; the password is the name.")
        if self.site.demo and (line := ssh_line(self.site.ports())):
            say(f"  On your own computer first: {line}")
        say(f"  Logs: {self.state.log}/   Ctrl-C stops everything.\n")


def ssh_line(ports: list[int]) -> str:
    """The command that brings the ports to the computer somebody came from by ssh; empty without ssh."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    if len(words) != 4:
        return ""
    host, port = words[2], words[3]
    tunnels = " ".join(f"-L {number}:127.0.0.1:{number}" for number in ports)
    name = "you"
    with suppress(KeyError, OSError):
        name = getpass.getuser()
    return f"ssh {'' if port == '22' else f'-p {port} '}{tunnels} {name}@{host}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="manage.py up",
        description="Start the portal with all it needs on this machine.",
        epilog="Settings: docs/reference/settings.md",
    )
    parser.parse_args(argv)
    os.umask(0o022)
    try:
        site = Site.read()
        state = State(state_folder(), people.portal_person(), people.gateway_person())
        state.lay()
        with only_one(state):
            Up(state, site).run()
    except Asked:
        return 0
    except CannotStart as error:
        return steps.give_up(error)
    return 0
