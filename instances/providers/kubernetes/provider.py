"""The provider of kind `kubernetes`: an instance is a StatefulSet of 0 or 1 replicas, its name the ref.

It owns all that is the instance's but the home: one delete removes pod, disk and Secret. Every verb names the
incarnation it means by its uid, and can be repeated after a crash or a lost answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from instances.lifecycle import Phase
from instances.providers.base import (
    Capacity,
    Endpoint,
    Finding,
    FlavourSpec,
    Home,
    ImageSpec,
    Mount,
    Observation,
    ProviderError,
    ProviderUnavailable,
    Rejected,
    Spec,
    Usage,
)
from instances.providers.kubernetes import capacity as room
from instances.providers.kubernetes import homes, manifests, rights, survey
from instances.providers.kubernetes.client import Cluster
from instances.providers.kubernetes.errors import DiskHeld, Exists, HomeHeld, NotThere
from instances.providers.kubernetes.options import OPTIONS
from instances.providers.kubernetes.people import told, words
from instances.providers.kubernetes.phases import Verdict, judge, wants_events
from instances.providers.kubernetes.reflector import Reflector
from instances.providers.kubernetes.sight import Sight, is_noticed
from instances.providers.kubernetes.site import site_of
from instances.providers.kubernetes.trial import Trial
from portal.lib import variables
from portal.lib.hashing import instance_secret

log = structlog.get_logger("instances.kubernetes")

SETS, PODS, CLAIMS, SECRETS = "statefulsets", "pods", "persistentvolumeclaims", "secrets"
#: seconds until the controller must have taken notice of a changed template
_NOTICE = 10.0
#: seconds after which the cluster is asked again whether it is the one of the set-up, and what we may do
_CONFIRMED = 300.0

Object = dict[str, Any]


class KubernetesProvider:
    """One namespace of one cluster. Options: see site.Site; safe for threads."""

    OPTIONS = OPTIONS

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.site = site_of(options)
        self.cluster = Cluster(self.site)
        ours = manifests.selector(self.site)
        self.sets = Reflector(self.cluster, SETS, ours, self._heard)
        self.pods = Reflector(self.cluster, PODS, ours, lambda name, found: self._heard(name.removesuffix("-0"), found))
        self._credentials = _version_of(self.site.kubeconfig)
        self._listeners: set[queue.SimpleQueue[str]] = set()
        self._closed = threading.Event()
        self._confirmed_at = float("-inf")
        self._sees_nodes = False

    # ---- verbs ----
    def create(self, spec: Spec) -> str:
        body = manifests.statefulset(spec, self.site)
        self._see_that_it_is_isolated()
        self._connect()
        if spec.home:
            claim = homes.ensure(self.cluster, spec.home)
            homes.see_that_it_is_free(self.cluster, spec.home.key, spec.name)
            body["metadata"]["annotations"][manifests.HOME_UID] = claim["metadata"]["uid"]
        try:
            found, changed = self.cluster.post(SETS, body), {}
        except Exists:
            found = self._adopted(spec)
            changed = manifests.with_data(found, manifests.only_data(spec.mounts), self.site)
        if not found["spec"]["replicas"]:
            self._bring_up(found, changed)
        return spec.name

    def delete(self, ref: str) -> None:
        try:
            found = self._mine(ref)
        except NotThere as error:
            self._see_that_it_is_gone(ref, error)
            return
        except Rejected:
            return  # another deployment's: _mine has said so
        if not found["metadata"].get("deletionTimestamp"):
            self.cluster.delete(SETS, ref, found["metadata"]["uid"], "Foreground")

    def start(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        found = self._mine(ref)
        if found["spec"]["replicas"]:
            return
        self._check_disk(found)
        homes.check(self.cluster, found)
        self._bring_up(found, {} if data is None else manifests.with_data(found, data, self.site))

    def stop(self, ref: str) -> None:
        found = self._mine(ref)
        if found["spec"]["replicas"]:
            self._patch(found, {"replicas": 0}, **self._check_disk(found))

    def reboot(self, ref: str, data: Sequence[Mount] | None = None) -> None:
        """Have the pod replaced; the disk stays, so it is not done while that is about to go."""
        found = self._mine(ref)
        self._check_disk(found)
        changed = {} if data is None else manifests.with_data(found, data, self.site)
        # also when an earlier try has changed it
        self._wait_until_noticed(self._patch(found, changed) if changed else found)
        pod = self._pod_of(found)
        if pod is not None and not pod["metadata"].get("deletionTimestamp"):
            self.cluster.delete(PODS, pod["metadata"]["name"], pod["metadata"]["uid"])

    # ---- sight ----
    def observe(self) -> Iterable[Observation]:
        self._connect()
        sets, pods, now = self.sets.snapshot(), self.pods.snapshot(), self.cluster.now()
        for one in [one for one in sets.values() if one["spec"]["replicas"] > 1]:
            self._put_right(one)
        seen = [Sight(one, _own(pods.get(manifests.pod(name)), one), now=now) for name, one in sets.items()]
        return [self._observation(one, judge(one)) for one in seen]

    def look(self, ref: str) -> Observation:
        """Ask the API server itself."""
        before = self.sets.known(ref)
        try:
            found = self._mine(ref)
        except NotThere as error:
            self._see_that_it_is_gone(ref, error)
            self.sets.bury(ref, before)
            return Observation(ref="", name="", instance="", phase=Phase.MISSING)
        seen = Sight(found, self._pod_of(found), now=self.cluster.now())
        if wants_events(seen):
            seen = Sight(found, seen.pod, told(self.cluster, found), seen.now)
        verdict = judge(seen)
        if seen.wanted > 1:
            self._put_right(found)
        return self._observation(seen, verdict)

    def watch(self, wake: Callable[[str], None]) -> None:
        """Report each change until the provider is closed; of many at once to one machine only one."""
        heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listeners.add(heard)
        try:
            self._connect()
            self.sets.start()
            self.pods.start()
            while not self._closed.is_set():
                names = {heard.get()}
                while not heard.empty():
                    names.add(heard.get())
                for one in names - {""}:
                    wake(one)
        finally:
            self._listeners.discard(heard)

    def console(self, ref: str) -> str:
        """Return what the cluster told about the machine, then what its main container printed last."""
        try:
            found = self._mine(ref)
        except (NotThere, Rejected):
            return ""
        pod = self._pod_of(found)
        lines = words(told(self.cluster, found))
        if pod is not None:
            lines += self._printed(Sight(found, pod))
        return "\n".join(lines)

    def is_outdated(self) -> bool:
        """Tell whether the kubeconfig is another one than at the beginning: it may lead to another cluster."""
        now = _version_of(self.site.kubeconfig)
        return now is not None and now != self._credentials

    def close(self) -> None:
        """End the watches and who listens to them."""
        self._closed.set()
        for listener in list(self._listeners):
            listener.put("")
        self.sets.close()
        self.pods.close()

    # ---- homes and what there is ----
    def home_usage(self, home: Home) -> Usage:
        """Return the claim's size; how full it is, a cluster does not tell."""
        return Usage(0, homes.size(self.cluster, home) or home.limit, None)

    def delete_home(self, home: Home) -> None:
        self._connect()
        homes.delete(self.cluster, home)

    def capacity(self) -> Iterable[Capacity]:
        places = self._places()
        if places is not None:
            return room.of_places(places, self.site, "nodes, less our own pods")
        quota = room.quota_place(self.cluster.find("resourcequotas").get("items", ()))
        return room.of_quota(quota, self.site) if quota else []

    def flavours(self) -> Iterable[FlavourSpec]:
        return room.flavours_of(room.places_of(self._nodes(), (), self.site), self.site)

    def images(self) -> Iterable[ImageSpec]:
        """Return the images that nodes already hold by a digest; a cluster has no list of those that it could fetch."""
        names = [image.get("names") or [] for node in self._nodes() for image in node["status"].get("images", ())]
        return [survey.image(name) for name in sorted({n for ns in names for n in ns if "@sha256:" in n})]

    def survey(self) -> list[tuple[str, str]]:
        nodes, rules = self._nodes(), self.cluster.rules()
        said = survey.of_nodes(nodes, self.site) if self._sees_nodes else [survey.unseen(rights.NODES)]
        if rights.granted(rights.CLASSES, rules):
            return said + survey.of_classes(self.cluster.classes())
        return [*said, survey.unseen(rights.CLASSES)]

    # ---- set-up ----
    def problems(self) -> list[str]:
        """Return what of the set-up an operator has to mend, rights first; empty when all is well."""
        rules, namespace = self.cluster.rules(), self.site.namespace
        said = [f"the account may not {right} in {namespace}" for right in rights.missing(rules, namespace)]
        said += [f"the account may {right}, which it should not" for right in rights.excessive(rules)]
        if rights.granted(rights.NAMESPACE, rules, namespace):
            uid = self.cluster.namespace_uid()
            if not self.site.namespace_uid:
                said.append(f"the namespace was not confirmed yet; its uid is {uid}")
            elif uid != self.site.namespace_uid:
                said.append(f"the namespace is another one: its uid is {uid}, not {self.site.namespace_uid}")
        return said

    def confirm(self) -> dict[str, Any]:
        """Return the namespace's uid: from then on another namespace of this name is not taken for it."""
        return {"namespace_uid": self.cluster.namespace_uid()}

    def trial(self, spec: Spec) -> Generator[Finding]:
        """Try the set-up out with a machine that is nobody's; one trial at a time."""
        return Trial(self.cluster, self._post_secret, spec).run()

    def _see_that_it_is_isolated(self) -> None:
        """Outside the demo nobody gets a pod where nothing keeps it from the others."""
        if self.site.production and not self.site.isolation:
            raise Rejected("nobody has seen that network policy is enforced: manage.py check_provider tries it")

    def _connect(self) -> None:
        """See, at first and now and then, that this is the cluster of the set-up; say which rights are missing."""
        if time.monotonic() - self._confirmed_at < _CONFIRMED:
            return
        self.cluster.confirm_namespace()
        rules = self.cluster.rules()
        for right in rights.missing(rules, self.site.namespace):
            log.error("a right is missing", namespace=self.site.namespace, right=str(right))
        self._sees_nodes = rights.granted(rights.NODES, rules)
        self._confirmed_at = time.monotonic()

    # ---- inside ----
    def _mine(self, ref: str) -> Object:
        """Return the StatefulSet; NotThere, or Rejected when it is not ours."""
        self._connect()
        found = self.cluster.get(SETS, manifests.machine(ref))
        if found["metadata"].get("labels", {}).get(manifests.DEPLOYMENT) != self.site.tag:
            log.error("another deployment's machine", namespace=self.site.namespace, name=ref)
            raise Rejected(f"{ref} belongs to another deployment")
        self.sets.learn(found)
        return found

    def _see_that_it_is_gone(self, ref: str, error: NotThere) -> None:
        """Raise unless the API server itself says that this StatefulSet is not in the namespace of the set-up."""
        if error.kind != SETS or error.name != ref:
            raise ProviderUnavailable(f"who says that {ref} is not there? {error}")
        self.cluster.confirm_namespace()

    def _adopted(self, spec: Spec) -> Object:
        found = self._mine(spec.name)
        if found["metadata"]["labels"].get(manifests.INSTANCE) != spec.instance:
            raise Rejected(f"{spec.name} is another instance's")
        if found["metadata"].get("deletionTimestamp"):
            raise ProviderUnavailable(f"{spec.name} is still being deleted")
        return found

    def _pod_of(self, found: Object) -> Object | None:
        name = manifests.pod(found["metadata"]["name"])
        before = self.pods.known(name)
        try:
            pod = self.cluster.get(PODS, name)
        except NotThere as error:
            if error.kind != PODS:
                raise
            self.pods.bury(name, before)
            return None
        if _own(pod, found) is None:
            log.error("a pod that nobody owns", namespace=self.site.namespace, pod=name)
            return None
        self.pods.learn(pod)
        return pod

    def _check_disk(self, found: Object) -> dict[str, str]:
        """Return the annotation that remembers the disk; raise when the next stop or start would lose it."""
        name = found["metadata"]["name"]
        known = found["metadata"].get("annotations", {}).get(manifests.DISK_UID, "")
        try:
            claim = self.cluster.get(CLAIMS, manifests.disk(name))
        except NotThere as error:
            if known or error.kind != CLAIMS:
                raise DiskHeld(f"the disk of {name} is gone") from error
            return {}
        if claim["metadata"].get("deletionTimestamp"):
            raise DiskHeld(f"the disk of {name} is marked for deletion, and would go")
        if known and claim["metadata"]["uid"] != known:
            raise DiskHeld(f"{name} has another disk than before")
        return {manifests.DISK_UID: claim["metadata"]["uid"]}

    def _post_secret(self, found: Object) -> None:
        """Make the machine's Secret unless it is there; it can be made again, as nothing in it is random."""
        metadata, key = found["metadata"], variables.read("INSTANCE_KEY", made=self.site.secrets)
        if not key:
            raise Rejected("INSTANCE_KEY is not set where the provider runs")
        notes, instance = metadata["annotations"], metadata["labels"][manifests.INSTANCE]
        epoch, services = int(notes[manifests.EPOCH]), manifests.services_of(found)
        tokens = {service: instance_secret(key.encode(), instance, epoch, service) for service, _ in services}
        welcome = manifests.unpack(notes.get(manifests.WELCOME, ""))
        body = manifests.secret(metadata["name"], metadata["uid"], tokens, welcome, self.site)
        try:
            self.cluster.post(SECRETS, body)
        except Exists:
            return

    def _bring_up(self, found: Object, changed: Object) -> None:
        """Give a machine its Secret and its pod, and before that its home alone where that goes to one at a time.

        Each of two that want it says so first and looks for the other then, so at most one goes on.
        """
        key, exclusive, began = found["metadata"]["labels"].get(manifests.HOME), {}, time.monotonic()
        if key and not homes.is_shared(self.cluster):
            exclusive = {manifests.WANTS_HOME: None}
            self._patch(found, {}, **{manifests.WANTS_HOME: self._at(0)})
            try:
                homes.see_that_it_is_free(self.cluster, key, found["metadata"]["name"])
            except HomeHeld:
                self._patch(found, {}, **exclusive)
                raise
        self._post_secret(found)
        if exclusive and time.monotonic() - began > homes.TAKING / 2:
            raise ProviderUnavailable(f"it took so long that another machine may have taken home {key} meanwhile")
        # events from before the start are not about it; they say whole seconds, so those of this one are left out too
        self._patch(found, {"replicas": 1, **changed}, **{manifests.STARTED: self._at(1)}, **exclusive)

    def _patch(self, found: Object, spec: Object, **annotations: str | None) -> Object:
        name = found["metadata"]["name"]
        changed = self.cluster.patch(SETS, name, manifests.patch(found, spec, **annotations))
        self.sets.learn(changed)
        return changed

    def _at(self, seconds: int) -> str:
        """Return the cluster's time in so many seconds."""
        return datetime.fromtimestamp(int(self.cluster.now()) + seconds, UTC).isoformat(timespec="seconds")

    def _wait_until_noticed(self, changed: Object) -> None:
        """A pod that is deleted before the controller has read the new template comes back with the old one."""
        end = time.monotonic() + _NOTICE
        while not is_noticed(changed):
            if time.monotonic() > end:
                raise ProviderUnavailable("the controller takes no notice of the changed machine")
            time.sleep(0.05)
            changed = self._mine(changed["metadata"]["name"])

    def _put_right(self, found: Object) -> None:
        """Take back the second pod that an operator's hand has asked for; never in the way, nor of what is newer."""
        name, body = found["metadata"]["name"], manifests.patch(found, {"replicas": 1})
        body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        log.warning("replicas put right", name=name)
        try:
            self.sets.learn(self.cluster.patch(SETS, name, body))
        except ProviderError as error:
            log.warning("replicas not put right", name=name, error=str(error)[:200])

    def _observation(self, seen: Sight, verdict: Verdict) -> Observation:
        metadata = seen.found["metadata"]
        return Observation(
            ref=metadata["name"],
            name=metadata["name"],
            instance=metadata["labels"].get(manifests.INSTANCE, ""),
            phase=verdict.phase,
            endpoints=_endpoints(seen) if verdict.phase is Phase.RUNNING else (),
            reason=verdict.reason,
            detail=verdict.detail,
            deployment=self.site.deployment,
        )

    def _printed(self, seen: Sight) -> list[str]:
        """Return what the main container printed last, and before that what the one printed that has crashed."""
        crashed = self._tail(seen, previous="true") if seen.restarts or seen.waiting == "CrashLoopBackOff" else []
        return crashed + (self._tail(seen) if seen.waiting != "CrashLoopBackOff" else [])

    def _tail(self, seen: Sight, **query: str) -> list[str]:
        query |= {"container": manifests.MAIN, "tailLines": "40", "limitBytes": "20000"}
        try:
            return self.cluster.log(manifests.pod(seen.found["metadata"]["name"]), **query).splitlines()
        except ProviderError as error:  # nothing was printed yet, or its node does not answer
            log.info("no log", name=seen.found["metadata"]["name"], error=str(error)[:200])
            return []

    def _nodes(self) -> list[Object]:
        """Return the nodes; none where we may not see them."""
        self._connect()
        return self.cluster.nodes() if self._sees_nodes else []

    def _places(self) -> list[room.Place] | None:
        """Return the nodes that we may see, with what our own pods take of them; None where we may not."""
        self._connect()
        if not self._sees_nodes:
            return None
        return room.places_of(self.cluster.nodes(), self.pods.snapshot().values(), self.site)

    def _heard(self, name: str, found: Object | None) -> None:
        for listener in list(self._listeners):
            listener.put(name)


def _version_of(file: str) -> tuple[int, int, int] | None:
    """Return what changes with a file; None for no file, also for one that is just being replaced."""
    if not file:
        return None
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _own(pod: Object | None, found: Object) -> Object | None:
    """Return the pod if it is this StatefulSet's."""
    owners = pod["metadata"].get("ownerReferences", ()) if pod else ()
    return pod if any(owner.get("uid") == found["metadata"]["uid"] for owner in owners) else None


def _endpoints(seen: Sight) -> tuple[Endpoint, ...]:
    """Return where a pod that stays is reached: whether it answers the gateway finds out."""
    address = seen.status.get("podIP", "")
    if not address or seen.pod_leaves_at:
        return ()
    services, uid = manifests.services_of(seen.found), str((seen.pod or {})["metadata"]["uid"])
    return tuple(Endpoint(service, "tcp", host=address, port=port, uid=uid) for service, port in services)
