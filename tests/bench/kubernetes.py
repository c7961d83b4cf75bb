"""What the Kubernetes provider costs on level a: above the API server's own time, and with many instances.

    python -m tests.bench.kubernetes [--rounds 20] [--at-once 100] [--instances 1000] [--seconds 600]

Starts a lab of its own (tests/labs/kubernetes) and removes it. Printed, one JSON object a line: create → running alone
and at once, beside the same requests sent bare; then, with so many instances there and a watcher in a process of its
own, its list, its sweeps, its memory and processor time, idle and under churn, the calls in the API server's audit
log, and how soon a change from outside wakes a worker. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("INSTANCE_KEY", "instance-key-of-the-bench-0123456789abcdef")

from instances.lifecycle import Phase
from instances.providers.base import ImageSpec, ProviderUnavailable, Spec
from instances.providers.kubernetes import KubernetesProvider, manifests
from tests.labs.kubernetes import build
from tests.labs.kubernetes.cluster import ACCOUNT_NAME, NAMESPACE, NODES, SHARED, Account, Lab
from tests.providers.contract import plain_spec

IMAGE = ImageSpec("JupyterLab", "lab/jupyter:1")
SETS, PODS = "statefulsets", "pods"
#: as the sweep's
SWEEP = 4.0
_MANY = 16


def say(what: str, **figures: Any) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def options_of(account: Account) -> dict[str, Any]:
    return {
        "deployment": str(uuid.uuid4()),
        "kubeconfig": str(account.kubeconfig),
        "namespace": account.namespace,
        "namespace_uid": account.namespace_uid,
        "home_class": SHARED,
    }


def spec_for(provider: KubernetesProvider) -> Spec:
    return plain_spec(deployment=provider.site.deployment, image=IMAGE, home=None, welcome={})


def repeat(verb: Callable[..., Any], *given: Any) -> Any:
    """Repeat a verb until it is answered, as the reconciler does."""
    while True:
        try:
            return verb(*given)
        except ProviderUnavailable as error:
            say("no answer", error=str(error)[:200])
            time.sleep(0.5)


class Woken:
    """Who waits for the provider's word on a machine, as a worker does: woken by the watch, then it looks."""

    def __init__(self, provider: KubernetesProvider) -> None:
        self._events: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        threading.Thread(target=provider.watch, args=(lambda name: self._events[name].set(),), daemon=True).start()

    def wait(self, name: str, seconds: float = 600.0) -> None:
        if not self._events[name].wait(seconds):
            raise TimeoutError(f"nothing is heard of {name}")
        self._events[name].clear()

    def forget(self) -> None:
        self._events.clear()


# ---- create → running ----
def ours(provider: KubernetesProvider, woken: Woken) -> float:
    """Return the seconds from a create to the look that finds it running."""
    spec, began = spec_for(provider), time.monotonic()
    repeat(provider.create, spec)
    while repeat(provider.look, spec.name).phase is not Phase.RUNNING:
        woken.wait(spec.name)
    return time.monotonic() - began


def bare(provider: KubernetesProvider, _: Woken) -> float:
    """Return the seconds that the same objects take without us: three requests, and a watch on the pod."""
    spec, cluster = spec_for(provider), provider.cluster
    began = time.monotonic()
    found = cluster.post(SETS, manifests.statefulset(spec, provider.site))
    cluster.post("secrets", manifests.secret(spec.name, found["metadata"]["uid"], {"jupyter": "t"}, {}, provider.site))
    cluster.patch(SETS, spec.name, manifests.patch(found, {"replicas": 1}))
    watch = cluster.watch(PODS, {"labelSelector": f"{manifests.MACHINE}={spec.name}", "timeoutSeconds": "600"})
    next(event for event in watch if event["object"].get("status", {}).get("phase") == "Running")
    watch.close()
    return time.monotonic() - began


def starts(provider: KubernetesProvider, rounds: int, at_once: int) -> None:
    list(provider.observe())
    woken = Woken(provider)
    for one in (bare, ours):  # what only a first call costs
        one(provider, woken)
    for what, one in (("bare", bare), ("ours", ours)):
        times = [one(provider, woken) for _ in range(rounds)]
        say(f"create to running, alone, {what}", rounds=rounds, median=statistics.median(times), longest=max(times))
    for what, one in (("bare", bare), ("ours", ours)):
        began = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            times = list(pool.map(lambda _, one=one: one(provider, woken), range(at_once)))
        say(
            f"create to running, at once, {what}",
            instances=at_once,
            all_after=time.monotonic() - began,
            median=statistics.median(times),
        )
    clear(provider)


def clear(provider: KubernetesProvider) -> None:
    names = list(provider.sets.snapshot())
    with ThreadPoolExecutor(_MANY) as pool:
        list(pool.map(lambda name: repeat(provider.delete, name), names))
    while provider.cluster.find(SETS, labelSelector=manifests.selector(provider.site))["items"]:
        time.sleep(0.5)


# ---- many ----
def make_room(lab: Lab, instances: int) -> None:
    """Give the nodes room for so many machines."""
    size = f"{64 * instances}Gi"
    room = {"cpu": str(8 * instances), "memory": size, "ephemeral-storage": size, "pods": str(2 * instances)}
    for name in NODES:
        status = lab.admin.ask("GET", f"/api/v1/nodes/{name}")["status"]
        status["allocatable"] |= room
        status["capacity"] |= room
        lab.admin.ask("PATCH", f"/api/v1/nodes/{name}/status", body={"status": status})


