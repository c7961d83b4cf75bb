"""The reflector against written-down answers: what it concludes from breaks, gaps and silence."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from instances.providers.base import ProviderUnavailable
from instances.providers.kubernetes import reflector
from instances.providers.kubernetes.reflector import Reflector
from tests.providers.kubernetes.apiserver import serving

END = {"k8s.io/initial-events-end": "true"}


def thing(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": uid or f"u-{name}", "resourceVersion": str(version), "labels": {"a": "b"}}
    }


def event(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


def bookmark(version: int, **annotations: str) -> bytes:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version), "annotations": annotations}})


def expired() -> bytes:
    return event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


class Cluster:
    """What a reflector asks, one answer after the other; a watch stays open until the test has it end."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.answers: queue.Queue[Any] = queue.Queue()

    def __call__(self, method: str, path: str, query: dict[str, str]) -> tuple[int, bytes | Iterator[bytes]]:
        self.asked.append(query)
        answer = self.answers.get(timeout=20)
        return answer if isinstance(answer, tuple) else (200, answer)

    def watch(self) -> queue.Queue[bytes | None]:
        """Answer the next question with a stream; None ends it."""
        lines: queue.Queue[bytes | None] = queue.Queue()
        self.answers.put(iter(lines.get, None))
        return lines

    def list(self, *found: dict[str, Any], version: int, more: str = "") -> None:
        metadata = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
        self.answers.put(json.dumps({"metadata": metadata, "items": found}).encode())


@pytest.fixture
def cluster():
    return Cluster()


@contextmanager
def reflecting(cluster, tmp_path, **more):
    heard: queue.Queue[tuple[str, Any]] = queue.Queue()
    with serving(cluster, tmp_path) as (_, real):
        one = Reflector(real, "pods", "a=b", lambda name, found: heard.put((name, found)), **more)
        one.start()
        try:
            yield one, heard
        finally:
            one._closed.set()
            for _ in range(3):  # whatever it asks for next
                cluster.answers.put((500, b""))
            one.close()


@pytest.fixture
def running(cluster, tmp_path):
    """A reflector that was given a and b at version 10 and goes on watching."""
    lines = cluster.watch()
    for line in (event("ADDED", thing("a", 3)), event("ADDED", thing("b", 5)), bookmark(10, **END)):
        lines.put(line)
    with reflecting(cluster, tmp_path) as (one, heard):
        one.snapshot()
        yield one, heard, lines


def test_the_first_list_is_streamed(running, cluster):
    one, _, _ = running
    assert sorted(one.snapshot()) == ["a", "b"]
    assert cluster.asked[0]["sendInitialEvents"] == "true"
    assert one.counts.lists == 0


def written_by(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"metadata": found["metadata"] | {"managedFields": [{"manager": "kubelet"}]}}


def test_who_has_written_what_is_not_kept(cluster, tmp_path):
    cluster.answers.put((400, b"{}"))  # streams no list
    cluster.list(written_by(thing("a", 3)), version=10)
    lines = cluster.watch()
    lines.put(event("ADDED", written_by(thing("b", 11))))
    with reflecting(cluster, tmp_path) as (one, heard):
        assert heard.get(timeout=10)[0] == "b"
        one.learn(written_by(thing("c", 12)))
        kept = one.snapshot()
    assert sorted(kept) == ["a", "b", "c"]
    assert not any("managedFields" in found["metadata"] for found in kept.values())


def test_until_the_list_is_whole_there_is_none(cluster, tmp_path):
    lines = cluster.watch()
    lines.put(event("ADDED", thing("a", 3)))
    with reflecting(cluster, tmp_path) as (one, _):
        with pytest.raises(ProviderUnavailable):
            one.snapshot(0.5)
        lines.put(bookmark(10, **END))
        assert sorted(one.snapshot()) == ["a"]


def test_events_change_the_snapshot_and_are_told(running):
    one, heard, lines = running
    lines.put(event("MODIFIED", thing("a", 11)))
    assert heard.get(timeout=10)[0] == "a"
    lines.put(event("DELETED", thing("b", 12)))
    assert heard.get(timeout=10) == ("b", None)
    assert {name: found["metadata"]["resourceVersion"] for name, found in one.snapshot().items()} == {"a": "11"}


