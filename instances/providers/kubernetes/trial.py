"""The set-up tried out: a machine of a plan is started with disk and home, and one that looks where it can get.

Everything it makes has our labels and one more, so that nobody takes it for an instance; it is removed in the end, and
what an earlier trial has left (killed, or cut off) in the beginning. What could not be seen is said, never passed.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from instances.lifecycle import Phase
from instances.providers.base import Finding, Home, ProviderError, Service, Spec
from instances.providers.kubernetes import manifests
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.errors import NotThere
from instances.providers.kubernetes.people import told, words
from instances.providers.kubernetes.phases import Verdict, judge
from instances.providers.kubernetes.sight import Sight
from portal.lib.readers import GIB

SETS, PODS, CLAIMS = "statefulsets", "pods", "persistentvolumeclaims"
#: seconds: until a machine runs (its image may be large), its claims say so, the other has looked, all is gone
START, BOUND, LOOK, GONE = 600.0, 20.0, 120.0, 120.0
#: how many events are told: those of one second come in no order, and a start has some that mean nothing
_TOLD = 6
_MARK = "beamport-trial "
#: Tries what a pod must not reach: address and port, by name. Policies may need a moment to be in force, and so may the
#: network itself: the last rounds count, and one that gets through is enough.
_LOOKS = r"""
ROUNDS, COUNTED = 6, 3
import json, os, socket, sys, threading, time

port, places = int(sys.argv[1]), json.loads(sys.argv[2])
host, service = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "0")
places["the API server"] = [host, service]
server = socket.create_server(("", port))
def serve():
    while True:
        server.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()

def reaches(host, port):
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True

rounds = []
for _ in range(ROUNDS):
    rounds.append({name for name in places if places[name][0] and reaches(*places[name])})
    time.sleep(3)
print("beamport-trial " + json.dumps(sorted(set.union(*rounds[-COUNTED:]))), flush=True)
time.sleep(600)
"""

Object = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A machine of the trial and what became of it."""

    name: str
    verdict: Verdict
    seconds: float
    #: None when it did not come to run
    pod: Object | None


