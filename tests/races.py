"""Many threads that do something at the same moment, each with a connection of its own."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

#: how often each race is run: in the suite, and by the long proof
FEW, MANY = 2, int(os.environ.get("RACE_ROUNDS", "20"))
ROUNDS = [*range(FEW), *(pytest.param(number, marks=pytest.mark.slow) for number in range(FEW, MANY))]


class Racers:
    """Threads that keep their connections from race to race."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="racer")
        self._gate = threading.Barrier(count)

    def run(self, *works: Callable[[], object]) -> list[object]:
        """Deal the works out to all threads in turn, begin at once; return what each returned or raised."""

        def one(work: Callable[[], object]) -> object:
            self._gate.wait(40)
            try:
                return work()
            except Exception as error:
                return error

        dealt = itertools.islice(itertools.cycle(works), self.count)
        return [future.result(55) for future in [self._pool.submit(one, work) for work in dealt]]

    def close(self) -> None:
        self.run(connections.close_all)
        self._pool.shutdown()
