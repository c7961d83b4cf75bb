"""Children: started, adopted, restarted, stopped; and nobody else's process is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.embedded import processes, watch
from portal.embedded.people import CannotStart, ourselves
from portal.embedded.processes import Child, Program, started_at
from tests.portals import until

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Children that the test makes; ended whatever happens."""
    made: list[Child] = []
    yield made
    for child in made:
        if child.alive():
            os.killpg(child.pid, signal.SIGKILL)


def make(folder: Path, argv: list[str], children: list[Child], **options: object) -> Child:
    program = Program("thing", argv, dict(os.environ), ourselves(), **options)  # type: ignore[arg-type]
    child = Child(program, folder, folder)
    children.append(child)
    return child


def test_output_goes_to_a_log_that_only_we_read(tmp_path: Path, children: list[Child]) -> None:
    child = make(tmp_path, SLEEP, children)
    child.start()
    until(lambda: "here" in child.log.read_text())
    assert child.log.stat().st_mode & 0o777 == 0o600


def test_a_child_outlives_its_parent_and_is_adopted(tmp_path: Path, children: list[Child]) -> None:
    first = make(tmp_path, SLEEP, children)
    first.start()
    second = make(tmp_path, SLEEP, children)
    assert second.adopt()
    assert (second.pid, second.started) == (first.pid, first.started)


def test_a_pid_that_now_belongs_to_somebody_else_is_left_alone(tmp_path: Path, children: list[Child]) -> None:
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL)
    try:
        (tmp_path / "thing.pid").write_text(f"{stranger.pid} {(started_at(stranger.pid) or 0) - 1}\n")
        child = make(tmp_path, SLEEP, children)
        assert not child.adopt()
        child.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_child_that_died_starts_again_later_each_time(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"], children)
    said: list[str] = []
    clock = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    child.start()
    waits = []
    for _ in range(9):
        assert child.process is not None
        child.process.wait(10)
        child.keep(said.append)
        assert child.again_at is not None
        waits.append(child.again_at - clock[0])
        clock[0] = child.again_at
        child.keep(said.append)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.5, processes.LONGEST_WAIT)
    assert "thing ended with 3; it starts again in 0.5 s" in said[0]


def test_a_start_that_fails_is_tried_again_soon_however_long_it_goes_on(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is refused for a moment while the dead one's backends still have its memory."""

    def refused() -> None:
        raise CannotStart("not yet")

    clock = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    child = make(tmp_path, SLEEP, children)
    monkeypatch.setattr(child, "start", refused)
    waits = []
    child.again_at = clock[0]
    for _ in range(1100):
        clock[0] = child.again_at
        with pytest.raises(CannotStart):
            child.keep(lambda _text: None)
        waits.append(child.again_at - clock[0])
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == processes.LONGEST_WAIT


def test_a_child_that_was_steady_starts_again_at_once(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make(tmp_path, [sys.executable, "-c", ""], children)
    child.failures = 5
    child.start()
    assert child.process is not None
    child.process.wait(10)
    child.since -= processes.STEADY_SECONDS + 1
    child.keep(lambda _text: None)
    assert child.failures == 0


def test_one_that_is_deaf_to_the_polite_signal_is_ended(tmp_path: Path, children: list[Child]) -> None:
    child = make(tmp_path, DEAF, children, patience=0.2)
    child.start()
    until(lambda: "deaf" in child.log.read_text())
    child.stop()
    assert not child.alive()
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL
    assert not child.pid_file.exists()


def test_one_that_lives_but_answers_no_more_is_ended_and_started_again(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.02)
    stopped = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"

    def healthy() -> bool:
        return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"

    child = make(
        tmp_path, [sys.executable, "-c", f"{stopped}; import time; time.sleep(600)"], children, healthy=healthy
    )
    child.start()
    said: list[str] = []
    first, guard = child.pid, watch.Watch(child, 1.0)
    try:
        for _ in range(75):  # longer than its silence: it answers, so nothing happens
            guard.check(said.append)
            time.sleep(0.02)
        assert child.alive()
        assert said == []
        os.kill(first, signal.SIGSTOP)
        until(lambda: guard.check(said.append) or not child.alive())
        assert len(said) == 1
        assert "thing has not answered for 1 s; it is ended" in said[0]
        until(lambda: child.keep(said.append) or child.pid != first)
        assert child.alive()
    finally:
        guard.end()


def test_one_that_was_not_asked_yet_is_not_taken_for_silent(
    tmp_path: Path, children: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start may take minutes before anybody looks after those that were started first."""
    monkeypatch.setattr(watch, "EVERY", 600)
    child = make(tmp_path, SLEEP, children, healthy=lambda: True)
    child.start()
    child.since -= 300
    guard = watch.Watch(child, 60.0)
    try:
        guard.check(lambda text: pytest.fail(text))
        assert child.alive()
    finally:
        guard.end()


def test_one_that_is_not_to_be_asked_is_left_alone(tmp_path: Path, children: list[Child]) -> None:
    child = make(tmp_path, SLEEP, children)
    child.start()
    os.kill(child.pid, signal.SIGSTOP)
    guard = watch.Watch(child, 0.0)
    guard.check(lambda text: pytest.fail(text))
    assert child.alive()
    os.kill(child.pid, signal.SIGCONT)


def test_why_it_ended_is_read_from_its_log(tmp_path: Path, children: list[Child]) -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('the database is on fire')"]
    child = make(tmp_path, argv, children, answers=lambda: False)
    child.start()
    with pytest.raises(CannotStart, match=r"thing ended with 1.*\n.*the database is on fire"):
        child.wait_ready(10)


def test_one_that_never_answers_is_named_with_its_log(tmp_path: Path, children: list[Child]) -> None:
    child = make(tmp_path, SLEEP, children, answers=lambda: False)
    child.start()
    with pytest.raises(CannotStart, match=r"does not answer.*thing\.log"):
        child.wait_ready(0.1)


def test_a_run_to_the_end_has_to_end_well(tmp_path: Path, children: list[Child]) -> None:
    make(tmp_path, [sys.executable, "-c", ""], children).finish(10)
    with pytest.raises(CannotStart, match="no such table"):
        make(tmp_path, [sys.executable, "-c", "import sys; sys.exit('no such table')"], children).finish(10)


def test_a_large_log_is_moved_away_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LARGEST_LOG", 10)
    log = tmp_path / "thing.log"
    log.write_text("0123456789 and more")
    os.close(processes.open_log(log))
    assert (tmp_path / "thing.log.1").read_text() == "0123456789 and more"
    assert log.read_text() == ""


def test_a_log_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thing.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"[Ss]ymbolic links"):
        processes.open_log(tmp_path / "thing.log")
    assert not (tmp_path / "victim").exists()
