"""One process is killed while instances are made, started, stopped, rebooted and deleted; then everything is counted.

Four instances stand on a line, and in each round every one of them gets the next verb of its life, at a random moment
around that of the kill: create → stop → start → reboot → delete. So each kill meets each verb somewhere on its way.
A seed gives all moments; `KILLS_SEED` repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from portal.embedded.people import portal_person
from portal.embedded.processes import started_at
from tests.embedded.test_up import until
from tests.kills.agreement import agree, sandboxes
from tests.kills.site import Account, Site, Witness

VERBS = ("create", "stop", "start", "reboot", "delete")
#: where each verb is to lead
WANTED = {"create": "active", "stop": "stopped", "start": "active", "reboot": "active", "delete": "deleted"}
#: the verbs come within the first of these seconds, the kill within the second
VERB_SECONDS, KILL_SECONDS = 1.0, 4.0


def seed() -> int:
    """Return the seed of this run, and print it for who wants to repeat it."""
    given = int(os.environ.get("KILLS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"KILLS_SEED={given}")
    return given


@dataclass
class Line:
    """The instances of one portal by the verb that each gets next."""

    account: Account
    random: random.Random
    witness: Witness
    next: dict[str, uuid.UUID] = field(default_factory=dict)

    @classmethod
    def begin(cls, site: Site, number: int) -> Line:
        """Make the instances that the first round needs."""
        account = site.account("killer")
        line = cls(account, random.Random(number), Witness(account))
        made = [account.create(verb) for verb in VERBS[1:]]
        for instance in made:
            account.wait(instance, "active")
        line.next = dict(zip(VERBS[1:], made, strict=True))
        account.verb("stop", line.next["start"])
        account.wait(line.next["start"], "stopped")
        return line

    def round(self, victim: str) -> dict[str, str]:
        """Kill `victim` in the middle of all five verbs; return what became of each, once everything agrees."""
        site = self.account.site
        moments = {verb: self.random.uniform(0, VERB_SECONDS) for verb in VERBS}
        kill_at = self.random.uniform(0, KILL_SECONDS)
        given = dict(self.next)
        threads = [threading.Thread(target=self._ask, args=(verb, moment, given)) for verb, moment in moments.items()]
        for thread in threads:
            thread.start()
        time.sleep(kill_at)
        kill(site, victim)
        for thread in threads:
            thread.join(120)
        assert len(given) == len(VERBS), "a verb was never answered"
        agree(site)
        became = {verb: self._became(given[verb]) for verb in VERBS}
        self.next = dict(zip(VERBS[1:], (given[verb] for verb in VERBS[:-1]), strict=True))
        self._expect_no_more_than_there_should_be()
        return became

    def _ask(self, verb: str, moment: float, given: dict[str, uuid.UUID]) -> None:
        time.sleep(moment)
        if verb == "create":
            given["create"] = self.account.create()
        else:
            self.account.verb(verb, given[verb])

    def _became(self, instance: uuid.UUID) -> str:
        found = self.account.seen(instance)
        return f"{found['state']} {found['reason']}".strip()

    def _expect_no_more_than_there_should_be(self) -> None:
        alive = self.account.site.rows(
            "SELECT i.uid FROM instances_instance i JOIN accounts_user u ON u.id = i.owner_id "
            "WHERE u.handle = 'killer' AND i.state <> 'deleted'"
        )
        assert {uid for (uid,) in alive} == {self.witness.instance, *self.next.values()}

    def mend(self) -> None:
        """After the sandboxes died: start by hand what the next round takes to be running."""
        running = self.witness.instance, *(instance for verb, instance in self.next.items() if verb != "start")
        for instance in running:
            if self.account.seen(instance)["state"] != "active":
                self.account.verb("start", instance)
        for instance in running:
            self.account.wait(instance, "active")
        self.witness.open()


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
        for pid in {*site.processes(), *inside}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    assert not site.processes()
    with subprocess.Popen(["sleep", "600"], **portal_person().ids()) as stranger:
        try:
            postgres = site.state / "postgres" / "postmaster.pid", site.state / "run" / "back" / ".s.PGSQL.5432.lock"
            for path in (*(site.state / "run").glob("*.pid"), *postgres):
                path.write_text(re.sub(r"^\d+", str(stranger.pid), path.read_text()))
            yield
            assert stranger.poll() is None, "somebody else's process was ended"
        finally:
            stranger.kill()
