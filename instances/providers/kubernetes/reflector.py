"""All objects of one kind that are ours, listed once and then watched: a snapshot that says how old it is.

It never gives up. What a list or a watch lacks proves nothing: `look` does.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from instances.providers.base import ProviderError, ProviderUnavailable
from instances.providers.kubernetes.client import Cluster, Watch
from instances.providers.kubernetes.errors import Busy, Expired, error_of, json_status

log = structlog.get_logger("instances.kubernetes")

PAGE = 500
#: seconds after the last sign of life at which a snapshot is no answer any more
STALE = 100.0
#: seconds after which the end of a watch is the time to list everything: it must be what the watch has told
COMPARED = 200.0
_SHORTEST, _LONGEST = 0.1, 30.0
#: how many uids are kept of what is gone
_REMEMBERED = 5000
_DICE = secrets.SystemRandom()
_INITIAL_END = "k8s.io/initial-events-end"

Object = dict[str, Any]
#: an object as it is now (None: gone), by name
Heard = Callable[[str, Object | None], None]


@dataclass
class Counts:
    """What a site may ask about; `differences` must stay 0."""

    lists: int = 0
    watches: int = 0
    breaks: int = 0
    differences: int = 0


@dataclass
class Reflector:
    cluster: Cluster
    kind: str
    selector: str
    heard: Heard = lambda name, found: None
    counts: Counts = field(default_factory=Counts)
    #: whether the server can stream the first list; found out by asking
    streams_lists: bool = True

    def __post_init__(self) -> None:
        self._objects: dict[str, Object] = {}
        #: what somebody has read or written that the last list may be too old for
        self._learnt: dict[str, Object] = {}
        #: uids that are never to come again, the oldest first
        self._gone: dict[str, None] = {}
        self._version = ""
        self._alive_at = self._compared_at = float("-inf")
        self._watch: Watch | None = None
        self._lock = threading.Lock()
        self._listed, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # ---- for the provider ----
    def snapshot(self, wait: float = 15.0) -> dict[str, Object]:
        """Return all objects by name; ProviderUnavailable while there is no list, or the last sign of life is old."""
        self.start()
        if not self._listed.wait(wait):
            raise ProviderUnavailable(f"no list of {self.kind} yet")
        age = time.monotonic() - self._alive_at
        if age > STALE:
            raise ProviderUnavailable(f"nothing was heard of {self.kind} for {age:.0f} s")
        with self._lock:
            return dict(self._objects)

    def learn(self, found: Object) -> None:
        """Take an object that somebody has just read or written, unless something newer is known."""
        _lighten(found)
        with self._lock:
            if self._listed.is_set() and self._take(found):
                self._learnt[found["metadata"]["name"]] = found

    def known(self, name: str) -> str:
        """Return the uid of the object of this name; empty for none. To be asked before a look, for `bury`."""
        with self._lock:
            found = self._objects.get(name)
            return str(found["metadata"]["uid"]) if found else ""

    def bury(self, name: str, uid: str) -> None:
        """Forget an object that was known before a look which did not find it; no late event brings it back."""
        if uid:
            with self._lock:
                self._forget(name, uid)

    def start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name=f"reflect-{self.kind}", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._watch is not None:
            self._watch.close()
        if self._thread is not None:
            self._thread.join(10)

    # ---- the thread ----
    def _run(self) -> None:
        pause = _SHORTEST
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._round()
            except Expired:
                self._version = ""
            except ProviderError as error:
                self._note_break(error)
                if began - self._alive_at > STALE:
                    self._version = ""  # of a cluster that was restored it may lie in the future for ever
            except Exception:
                log.exception("reflector", kind=self.kind)
                self._version = ""
            lasted = time.monotonic() - began
            pause = _SHORTEST if lasted > _LONGEST else min(_LONGEST, pause * 2)
            self._closed.wait(pause * _DICE.uniform(0.5, 1.0))

    def _note_break(self, error: ProviderError) -> None:
        if self._closed.is_set():
            return
        self.counts.breaks += 1
        log.warning("watch broke", kind=self.kind, error=str(error)[:200])
        if isinstance(error, Busy):
            self._closed.wait(error.after)

    def _round(self) -> None:
        """List if there is nothing to go on from, then watch until the server ends it."""
        if self._version and time.monotonic() - self._compared_at > COMPARED:
            self._compare()
        query = {"labelSelector": self.selector, "allowWatchBookmarks": "true"}
        if not self._version:
            with self._lock:
                self._learnt = {}
        if not self._version and not self.streams_lists:
            self._swap(*self._list())
        if self._version:
            query |= {"resourceVersion": self._version}
        else:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        self._listen(query)

    def _listen(self, query: dict[str, str]) -> None:
        seconds = _DICE.randint(240, 300)  # no two watches end together
        self.counts.watches += 1
        initial: dict[str, Object] | None = {} if "sendInitialEvents" in query else None
        try:
            watch = self.cluster.watch(self.kind, query | {"timeoutSeconds": str(seconds)})
        except ProviderError as error:
            if initial is not None and not isinstance(error, ProviderUnavailable):
                self.streams_lists = False  # an older server: it says that the query is invalid
            raise
        self._watch = watch
        try:
            events = iter(() if self._closed.is_set() else watch)  # who closes us has not seen this watch
            for event in events:
                if self._closed.is_set():
                    return
                initial = self._hear(event, initial)
        finally:
            watch.close()

    def _hear(self, event: Object, initial: dict[str, Object] | None) -> dict[str, Object] | None:
        """Take one event; return the list that is still being streamed, if any."""
        kind, found = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise error_of(int(found.get("code") or 500), json_status(found))
        metadata = _lighten(found)["metadata"]
        if kind == "BOOKMARK":
            if initial is not None and _INITIAL_END in metadata.get("annotations", {}):
                self._swap(initial, metadata["resourceVersion"])
                return None
            if initial is not None:
                self.streams_lists = False  # an older server, which takes no notice of what it does not know
                raise ProviderUnavailable("the server streams no list")
        elif initial is not None:
            initial[metadata["name"]] = found
            return initial
        elif kind == "DELETED":
            self._lose(found)
        else:
            with self._lock:
                news = self._take(found)
            if news:
                self.heard(metadata["name"], found)
        if initial is None:
            self._version, self._alive_at = metadata["resourceVersion"], time.monotonic()
        return initial

    # ---- lists ----
    def _list(self, **exact: str) -> tuple[dict[str, Object], str]:
        """Return everything, by pages, and the version that it is of."""
        self.counts.lists += 1
        found: dict[str, Object] = {}
        query = {"labelSelector": self.selector, "limit": str(PAGE), **exact}
        while True:
            page = self.cluster.find(self.kind, **query)
            found |= {one["metadata"]["name"]: _lighten(one) for one in page.get("items") or ()}
            more = page["metadata"].get("continue")
            if not more:
                return found, str(page["metadata"]["resourceVersion"])
            query = {"labelSelector": self.selector, "limit": str(PAGE), "continue": more}

    def _swap(self, found: dict[str, Object], version: str) -> None:
        """Take a list for what is there, but for what somebody has read or written since."""
        with self._lock:
            before = self._objects
            self._prune(version)
            found |= self._learnt
            self._objects = {n: o for n, o in found.items() if o["metadata"]["uid"] not in self._gone}
            self._version, self._alive_at = version, time.monotonic()
            self._compared_at = self._alive_at
            first = not self._listed.is_set()
            self._listed.set()
        for name in () if first else sorted(before.keys() | found.keys()):
            if name not in before or name not in found or _version(before[name]) != _version(found[name]):
                self.heard(name, found.get(name))

    def _compare(self) -> None:
        """List everything as it was at the version that the watch has reached: it must be what the watch has told."""
        found, version = self._list(resourceVersion=self._version, resourceVersionMatch="Exact")
        with self._lock:
            self._prune(version)
            known = {n: o["metadata"]["uid"] for n, o in self._objects.items() if not _older(version, _version(o))}
            newer = self._objects.keys() - known.keys()
            listed = {n: o["metadata"]["uid"] for n, o in found.items() if o["metadata"]["uid"] not in self._gone}
        different = {n for n in (known.keys() | listed.keys()) - newer if known.get(n) != listed.get(n)}
        self._compared_at = time.monotonic()
        if different:
            self.counts.differences += len(different)
            log.error("the watch has missed something", kind=self.kind, names=sorted(different)[:20])
            self._swap(found, version)

    # ---- the objects (under the lock) ----
    def _prune(self, version: str) -> None:
        """Forget what was learnt before a list of this version: it says the same, or something newer."""
        self._learnt = {name: one for name, one in self._learnt.items() if _older(version, _version(one))}

    def _take(self, found: Object) -> bool:
        metadata = found["metadata"]
        known = self._objects.get(metadata["name"])
        if metadata["uid"] in self._gone:
            return False
        if known and known["metadata"]["uid"] == metadata["uid"] and not _older(_version(known), _version(found)):
            return False
        self._objects[metadata["name"]] = found
        return True

    def _lose(self, found: Object) -> None:
        name, uid = found["metadata"]["name"], found["metadata"]["uid"]
        with self._lock:
            self._forget(name, uid)
        self.heard(name, None)

    def _forget(self, name: str, uid: str) -> None:
        found = self._objects.get(name)
        if found is not None and found["metadata"]["uid"] == uid:
            del self._objects[name]
        self._gone[uid] = None
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]


def _lighten(found: Object) -> Object:
    """Leave out who has written which field: as much again as all the rest, and read by nobody."""
    found["metadata"].pop("managedFields", None)
    return found


def _version(found: Object) -> str:
    return str(found["metadata"].get("resourceVersion", ""))


def _older(one: str, other: str) -> bool:
    """Whether a version comes before another: they are numbers that rise, as the API promises since 1.35."""
    return int(one) < int(other) if one.isdigit() and other.isdigit() else one != other
