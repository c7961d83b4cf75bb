"""The worker's clock: finds what is due in the database every second and runs it here, without the broker.

Redis may be gone for good: everything still happens, a second later. Started on Celery's `worker_init`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from auth import restored
from instances import clouds, homes, jobs, leases, reconcile, sweep
from instances.models import Instance, Provider
from instances.providers.base import Observation
from portal.lib.beat import Beat
from portal.lib.clock import Now

log = structlog.get_logger("instances.ticker")

TICK = 1.0
#: due instances are looked for more often: a start should not wait for the next second
GLANCE = 0.25
POOL = 8
#: how many due instances one tick takes up
BATCH = 50
#: how long a provider stays with a worker that gives no sign of life, before another takes it over
TENDED = timedelta(seconds=5)
#: seconds from one beginning of a watch to the next
WATCH_AGAIN = 5.0
EACH_MINUTE = timedelta(minutes=1)
DAILY = timedelta(days=1)


class Ticker(threading.Thread):
    """One thread that looks for work, a small pool that does it, and one thread for each provider that it tends.

    Of all workers one tends a provider: only it lists and watches, so a cloud is asked once.
    """

    def __init__(self, *, pool: int = POOL) -> None:
        super().__init__(name="ticker", daemon=True)
        self._connections: list[BaseDatabaseWrapper] = []
        self._pool = ThreadPoolExecutor(pool, thread_name_prefix="ticker", initializer=self._remember_connection)
        self._stopped = threading.Event()
        self._busy: set[object] = set()
        self._lock = threading.Lock()
        self._me = uuid.uuid4()
        self._tended: dict[int, Provider] = {}
        self._watching: set[int] = set()
        self._beat = Beat(settings.WORKER_BEAT)
        self._away = False

    def run(self) -> None:
        ticked = float("-inf")
        while not self._stopped.wait(GLANCE):
            well = self._guarded(self._due_instances)
            if well:
                self._note(away=False)
            if time.monotonic() - ticked >= TICK:
                ticked = time.monotonic()
                well &= self._guarded(leases.renew)
                well &= self._guarded(self._each_second)
                if well:
                    self._guarded(self._beat.give)
        self._guarded(partial(jobs.let_go, self._me))
        self._guarded(self._beat.end)
        connections.close_all()

    def stop(self) -> None:
        """Stop taking up work and wait for what runs."""
        self._stopped.set()
        if self.is_alive():
            self.join(10)
        self._pool.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:  # of threads that have ended
            connection.inc_thread_sharing()
            connection.close()

    def _remember_connection(self) -> None:
        self._connections.append(connections["default"])

    # ---- what is due ----
    def _due_instances(self) -> None:
        for pk in leases.due().values_list("pk", flat=True)[:BATCH]:
            self._reconcile(pk, None)

    def _reconcile(self, pk: int, seen: Observation | None) -> None:
        self._submit(("instance", pk), lambda: reconcile.run(pk, seen))

    def _each_second(self) -> None:
        restored.look()
        for row in self._tend():
            # a provider that hangs holds its own sweep alone, and is not asked again before it has answered
            if ("sweep", row.pk) not in self._busy and jobs.claim(f"sweep:{row.pk}", sweep.EVERY):
                self._submit(("sweep", row.pk), partial(self._sweep, row))
            if jobs.claim(f"homes:{row.pk}", EACH_MINUTE):
                self._submit(("homes", row.pk), partial(sweep.measure_homes, row))
            self._watch(row)
        self._submit("leftovers", sweep.clear_leftovers)
        if jobs.claim("homes-to-delete", EACH_MINUTE):
            self._submit("homes-to-delete", delete_homes)
        if jobs.claim("forget-expired", DAILY):
            self._submit("forget-expired", sweep.forget_expired)

    # ---- one worker a provider ----
    def _tend(self) -> list[Provider]:
        """Return the providers that are this worker's, and end what it has of the others."""
        enabled = Provider.objects.filter(enabled=True)
        mine = {row.pk: row for row in enabled if jobs.hold(f"tend:{row.pk}", self._me, TENDED)}
        lost, self._tended = [row for pk, row in self._tended.items() if pk not in mine], mine
        for row in lost:
            log.info("provider let go", provider=row.name)
            clouds.drop(row)
        return list(mine.values())

    def _sweep(self, row: Provider) -> None:
        """Sweep unless another has taken the provider over: a list may open watches, which nobody here would end."""
        if row.pk in self._tended:
            sweep.sweep(row, self._reconcile)
        if row.pk not in self._tended:
            clouds.drop(row)

    # ---- events of providers ----
    def _watch(self, row: Provider) -> None:
        with self._lock:
            if row.pk in self._watching:
                return
            self._watching.add(row.pk)
        threading.Thread(target=self._watch_one, args=(row,), name=f"watch-{row.name}", daemon=True).start()

    def _watch_one(self, row: Provider) -> None:
        """Listen until the source ends; a provider without events simply ends at once and is asked again later."""
        began = time.monotonic()
        try:
            clouds.cloud_of(row).watch(lambda ref: self._heard(row, ref))
        except Exception as error:
            log.warning("watch ended", provider=row.name, error=str(error)[:200])
        finally:
            connections.close_all()
        self._stopped.wait(WATCH_AGAIN - (time.monotonic() - began))
        with self._lock:
            self._watching.discard(row.pk)

    def _heard(self, row: Provider, ref: str) -> None:
        self._guarded(lambda: self._woken(row, ref))
        connections.close_all()  # the next event may be hours away

    def _woken(self, row: Provider, ref: str) -> None:
        for pk in Instance.objects.alive().filter(provider=row, ref=ref).values_list("pk", flat=True):
            Instance.objects.filter(pk=pk).update(due_at=Now())
            self._reconcile(pk, None)

    # ---- running ----
    def _submit(self, key: object, work: Callable[[], Any]) -> None:
        """Run work in the pool unless the same is running already."""
        with self._lock:
            if key in self._busy or self._stopped.is_set():
                return
            self._busy.add(key)
        try:
            self._pool.submit(self._work, key, work)
        except RuntimeError:  # the pool was shut down meanwhile
            with self._lock:
                self._busy.discard(key)

    def _work(self, key: object, work: Callable[[], Any]) -> None:
        try:
            self._guarded(work)
        finally:
            with self._lock:
                self._busy.discard(key)

    def _guarded(self, work: Callable[[], Any]) -> bool:
        """Run work with fresh connections; whatever it raises, the ticker lives on. Return whether it went well."""
        close_old_connections()
        try:
            work()
        except Exception as error:
            if _lost_connection(error):
                self._note(away=True, error=str(error)[:200])
            else:
                log.exception("work failed", error=str(error)[:500])
            close_old_connections()
            return False
        return True

    def _note(self, *, away: bool, **more: str) -> None:
        """Say once that the database went away, and once that it is back."""
        with self._lock:
            changed, self._away = away != self._away, away
        if changed:
            log.warning("database away" if away else "database back", **more)


def _lost_connection(error: Exception) -> bool:
    """Whether there is no connection, rather than something wrong with what was asked over it."""
    held = connections["default"].connection
    return isinstance(error, (OperationalError, InterfaceError)) and (held is None or held.closed)


def delete_homes() -> None:
    """Finish deletions that a crash left half done."""
    homes.finish_old_deletions(EACH_MINUTE)


_ticker: Ticker | None = None
_starting = threading.Lock()


def start() -> Ticker:
    """Start the process's ticker; once."""
    global _ticker
    with _starting:
        if _ticker is None or not _ticker.is_alive():
            _ticker = Ticker()
            _ticker.start()
        return _ticker


def stop() -> None:
    """Stop the process's ticker."""
    with _starting:
        if _ticker is not None:
            _ticker.stop()
