"""The worker's clock: everything that Celery does fast happens without it too, and n workers do it once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError

from auth.models import LoginState, Session
from instances import jobs, services, sweep, tasks, transitions
from instances import ticker as ticker_module
from instances.lifecycle import Phase
from instances.models import Home, Instance, Job, Leftover
from instances.ticker import Ticker, delete_homes
from portal.lib import beat, bus, clock
from tests.instances.conftest import settle, use_cloud
from tests.instances.test_services import run_all

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ticker():
    ticker = Ticker(pool=3)
    yield ticker
    ticker.stop()


@pytest.fixture
def no_redis(monkeypatch):
    """A Redis that is gone: nothing can be sent to it."""

    def gone(*args, **kwargs):
        raise ConnectionError("no Redis")

    monkeypatch.setattr(tasks.reconcile_instance, "apply_async", gone)
    monkeypatch.setattr(bus, "_publish", gone)


def until(question, seconds=30.0):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def is_in(instance, *states):
    def question():
        instance.refresh_from_db()
        return instance.state in states

    return question


def test_without_redis_an_instance_is_made_started_stopped_and_deleted(ticker, no_redis, request_one, alice, cloud):
    instance = request_one()
    ticker.start()
    until(is_in(instance, "starting"))
    until(lambda: transitions.mark_ready(instance.uid) is transitions.Marked.DONE)
    until(is_in(instance, "active"))
    services.stop(instance, by=alice)
    until(is_in(instance, "stopped"))
    services.start(instance, by=alice)
    until(is_in(instance, "starting"))
    services.delete(instance, by=alice)
    until(is_in(instance, "deleted"))
    assert cloud.machines == {}


def test_a_machine_that_stops_by_itself_is_noticed(ticker, no_redis, active, cloud):
    ticker.start()
    cloud.happen(active.ref, Phase.STOPPED, reason="out-of-memory")
    until(is_in(active, "stopped"))
    assert active.reason == "out-of-memory"


def test_a_sweep_finds_what_no_event_told(ticker, no_redis, active, cloud, monkeypatch):
    monkeypatch.setattr(cloud, "watch", lambda wake: None)
    ticker.start()
    cloud.happen(active.ref, Phase.STOPPED)
    until(is_in(active, "stopped"))


def test_two_tickers_do_it_once(no_redis, request_one, cloud):
    tickers = [Ticker(pool=3), Ticker(pool=3)]
    made = [request_one() for _ in range(6)]
    for ticker in tickers:
        ticker.start()
    try:
        for instance in made:
            until(is_in(instance, "starting"))
    finally:
        for ticker in tickers:
            ticker.stop()
    assert sorted(name for verb, name in cloud.calls if verb == "create") == sorted(i.machine_name for i in made)


def test_a_ticker_survives_what_its_work_raises(ticker, no_redis, request_one, cloud, monkeypatch):
    broken = threading.Event()

    def burst(row, runner=None):
        broken.set()
        raise RuntimeError("bug")

    monkeypatch.setattr(sweep, "sweep", burst)
    instance = request_one()
    ticker.start()
    until(broken.is_set)
    until(is_in(instance, "starting"))


def test_homes_are_measured(ticker, no_redis, active, cloud):
    cloud.homes[active.home.key] = 12345
    ticker.start()
    until(lambda: Home.objects.get().used == 12345)
    assert Home.objects.get().measured_at is not None


def test_leftovers_go(ticker, no_redis, active, cloud, alice):
    cloud.happen(active.ref, Phase.FAILED)
    settle(active)
    old = active.ref
    services.retry(active, by=alice)
    ticker.start()
    until(lambda: active.machine_name.endswith("-2") or active.refresh_from_db())
    until(lambda: old not in cloud.machines)
    until(lambda: not Leftover.objects.exists())


def test_a_home_deletion_that_a_crash_left_half_done_is_finished(active, alice, cloud):
    services.delete(active, by=alice)
    settle(active)
    Home.objects.update(deleting_at=clock.now() - timedelta(minutes=5))
    delete_homes()
    assert not Home.objects.exists()
    assert cloud.homes == {}


def test_waking_never_raises_and_comes_after_the_commit(no_redis, request_one):
    instance = request_one()
    tasks.wake(instance.pk)
    bus.flush()
    assert Instance.objects.filter(pk=instance.pk).exists()


def test_a_task_takes_the_steps(request_one, cloud):
    instance = request_one()
    tasks.reconcile_instance(instance.pk)
    instance.refresh_from_db()
    assert instance.state == "starting"


# ---- jobs ----
def test_a_job_is_claimed_by_one_of_many(db):
    assert run_all(lambda: jobs.claim("one", timedelta(hours=1)), 20).count(True) == 1


def test_a_job_is_due_again_after_its_time(db):
    assert jobs.claim("often", timedelta(hours=1))
    assert not jobs.claim("often", timedelta(hours=1))
    Job.objects.update(due_at=clock.now())
    assert jobs.claim("often", timedelta(hours=1))


def test_lasting_work_has_one_holder_of_many(db):
    asking = [uuid.uuid4() for _ in range(20)]
    asked = iter(asking)
    assert run_all(lambda: jobs.hold("lasting", next(asked), timedelta(hours=1)), 20).count(True) == 1
    (holder,) = [one for one in asking if jobs.hold("lasting", one, timedelta(hours=1))]
    assert Job.objects.get(name="lasting").holder == holder


def test_a_holder_that_gives_no_sign_of_life_is_replaced_and_stays_so(db):
    first, second = uuid.uuid4(), uuid.uuid4()
    assert jobs.hold("lasting", first, timedelta(hours=1))
    assert not jobs.hold("lasting", second, timedelta(hours=1))
    Job.objects.update(due_at=clock.now())
    assert jobs.hold("lasting", second, timedelta(hours=1))
    assert not jobs.hold("lasting", first, timedelta(hours=1))
    jobs.let_go(second)
    assert jobs.hold("lasting", first, timedelta(hours=1))


# ---- one worker a provider ----
class Watched:
    """Counts who watches; a watch lasts until the provider is closed."""

    def __init__(self, cloud):
        self.cloud, self.watching, self.closed = cloud, [], threading.Event()

    def __getattr__(self, name):
        return getattr(self.cloud, name)

    def watch(self, wake):
        self.watching.append(wake)
        self.closed.wait(60)

    def is_outdated(self):
        return False

    def close(self):
        self.closed.set()


def test_of_two_workers_one_watches_and_a_dead_one_is_replaced(no_redis, provider, cloud, monkeypatch):
    """A worker that is killed gives nothing back: its time has to run out."""
    watched = use_cloud(provider, Watched(cloud))
    hold, asked = jobs.hold, set()
    monkeypatch.setattr(ticker_module, "TENDED", timedelta(hours=1))
    monkeypatch.setattr(jobs, "hold", lambda name, holder, lasting: asked.add(holder) or hold(name, holder, lasting))
    monkeypatch.setattr(jobs, "let_go", lambda holder: None)
    one, other = Ticker(pool=2), Ticker(pool=2)
    try:
        one.start()
        until(lambda: len(watched.watching) == 1)
        other.start()
        until(lambda: other._me in asked)
        one.stop()
        asked.clear()
        until(lambda: other._me in asked)
        assert len(watched.watching) == 1
        Job.objects.filter(name=f"tend:{provider.pk}").update(due_at=clock.now())
        until(lambda: len(watched.watching) == 2)
    finally:
        watched.close()
        one.stop()
        other.stop()


def test_a_worker_that_was_replaced_ends_what_it_holds(no_redis, provider, cloud):
    watched = use_cloud(provider, Watched(cloud))
    ticker = Ticker(pool=2)
    ticker.start()
    try:
        until(lambda: watched.watching)
        Job.objects.filter(name=f"tend:{provider.pk}").update(
            holder=uuid.uuid4(), due_at=clock.now() + timedelta(hours=1)
        )
        until(watched.closed.is_set)
    finally:
        ticker.stop()


def test_a_sweep_that_waited_until_another_has_taken_over_is_not_done(no_redis, provider, cloud):
    """The pool may be busy for longer than a provider stays with a silent worker."""
    ticker, busy = Ticker(pool=1), threading.Event()
    cloud.calls.clear()
    try:
        ticker._submit("busy", lambda: busy.wait(60))
        ticker._each_second()
        assert ("sweep", provider.pk) in ticker._busy
        Job.objects.filter(name=f"tend:{provider.pk}").update(
            holder=uuid.uuid4(), due_at=clock.now() + timedelta(hours=1)
        )
        ticker._each_second()
        busy.set()
        until(lambda: not ticker._busy)
    finally:
        busy.set()
        ticker.stop()
    assert "observe" not in [verb for verb, _ in cloud.calls]


def test_what_a_sweep_opens_while_another_takes_over_is_ended(provider, cloud, monkeypatch):
    ticker, opened = Ticker(pool=1), Watched(cloud)
    ticker._tended = {provider.pk: provider}

    def overtaken(row, runner):
        ticker._tended = {}
        use_cloud(provider, opened)

    monkeypatch.setattr(sweep, "sweep", overtaken)
    ticker._sweep(provider)
    until(opened.closed.is_set)
    ticker.stop()


# ---- expired rows ----
def test_expired_rows_are_forgotten_a_day_later(alice):
    now = clock.now()
    living = Session.objects.create(key_hash="living", user=alice, expires_at=now + timedelta(hours=1))
    for hours in (1, 30):
        Session.objects.create(key_hash=f"s{hours}", user=alice, expires_at=now - timedelta(hours=hours))
        login = LoginState.objects.create(state_hash=f"l{hours}", provider="demo", session=living)
        LoginState.objects.filter(pk=login.pk).update(created_at=now - timedelta(hours=hours))
    sweep.forget_expired()
    assert sorted(Session.objects.values_list("key_hash", flat=True)) == ["living", "s1"]
    assert list(LoginState.objects.values_list("state_hash", flat=True)) == ["l1"]


# ---- heartbeat ----
def test_a_worker_that_works_beats_and_takes_its_word_back(db, no_redis, settings, tmp_path):
    settings.WORKER_BEAT = tmp_path / "worker.beat"
    ticker = Ticker(pool=1)
    ticker.start()
    until(lambda: beat.beats(settings.WORKER_BEAT))
    assert beat.giver(settings.WORKER_BEAT) == os.getpid()
    os.utime(settings.WORKER_BEAT, (0, 0))
    until(lambda: beat.beats(settings.WORKER_BEAT))
    ticker.stop()
    assert not settings.WORKER_BEAT.exists()


@pytest.mark.parametrize("part", ["_due_instances", "_each_second"])
def test_a_worker_whose_rounds_fail_falls_silent(db, no_redis, settings, tmp_path, monkeypatch, part):
    settings.WORKER_BEAT = tmp_path / "worker.beat"
    rounds = threading.Semaphore(0)
    failing = Ticker(pool=1)

    def away():
        rounds.release()
        raise OperationalError("the database system is shutting down")

    monkeypatch.setattr(failing, part, away)
    failing.start()
    try:
        for _ in range(3):
            assert rounds.acquire(timeout=20)
        assert not settings.WORKER_BEAT.exists()
    finally:
        failing.stop()


@pytest.mark.parametrize(("age", "fresh"), [(0, True), (10, True), (20, False), (-600, False)])
def test_a_beat_grows_old(tmp_path, age, fresh):
    path = tmp_path / "worker.beat"
    assert not beat.beats(path)
    beat.Beat(path).give()
    os.utime(path, (time.time() - age,) * 2)
    assert beat.beats(path) is fresh
    asked = subprocess.run([sys.executable, "-m", "portal.lib.beat", str(path)], check=False)
    assert (asked.returncode == 0) is fresh


def test_a_beat_that_somebody_removed_is_given_again_and_anothers_is_left_alone(tmp_path):
    path = tmp_path / "worker.beat"
    mine = beat.Beat(path)
    mine.give()
    path.unlink()
    mine.give()
    assert beat.giver(path) == os.getpid()
    path.write_text("1\n")
    mine.end()
    assert beat.giver(path) == 1