class Trial:
    """One trial; `run` yields what was found and cleans up, however it ends."""

    def __init__(self, cluster: Cluster, post_secret: Callable[[Object], None], spec: Spec) -> None:
        self._cluster, self._site, self._post_secret = cluster, cluster.site, post_secret
        self._mark = uuid.uuid4().hex[:8]
        self._home = Home(f"trial-{self._mark}", GIB)
        self._spec = replace(spec, home=self._home, mounts=(), identity=None, deployment=self._site.deployment)

    def run(self) -> Generator[Finding]:
        left = self.clear()
        if left:
            yield Finding("clean-up", True, f"removed what an earlier trial had left: {', '.join(left)}")
        try:
            first = self._make("first", self._spec, self._home)
            yield self._image(first)
            yield from self._storage(first)
            yield self._network(first)
        finally:
            self.clear()

    # ---- what is found ----
    def _image(self, made: Made) -> Finding:
        image = self._spec.image.reference
        if made.pod is not None:
            return Finding("image and start", True, f"{image} ran {made.seconds:.1f} s after it was asked for")
        said = " ".join(part for part in (made.verdict.reason, made.verdict.detail) if part) or "nothing says why"
        events = "; ".join(words(self._events(made.name))[-_TOLD:])
        return Finding("image and start", False, f"{image} did not run within {START:.0f} s: {said}. {events}")

    def _storage(self, made: Made) -> Iterator[Finding]:
        claims = {"disk": (manifests.disk(made.name), self._site.scratch_class)}
        claims["home"] = (manifests.home(self._home.key), self._site.home_class)
        for what, (name, kind) in claims.items():
            title, of = f"storage of a {what}", f"a claim of class {kind or '(the default)'}"
            try:
                claim = self._claim(name, BOUND if made.pod else 0.0)
            except NotThere:
                yield Finding(title, None, f"{of} was not made, as no pod came")
                continue
            bound = claim.get("status", {}).get("phase") == "Bound"
            size = claim.get("status", {}).get("capacity", {}).get("storage", "")
            events = "; ".join(str(event.get("message", "")) for event in told(self._cluster, claim)[-2:])
            yield Finding(title, bound, f"{of} was bound ({size})" if bound else f"{of} is not bound. {events}")

    def _claim(self, name: str, seconds: float) -> Object:
        """Return a claim; a pod may run a moment before its claim says that it is bound."""
        end = time.monotonic() + seconds
        while True:
            claim = self._cluster.get(CLAIMS, name)
            if claim.get("status", {}).get("phase") == "Bound" or time.monotonic() > end:
                return claim
            time.sleep(0.2)

    def _network(self, first: Made) -> Finding:
        """Have a second pod try what no pod may reach; the node's probes reach both, so they have a network."""
        title = "network policy"
        if first.pod is None or not first.pod["status"].get("podIP") or not self._spec.services:
            return Finding(title, None, "not tried: there is no pod that could be reached")
        port = self._spec.services[0].port
        places = {"another pod": [first.pod["status"]["podIP"], port], "the metadata address": ["169.254.169.254", 80]}
        python = str(self._spec.image.options.get("python", "python3"))
        command = [python, "-I", "-c", _LOOKS, str(port), json.dumps(places)]
        image = replace(self._spec.image, options={"command": command, "agent": False})
        second = self._make("second", replace(self._spec, home=None, image=image, services=(Service("trial", port),)))
        if second.pod is None:
            said = f"{second.verdict.reason} {second.verdict.detail}".strip()
            return Finding(title, None, f"not seen: the pod that was to look did not run {python} ({said})")
        reached = self._wait_for_word(second.name)
        if reached is None:
            return Finding(title, None, "not seen: nothing could be read of the pod that was to look")
        if reached:
            return Finding(title, False, f"a pod reached {', '.join(reached)}. {_NOT_ENFORCED}", {"isolation": ""})
        found = "a pod reached neither another pod nor the API server nor the metadata address"
        return Finding(title, True, found, {"isolation": "seen"})

    def _wait_for_word(self, name: str) -> list[str] | None:
        """Return what the second pod has reached; None when it says nothing that can be read."""
        end = time.monotonic() + LOOK
        while time.monotonic() < end:
            try:
                lines = self._cluster.log(manifests.pod(name), container=manifests.MAIN).splitlines()
            except ProviderError:
                lines = []
            for line in lines:
                if line.startswith(_MARK):
                    return _names(line.removeprefix(_MARK))
            time.sleep(1)
        return None

    # ---- what is made ----
    def _make(self, which: str, spec: Spec, home: Home | None = None) -> Made:
        """Make a machine as an instance's is made, and wait until it is ready or nothing will come of it."""
        name = f"bp-trial-{self._mark}-{which}"
        body = manifests.statefulset(replace(spec, name=name, instance=str(uuid.uuid4())), self._site)
        if home is not None:
            self._cluster.post(CLAIMS, self._marked(manifests.claim(home, self._site)))
        self._marked(body["spec"]["template"])
        for template in body["spec"]["volumeClaimTemplates"]:
            self._marked(template)
        began = time.monotonic()
        found = self._cluster.post(SETS, self._marked(body))
        self._post_secret(found)
        self._cluster.patch(SETS, name, manifests.patch(found, {"replicas": 1}))
        return self._follow(name, began)

    def _marked(self, found: Object) -> Object:
        found["metadata"]["labels"][manifests.TRIAL] = self._mark
        return found

    def _follow(self, name: str, began: float) -> Made:
        while True:
            found = self._cluster.get(SETS, name)
            pod = self._pod(name)
            seen = Sight(found, pod, told(self._cluster, found), self._cluster.now())
            verdict, seconds = judge(seen), time.monotonic() - began
            if verdict.phase is Phase.RUNNING and seen.is_true("Ready"):
                return Made(name, verdict, seconds, pod)
            if verdict.phase is Phase.FAILED or seconds > START:
                return Made(name, verdict, seconds, None)
            time.sleep(0.1 if seconds < 5 else 1.0)

    def _pod(self, name: str) -> Object | None:
        try:
            return self._cluster.get(PODS, manifests.pod(name))
        except NotThere:
            return None

    def _events(self, name: str) -> list[Object]:
        try:
            return told(self._cluster, self._cluster.get(SETS, name))
        except ProviderError:
            return []

    # ---- what goes ----
    def clear(self) -> list[str]:
        """Remove what trials of this deployment have made, and wait until it is gone; return the names."""
        removed: list[str] = []
        end = time.monotonic() + GONE
        while left := self._left():
            for kind, one in left:
                name = str(one["metadata"]["name"])
                if not one["metadata"].get("deletionTimestamp"):
                    with suppress(NotThere):  # gone since it was listed
                        self._cluster.delete(kind, name, one["metadata"]["uid"], "Foreground")
                if name not in removed:
                    removed.append(name)
            if time.monotonic() > end:
                raise ProviderError(f"what the trial made does not go: {', '.join(removed)}")
            time.sleep(0.2)
        return removed

    def _left(self) -> list[tuple[str, Object]]:
        selector = f"{manifests.DEPLOYMENT}={self._site.tag},{manifests.TRIAL}"
        return [
            (kind, one) for kind in (SETS, CLAIMS) for one in self._cluster.find(kind, labelSelector=selector)["items"]
        ]


def _names(text: str) -> list[str] | None:
    """Return the list that the second pod prints; None for whatever an image may have made of it."""
    try:
        names = json.loads(text)
    except ValueError:
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


_NOT_ENFORCED = (
    "Either deploy/kubernetes/network-policy.yaml was not applied, or the cluster's network plug-in enforces no "
    "NetworkPolicy: then every session reaches every other. Outside the demo no instance is made there."
)