def test_a_watch_that_ends_goes_on_where_it_was(running, cluster):
    one, heard, lines = running
    lines.put(bookmark(20))
    again = cluster.watch()
    lines.put(None)
    again.put(event("ADDED", thing("c", 21)))
    assert heard.get(timeout=10)[0] == "c"
    assert cluster.asked[-1]["resourceVersion"] == "20"
    assert one.counts.lists == 0


def test_a_torn_watch_goes_on_where_it_was(running, cluster):
    _, heard, lines = running
    again = cluster.watch()
    lines.put(b'{"type": "ADDED", "object"\n')
    again.put(event("ADDED", thing("c", 21)))
    assert heard.get(timeout=10)[0] == "c"
    assert cluster.asked[-1]["resourceVersion"] == "10"


def test_a_version_that_is_too_old_has_everything_listed_anew(running, cluster):
    one, heard, lines = running
    again = cluster.watch()
    lines.put(expired())
    for line in (event("ADDED", thing("b", 5)), bookmark(30, **END)):
        again.put(line)
    assert heard.get(timeout=10) == ("a", None), "what is gone from the list is told, so that it is looked at"
    assert sorted(one.snapshot()) == ["b"]


def test_a_version_that_is_refused_has_everything_listed_anew(running, cluster):
    one, _, lines = running
    cluster.answers.put((410, json.dumps({"kind": "Status", "reason": "Expired"}).encode()))
    again = cluster.watch()
    lines.put(None)
    for line in (event("ADDED", thing("z", 40)), bookmark(40, **END)):
        again.put(line)
    _until(lambda: sorted(one.snapshot()) == ["z"])


def test_it_never_gives_up(running, cluster, monkeypatch):
    monkeypatch.setattr(reflector, "_LONGEST", 0.2)
    one, heard, lines = running
    for _ in range(12):
        cluster.answers.put((503, b"not now"))
    again = cluster.watch()
    lines.put(None)
    again.put(event("ADDED", thing("c", 21)))
    assert heard.get(timeout=20)[0] == "c"
    assert one.counts.breaks >= 12


def test_a_silent_watch_is_no_answer(running, monkeypatch):
    one, _, _ = running
    one.snapshot()
    monkeypatch.setattr(reflector, "STALE", 0.0)
    with pytest.raises(ProviderUnavailable, match="nothing was heard"):
        one.snapshot()


def test_an_older_server_is_listed_by_pages(cluster, tmp_path):
    refusal = {"kind": "Status", "reason": "Invalid", "message": "sendInitialEvents: Forbidden"}
    cluster.answers.put((422, json.dumps(refusal).encode()))
    cluster.list(thing("a", 1), version=7, more="next")
    cluster.list(thing("b", 2), version=7)
    lines = cluster.watch()
    with reflecting(cluster, tmp_path) as (one, _):
        assert sorted(one.snapshot()) == ["a", "b"]
        lines.put(bookmark(8))
        assert [query.get("continue") for query in cluster.asked[1:3]] == [None, "next"]
        _until(lambda: len(cluster.asked) == 4)
        assert cluster.asked[3]["resourceVersion"] == "7"


def test_pages_that_expire_are_begun_again(cluster, tmp_path):
    cluster.list(thing("a", 1), version=7, more="next")
    cluster.answers.put((410, json.dumps({"kind": "Status", "reason": "Expired"}).encode()))
    cluster.list(thing("a", 1), version=9)
    cluster.watch()
    with reflecting(cluster, tmp_path, streams_lists=False) as (one, _):
        assert sorted(one.snapshot()) == ["a"]


def test_a_full_list_finds_what_the_watch_has_missed(running, cluster, monkeypatch):
    monkeypatch.setattr(reflector, "COMPARED", 0.0)
    one, heard, lines = running
    cluster.list(thing("a", 3), thing("c", 6), version=10)
    cluster.watch()
    lines.put(None)
    assert heard.get(timeout=10) == ("b", None)
    assert sorted(one.snapshot()) == ["a", "c"]
    assert one.counts.differences == 2
    assert cluster.asked[1]["resourceVersionMatch"] == "Exact"


def test_a_full_list_that_agrees_counts_nothing(running, cluster, monkeypatch):
    monkeypatch.setattr(reflector, "COMPARED", 0.0)
    one, heard, lines = running
    one.learn(thing("new", 99))  # made after the version that is compared
    cluster.list(thing("a", 3), thing("b", 5), version=10)
    again = cluster.watch()
    lines.put(None)
    again.put(event("MODIFIED", thing("a", 100)))
    assert heard.get(timeout=10)[0] == "a"
    assert one.counts.differences == 0
    assert sorted(one.snapshot()) == ["a", "b", "new"]


