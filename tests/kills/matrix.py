"""One process is killed while instances are made, started, stopped, rebooted and deleted; then everything is counted.

A few instances go through life: in each round one of them gets each verb, and the kill meets each verb at a random
moment of its own span. create → stop → start → reboot → delete, so each kill leaves work for the next. A seed gives
all moments; `KILLS_SEED` repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from portal.embedded.people import portal_person
from portal.embedded.processes import started_at
from tests.kills.agreement import agree, sandboxes
from tests.kills.site import Account, Site, Witness
from tests.portals import until

VERBS = ("create", "stop", "start", "reboot", "delete")
#: where each verb is to begin and to lead
NEEDS = {"stop": "active", "start": "stopped", "reboot": "active", "delete": "active"}
WANTED = {"create": "active", "stop": "stopped", "start": "active", "reboot": "active", "delete": "deleted"}
#: seconds that each verb takes: the kill comes at any moment of them
SPANS = {"create": 4.0, "stop": 1.0, "start": 4.0, "reboot": 4.0, "delete": 1.0}

#: every process of the portal, with those that have no pid file
VICTIMS = ("web", "link", "worker", "redis", "postgres", "gateway", "gateway-process", "identity", "supervisor", "up")
#: an open notebook may lose its socket, and comes back to the same kernel; other kills go unnoticed
DROPPED = ("gateway-process", "up")
#: sessions end with it, and say why
ENDED = ("supervisor",)
RESTARTED = "stopped supervisor-restarted"


def seed() -> int:
    """Return the seed of this run, and print it for who wants to repeat it."""
    given = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"KILLS_SEED={given}")
    return given


@dataclass
class Line:
    """Instances of one portal on their way through life, the oldest first."""

    account: Account
    random: random.Random
    witness: Witness
    alive: list[uuid.UUID] = field(default_factory=list)

    def round(self, victim: str, verbs: Sequence[str] = VERBS) -> dict[str, str]:
        """Kill `victim` in the middle of these verbs; return what became of each, once everything agrees."""
        began = time.monotonic()
        given = self.ready(verbs)
        spent = {verb: self.random.uniform(0, SPANS[verb]) for verb in verbs}
        begun = time.monotonic()
        self._kill_amid(victim, spent, given)
        killed = time.monotonic()
        self._look_at_witness(victim)
        agree(self.account.site)
        became = {verb: self._became(given[verb]) for verb in verbs}
        self.alive = [instance for instance in (*self.alive, given.get("create")) if instance and self._lives(instance)]
        self._expect_no_more_than_there_should_be()
        print(
            f"{victim}: {became} in {begun - began:.1f} + {killed - begun:.1f} + {time.monotonic() - killed:.1f} s",
            flush=True,
        )
        return became

    def ready(self, verbs: Sequence[str]) -> dict[str, uuid.UUID]:
        """Choose who gets each verb, the oldest first; all are brought to where their verbs begin, the rest goes."""
        needs = {verb: NEEDS[verb] for verb in reversed(VERBS) if verb in verbs and verb in NEEDS}
        self.alive += [self.account.create() for _ in range(len(needs) - len(self.alive))]
        stand = {instance: self._settled(instance) for instance in self.alive}
        chosen = {}
        for verb, state in needs.items():
            fitting = [instance for instance, now in stand.items() if now == state]
            chosen[verb] = (fitting or [*stand])[0]
            self._bring(chosen[verb], stand.pop(chosen[verb]), state)
        for instance in stand:
            self.account.verb("delete", instance)
            self.alive.remove(instance)
        witness = self._settled(self.witness.instance)
        self._bring(self.witness.instance, witness, "active")
        for verb, instance in chosen.items():
            self.account.wait(instance, NEEDS[verb])
        if witness != "active":
            self.witness.open()
        return chosen

    def _settled(self, instance: uuid.UUID) -> str:
        return str(self.account.wait(instance, "active", "stopped")["state"])

    def _bring(self, instance: uuid.UUID, now: str, state: str) -> None:
        if now != state:
            self.account.verb("start" if state == "active" else "stop", instance)

    def _kill_amid(self, victim: str, spent: dict[str, float], given: dict[str, uuid.UUID]) -> None:
        """Kill it when each verb has spent so many seconds; return when all are answered and it is there again."""
        first = max(spent.values())
        with ThreadPoolExecutor(len(spent)) as pool:
            asked = [pool.submit(self._ask, verb, first - long, given) for verb, long in spent.items()]
            time.sleep(first)
            kill(self.account.site, victim)
            for answer in asked:
                answer.result()

    def _ask(self, verb: str, moment: float, given: dict[str, uuid.UUID]) -> None:
        time.sleep(moment)
        if verb == "create":
            given["create"] = self.account.create()
        else:
            self.account.verb(verb, given[verb])

    def _look_at_witness(self, victim: str) -> None:
        if victim in ENDED:
            return
        if victim not in DROPPED:
            assert self.witness.answers(), "the socket that was open before the kill"
        if victim in ("gateway", *DROPPED):  # what is left of a gateway goes with its last socket
            self.witness.comes_back()

    def _became(self, instance: uuid.UUID) -> str:
        found = self.account.seen(instance)
        return f"{found['state']} {found['reason']}".strip()

    def _lives(self, instance: uuid.UUID) -> bool:
        return bool(self.account.seen(instance)["state"] != "deleted")

    def _expect_no_more_than_there_should_be(self) -> None:
        alive = self.account.site.rows(
            "SELECT i.uid FROM instances_instance i JOIN accounts_user u ON u.id = i.owner_id "
            "WHERE u.handle = 'killer' AND i.state <> 'deleted'"
        )
        assert {uid for (uid,) in alive} == {self.witness.instance, *self.alive}


@contextmanager
def lined(site: Site) -> Iterator[Line]:
    """Begin a line, and leave nothing of it."""
    account = site.account("killer")
    yield Line(account, random.Random(seed()), Witness(account))
    account.delete_all()
    agree(site)


def expect(victim: str, became: dict[str, str]) -> None:
    """All went as asked; only sessions that died with their supervisor may be stopped instead, and say why."""
    for verb, what in became.items():
        also = RESTARTED if victim in ENDED and WANTED[verb] == "active" else ""
        assert what in (WANTED[verb], also), (victim, became)


def kill(site: Site, victim: str) -> None:
    """End a process without a word, and wait until it is there again; the parent is started by hand."""
    pid = site.pid(victim)
    born = started_at(pid)
    assert born is not None, f"{victim} does not run"
    os.kill(pid, signal.SIGKILL)
    if victim == "up":
        assert site.parent is not None
        site.parent.wait(10)
        site.up()
        return
    until(lambda: started_at(pid) != born)
    until(lambda: _again(site, victim, pid, born), 60)


def _again(site: Site, victim: str, pid: int, born: int) -> bool:
    try:
        now = site.pid(victim)
    except (OSError, ValueError, IndexError):
        return False
    came = started_at(now)
    return came is not None and (now, came) != (pid, born) and site.get("/readyz") == 200


@contextmanager
def power_cut(site: Site) -> Iterator[None]:
    """Everything that runs ends at once, the disk stays; afterwards other programs have the numbers of the dead."""
    assert site.parent is not None
    site.parent.kill()
    site.parent.wait(10)
    for _ in range(3):  # what was just being made
        inside = [pid for pids in sandboxes(site).values() for pid in pids]
        everything = {*site.processes(), *inside}
        for number in (signal.SIGSTOP, signal.SIGKILL):  # so that nobody is left to note how another ended
            for pid in everything:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        time.sleep(0.2)
    assert not site.processes()
    with subprocess.Popen(["sleep", "600"], **(site.ids or portal_person().ids())) as stranger:
        try:
            postgres = site.state / "postgres" / "postmaster.pid", site.state / "run" / "back" / ".s.PGSQL.5432.lock"
            for path in (*(site.state / "run").glob("*.pid"), *postgres):
                path.write_text(re.sub(r"^\d+", str(stranger.pid), path.read_text()))
            yield
            assert stranger.poll() is None, "somebody else's process was ended"
        finally:
            stranger.kill()
