"""A reload replaces every process, and nobody notices: open sockets stay, nothing is refused, rights end as ever."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.gateway.harness import TOKEN, Harness, Wire
from tests.gateway.processes import Front, Service, talks
from tests.gateway.test_workers import is_gone


class Load:
    """Clients that ask all the time: some on a connection each, some on one for as long as it is kept open."""

    def __init__(self, front: Front, cookie: str) -> None:
        self._front = front
        self._cookie = cookie
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(keep,)) for keep in (False, False, True, True)]
        self.answered = 0
        self.failures: list[BaseException | int] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, keep: bool) -> None:
        wire: Wire | None = None
        while not self._stop.is_set():
            try:
                wire = wire or self._front.connect()
                wire.send(self._front.request("/", self._cookie))
                reply = wire.reply()
            except (OSError, EOFError) as error:
                self.failures.append(error)
                wire = None
                continue
            if reply.status == 200 and reply.body == b"hello":
                self.answered += 1
            else:
                self.failures.append(reply.status)
            if not keep or reply.get("Connection") == "close":
                wire.sock.close()
                wire = None
            time.sleep(0.002)
        if wire is not None:
            wire.sock.close()


def test_sockets_and_downloads_survive_three_reloads_under_load(front: Front, service: Service) -> None:
    sockets = list(front.sockets_on_each(service.cookie).values())
    download = front.connect()
    download.send(front.request("/slow", service.cookie))
    with Load(front, service.cookie) as load:
        for _ in range(3):
            before, answered = set(front.children()), load.answered
            front.reload()
            sockets.append(front.socket(service.cookie))
            front.until(lambda then=answered: load.answered > then + 100)
            assert not set(front.children()) <= before
    assert load.failures == []
    assert all(talks(one) for one in sockets)
    service.gateway.call(service.finish.set)
    reply = download.reply()
    assert reply.status == 200
    assert set(reply.body) == {ord("x")}
    for one in (*sockets, download):
        one.sock.close()
    front.until(lambda: len(front.children()) == 2)


def test_a_connection_kept_open_is_answered_once_more(front: Front, service: Service) -> None:
    wires = [front.connect() for _ in range(8)]
    for wire in wires:
        wire.send(front.request("/", service.cookie))
        assert not wire.reply().get("Connection")
    front.reload()
    for wire in wires:
        wire.send(front.request("/", service.cookie))
        reply = wire.reply()
        assert (reply.status, reply.get("Connection")) == (200, "close")
        assert wire.closed
    front.until(lambda: len(front.children()) == 2)


def test_a_withdrawal_reaches_processes_that_drain(front: Front, service: Service) -> None:
    old = front.sockets_on_each(service.cookie)
    download = front.connect()
    download.send(front.request("/slow", service.cookie))
    download.head()
    front.reload()
    assert all(talks(one) for one in old.values())
    service.gateway.portal.send(type="withdraw", sid=service.sid)
    assert all(one.closed for one in old.values())
    with pytest.raises(EOFError):
        download.take(1_000_000)
    front.until(lambda: len(front.children()) == 2)
    assert all(is_gone(pid) for pid in old)


def test_draining_ends_at_its_limit(gateway: Harness, service: Service) -> None:
    with Front(gateway, GATEWAY_PROCESSES="2", GATEWAY_DRAIN_TUNNELS="0.0003") as front:
        old = front.sockets_on_each(service.cookie)
        front.reload()
        assert all(one.closed for one in old.values())
        front.until(lambda: all(is_gone(pid) for pid in old))


def test_processes_that_cannot_start_replace_nobody(gateway: Harness, service: Service) -> None:
    token = gateway.folder / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    with Front(gateway, GATEWAY_PROCESSES="2", GATEWAY_TOKEN="", GATEWAY_TOKEN_FILE=str(token)) as front:
        sockets = front.sockets_on_each(service.cookie)
        token.write_text("")
        front.process.send_signal(signal.SIGHUP)
        front.until(lambda: "reload given up" in front.log, 20)
        assert set(front.children()) == sockets.keys()
        assert all(talks(one) for one in sockets.values())
        assert front.get(cookie=service.cookie).status == 200
        token.write_text(TOKEN)
        front.reload()
        assert front.get(cookie=service.cookie).status == 200
        for one in sockets.values():
            one.sock.close()


def test_without_the_portal_nobody_is_replaced(front: Front, service: Service) -> None:
    """New processes wait for the portal's word, and end when told; the old ones know the living sessions."""
    sockets = front.sockets_on_each(service.cookie)
    service.gateway.portal.away = True
    front.process.send_signal(signal.SIGHUP)
    front.until(lambda: len(front.children()) == 4)
    new = set(front.children()) - sockets.keys()
    assert {front.get(cookie=service.cookie).status for _ in range(20)} == {200}
    front.until(lambda: all(_handles_signals(pid) for pid in new))
    for pid in new:
        os.kill(pid, signal.SIGTERM)
    front.until(lambda: "reload given up" in front.log)
    assert set(front.children()) == sockets.keys()
    assert all(talks(one) for one in sockets.values())


def _handles_signals(pid: int) -> bool:
    """Whether a process has got so far as to catch SIGTERM."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))


def test_two_reloads_at_once_are_one_after_the_other(front: Front, service: Service) -> None:
    with Load(front, service.cookie) as load:
        for _ in range(5):
            front.process.send_signal(signal.SIGHUP)
        front.until(lambda: '"reloaded"' in front.log, 30)
        front.until(lambda: len(front.children()) == 2, 30)
    assert load.failures == []
    assert front.get(cookie=service.cookie).status == 200