def fill(provider: KubernetesProvider, instances: int) -> list[str]:
    """Make machines and wait until their pods run."""

    def make(_: int) -> str:
        spec = spec_for(provider)
        repeat(provider.create, spec)
        return spec.name

    began = time.monotonic()
    with ThreadPoolExecutor(_MANY) as pool:
        names = list(pool.map(make, range(instances)))
    while sum(seen.phase is Phase.RUNNING for seen in provider.observe()) < instances:
        time.sleep(1)
    say("filled", instances=instances, seconds=time.monotonic() - began)
    return names


def calls(lab: Lab, since: float) -> dict[str, int]:
    """Return what the portal's account has asked the API server since, by verb and resource."""
    found: dict[str, int] = {}
    for line in (lab.logs / "audit.log").read_text().splitlines():
        entry = json.loads(line)
        at = entry["stageTimestamp"]
        if entry["user"]["username"] == ACCOUNT_NAME and entry["stage"] == "ResponseComplete" and at >= stamp(since):
            of = entry.get("objectRef", {}).get("resource") or entry["requestURI"].partition("?")[0]
            name = f"{entry['verb']} {of}"
            found[name] = found.get(name, 0) + 1
    return found


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Watcher:
    """The provider in a process of its own, which sweeps as a worker does and says what that took."""

    def __init__(self, options: dict[str, Any]) -> None:
        argv = [sys.executable, "-m", "tests.bench.kubernetes", "--watcher", json.dumps(options)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def watch(options: dict[str, Any]) -> None:
    """Be the watcher: sweep all the time, and answer each line with the figures since the one before."""
    before = _memory()
    provider = KubernetesProvider(options)
    began = time.monotonic()
    list(provider.observe())
    first = time.monotonic() - began
    sweeps: list[float] = []
    threading.Thread(target=_sweep, args=(provider, sweeps), daemon=True).start()
    cpu, at = time.process_time(), time.monotonic()
    for _line in sys.stdin:
        seconds = max(time.monotonic() - at, 1e-9)
        figures = {
            "first_list": first,
            "machines": len(provider.sets.snapshot()),
            "sweep_median": statistics.median(sweeps) if sweeps else None,
            "sweep_longest": max(sweeps, default=None),
            "cores": (time.process_time() - cpu) / seconds,
            "megabytes": _memory(),
            "megabytes_before": before,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "differences": provider.sets.counts.differences + provider.pods.counts.differences,
        }
        print(json.dumps(figures), flush=True)
        sweeps.clear()
        cpu, at = time.process_time(), time.monotonic()
    provider.close()


def _sweep(provider: KubernetesProvider, sweeps: list[float]) -> None:
    while True:
        began = time.monotonic()
        list(provider.observe())
        sweeps.append(time.monotonic() - began)
        time.sleep(SWEEP)


def _memory() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def many(lab: Lab, provider: KubernetesProvider, options: dict[str, Any], instances: int, seconds: float) -> None:
    names = fill(provider, instances)
    provider.close()  # from here on the watcher's calls alone are in the log
    time.sleep(2)
    watcher = Watcher(options)
    say("watcher begins", **watcher.ask("begin"))
    since = time.time()
    time.sleep(seconds)
    asked = calls(lab, since)
    hour = {name: round(number * 3600 / seconds) for name, number in asked.items()}
    say("idle", seconds=seconds, calls_an_hour=hour, **watcher.ask("idle"))
    with churn(lab, names) as changes:
        time.sleep(seconds)
        say("churn", seconds=seconds, changes=len(changes), **watcher.ask("churn"))
    watcher.close()


@contextmanager
def churn(lab: Lab, names: list[str]) -> Iterator[list[int]]:
    """Change ten pods a second at most, as an administrator would; yields which changes were made so far."""
    end = threading.Event()
    done: list[int] = []

    def change() -> None:
        for number in count():
            if end.wait(0.1):
                return
            notes = {"metadata": {"annotations": {"lab/turn": str(number)}}}
            lab.admin.patch(PODS, manifests.pod(names[number % len(names)]), notes)
            done.append(number)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield done
    finally:
        end.set()
        thread.join()


def outside(lab: Lab, options: dict[str, Any], rounds: int) -> None:
    """How soon a worker is woken by what somebody else has done."""
    provider = KubernetesProvider(options)
    woken = Woken(provider)
    times = []
    for name in list(provider.sets.snapshot())[:rounds]:
        woken.forget()
        began = time.monotonic()
        lab.admin.patch(SETS, name, {"spec": {"replicas": 0}})
        woken.wait(name)
        times.append(time.monotonic() - began)
    say("change outside to a woken worker", rounds=len(times), median=statistics.median(times), longest=max(times))
    provider.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=600.0, help="of idling, and of churn")
    parser.add_argument("--watcher", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.watcher:
        watch(json.loads(given.watcher))
        return 0
    with Lab(build.folder()) as lab:
        options = options_of(lab.namespace(NAMESPACE))
        provider = KubernetesProvider(options)
        say("machine", cores=os.cpu_count(), load=os.getloadavg()[0])
        starts(provider, given.rounds, given.at_once)
        make_room(lab, given.instances)
        many(lab, provider, options, given.instances, given.seconds)
        outside(lab, options, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
