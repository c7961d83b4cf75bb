"""Somebody who works on while another session, or the disk, goes wrong: how long are a page, the API and a cell?"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.kills.site import Account, Away, Witness

Times = dict[str, list[float]]


@dataclass
class Neighbour:
    """A person with a page of the portal, a script and an open notebook."""

    account: Account
    witness: Witness
    trouble: list[str] = field(default_factory=list)

    def acts(self) -> dict[str, Callable[[], bool]]:
        page = f"/instances/{self.witness.instance}/"
        return {
            "page": lambda: self.account.page(page).status == 200,
            "api": lambda: self.account.ask("GET", "instances")[0] == 200,
            "cell": self.witness.answers,
        }

    def once(self, times: Times) -> None:
        for name, act in self.acts().items():
            began = time.monotonic()
            try:
                good = act()
            except (Away, OSError, TimeoutError) as error:
                good = False
                self.trouble.append(f"{name}: {error}")
            times[name].append(time.monotonic() - began)
            if not good:
                self.trouble.append(f"{name} was not answered well")

    def at_rest(self, times: int = 10) -> Times:
        """Return the round trips while nothing is wrong."""
        found: Times = defaultdict(list)
        for _ in range(times):
            self.once(found)
        return found

    @contextmanager
    def at_work(self, what: str) -> Iterator[None]:
        """Go on working during the block; every answer must come, and be right. Prints the round trips."""
        during: Times = defaultdict(list)
        over = threading.Event()

        def work() -> None:
            while not over.wait(0.05):
                self.once(during)

        rest = self.at_rest()
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(180)
        for name in rest:
            before, after = statistics.median(rest[name]) * 1000, statistics.median(during[name]) * 1000
            worst = max(during[name]) * 1000
            print(
                f"{what:14} {name:5} before {before:5.0f} ms  during {after:5.0f} ms  worst {worst:6.0f} ms", flush=True
            )
        assert not self.trouble, self.trouble[:5]