def test_what_somebody_read_counts_at_once_and_never_goes_back(running):
    one, heard, lines = running
    one.learn(thing("a", 50))
    one.learn(thing("n", 51))
    lines.put(event("MODIFIED", thing("a", 40)))
    lines.put(event("ADDED", thing("c", 41)))
    assert heard.get(timeout=10)[0] == "c"
    found = one.snapshot()
    assert found["a"]["metadata"]["resourceVersion"] == "50"
    assert "n" in found


def test_what_was_found_gone_does_not_come_back_with_a_late_event(running):
    one, heard, lines = running
    one.bury("a", one.known("a"))
    assert sorted(one.snapshot()) == ["b"]
    lines.put(event("MODIFIED", thing("a", 40)))
    lines.put(event("ADDED", thing("c", 41)))
    assert heard.get(timeout=10)[0] == "c"
    assert sorted(one.snapshot()) == ["b", "c"]
    lines.put(event("ADDED", thing("a", 42, uid="another")))
    assert heard.get(timeout=10)[0] == "a"
    assert sorted(one.snapshot()) == ["a", "b", "c"]


def test_a_look_that_is_late_brings_nothing_back(running):
    one, heard, lines = running
    lines.put(event("DELETED", thing("b", 12)))
    assert heard.get(timeout=10) == ("b", None)
    one.learn(thing("b", 11))
    assert sorted(one.snapshot()) == ["a"]


def test_what_came_while_a_look_was_under_way_is_not_forgotten(running):
    one, heard, lines = running
    before = one.known("a")
    lines.put(event("ADDED", thing("a", 42, uid="another")))
    assert heard.get(timeout=10)[0] == "a"
    one.bury("a", before)
    assert one.known("a") == "another"
    one.bury("nothing", one.known("nothing"))


def test_a_list_after_an_outage_tells_what_has_changed(running, cluster):
    _, heard, lines = running
    again = cluster.watch()
    lines.put(expired())
    for line in (event("ADDED", thing("a", 3)), event("ADDED", thing("b", 25)), bookmark(30, **END)):
        again.put(line)
    assert heard.get(timeout=10)[0] == "b"
    assert heard.empty()


def test_what_was_read_while_a_list_came_is_newer_than_the_list(running, cluster):
    """A start that was just sent must not be undone in the snapshot: stopped would mean that it has ended again."""
    one, heard, lines = running
    one.learn(thing("b", 9))  # which the list is to replace
    again = cluster.watch()
    lines.put(expired())
    again.put(event("ADDED", thing("a", 3)))
    _until(lambda: len(cluster.asked) == 2)
    one.learn(thing("a", 50))
    one.learn(thing("n", 51))
    again.put(bookmark(30, **END))
    assert heard.get(timeout=10)[0] == "b"
    versions = {name: found["metadata"]["resourceVersion"] for name, found in one.snapshot().items()}
    assert versions == {"a": "50", "n": "51"}
    again.put(event("DELETED", thing("n", 52)))
    assert heard.get(timeout=10) == ("n", None)


def test_a_watch_that_ends_at_once_is_not_asked_for_again_at_once(running, cluster):
    """A proxy that has lost its server may answer so as fast as it can."""
    one, _, lines = running
    for _ in range(200):
        cluster.answers.put(iter(()))
    lines.put(None)
    time.sleep(2.0)
    assert 2 <= one.counts.watches < 20


def test_a_version_that_leads_nowhere_is_given_up(running, cluster, monkeypatch):
    """After a restore the cluster counts from earlier on: what was seen last never comes again."""
    monkeypatch.setattr(reflector, "STALE", 0.0)
    one, _, lines = running
    cluster.answers.put((504, b"Too large resource version"))
    again = cluster.watch()
    lines.put(None)
    for line in (event("ADDED", thing("a", 2)), bookmark(4, **END)):
        again.put(line)
    _until(lambda: len(cluster.asked) == 3)
    monkeypatch.setattr(reflector, "STALE", 100.0)
    _until(lambda: _version_of(one.snapshot(), "a") == "2")
    assert "resourceVersion" not in cluster.asked[-1]


def _version_of(found, name) -> str:
    return str(found[name]["metadata"]["resourceVersion"])


def _until(done) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)
