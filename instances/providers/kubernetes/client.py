"""The API server as we talk to it: raw JSON through the official client, every call with a time-out, none repeated.

The client's models cost 0.7 ms a pod, so they are not used. Repeating is the reconciler's business.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import structlog
from kubernetes import client as sdk
from kubernetes import config as sdk_config
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from instances.providers.base import ProviderUnavailable
from instances.providers.kubernetes.errors import Locked, error_of
from instances.providers.kubernetes.site import Site

log = structlog.get_logger("instances.kubernetes")

#: seconds to connect, and of silence while an answer is read
CONNECT, READ = 3.0, 15.0
#: bookmarks come about once a minute: a watch that is silent for longer is dead
SILENCE = 90.0
_GROUPS = {"statefulsets": "/apis/apps/v1"}
_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
_MERGE = "application/merge-patch+json"

Object = dict[str, Any]


class Cluster:
    """One namespace of one cluster. Safe for threads; the kubeconfig is read anew when it is refused."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._lock = threading.Lock()
        self._client: sdk.ApiClient | None = None
        self._skew = 0.0

    # ---- objects ----
    def get(self, kind: str, name: str) -> Object:
        return self.ask("GET", self.path(kind, name))

    def find(self, kind: str, **query: str) -> Object:
        return self.ask("GET", self.path(kind), query)

    def post(self, kind: str, body: Object) -> Object:
        return self.ask("POST", self.path(kind), body=body)

    def patch(self, kind: str, name: str, body: Object) -> Object:
        """Merge into an object: lists are replaced whole. A `metadata.uid` in the body is a precondition."""
        return self.ask("PATCH", self.path(kind, name), body=body)

    def delete(self, kind: str, name: str, uid: str, propagation: str = "Background") -> Object:
        """Delete this incarnation of an object, no other."""
        body = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        return self.ask("DELETE", self.path(kind, name), body=body)

    def log(self, pod: str, **query: str) -> str:
        """Return what a pod's main container has printed."""
        response = self._open("GET", f"{self.path('pods', pod)}/log", query, None, READ)
        return _read(response).decode(errors="replace")

    def nodes(self) -> list[Object]:
        return list(self.ask("GET", "/api/v1/nodes", {"resourceVersion": "0"}).get("items", ()))

    def classes(self) -> list[Object]:
        return list(self.ask("GET", "/apis/storage.k8s.io/v1/storageclasses").get("items", ()))

    def rules(self) -> list[Object]:
        """Return what our account may do in the namespace, as the API server itself sums it up."""
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
        answer = self.ask("POST", _REVIEW, body=body | {"spec": {"namespace": self.site.namespace}})
        return list(answer.get("status", {}).get("resourceRules", ()))

    def namespace_uid(self) -> str:
        answer = self.ask("GET", f"/api/v1/namespaces/{self.site.namespace}")
        return str(answer.get("metadata", {}).get("uid", ""))

    def confirm_namespace(self) -> None:
        """Raise unless this is the namespace of the set-up: a restored or a wrong cluster has another of its name."""
        if not self.site.namespace_uid:
            raise ProviderUnavailable("the namespace was not confirmed yet: manage.py check_provider does it")
        found = self.namespace_uid()
        if found != self.site.namespace_uid:
            log.error("another namespace", namespace=self.site.namespace, found=found)
            raise ProviderUnavailable(f"namespace {self.site.namespace} is not the one of the set-up")

    def path(self, kind: str, name: str = "") -> str:
        path = f"{_GROUPS.get(kind, '/api/v1')}/namespaces/{self.site.namespace}/{kind}"
        return f"{path}/{name}" if name else path

    def now(self) -> float:
        """Return the cluster's time: what its timestamps are compared with."""
        return time.time() + self._skew

    # ---- calls ----
    def ask(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Object | None = None) -> Object:
        """Return the answer's object; a ProviderError by the table of errors.py for everything else."""
        answer = json_of(_read(self._open(method, path, query or {}, body, READ)))
        if not isinstance(answer, dict):
            raise ProviderUnavailable("the API server answers no object")
        return answer

    def watch(self, kind: str, query: Mapping[str, str]) -> Watch:
        """Open a watch; its events are read by iterating over it."""
        response = self._open("GET", self.path(kind), {"watch": "true", **query}, None, SILENCE)
        return Watch(response)

    def _open(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, silence: float
    ) -> BaseHTTPResponse:
        """Send a request and return a good answer, unread. Refused credentials are read anew from their file, once."""
        client = self._current()
        try:
            return self._send(client, method, path, query, body, silence)
        except Locked as error:
            if not error.unknown:
                self._alarm(error)
                raise
        self._forget(client)
        try:
            return self._send(self._current(), method, path, query, body, silence)
        except Locked as error:
            self._alarm(error)
            raise

    def _alarm(self, error: Locked) -> None:
        log.error("not let in", namespace=self.site.namespace, error=str(error)[:300])

    def _send(
        self,
        client: sdk.ApiClient,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        silence: float,
    ) -> BaseHTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = _MERGE if method == "PATCH" else "application/json"
        try:
            request = client.param_serialize(
                method, path, None, list(query.items()), headers, body, auth_settings=["BearerToken"]
            )
            response = client.call_api(*request, _request_timeout=(CONNECT, silence)).response
        except (HTTPError, sdk.ApiException, OSError, ValueError) as error:
            raise ProviderUnavailable(f"no answer: {error}") from error
        self._tell_time(response.headers.get("Date"))
        if 200 <= response.status < 300:
            return response
        raise error_of(response.status, _read(response), response.headers)

    def _tell_time(self, date: str | None) -> None:
        try:
            at = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        ours = time.time()
        if not at <= ours + self._skew <= at + 1:  # it says whole seconds
            self._skew = at + 0.5 - ours

    # ---- the client ----
    def _current(self) -> sdk.ApiClient:
        with self._lock:
            if self._client is None:
                self._client = _client(self.site)
            return self._client

    def _forget(self, client: sdk.ApiClient) -> None:
        with self._lock:
            if self._client is client:
                self._client = None


class Watch:
    """The events of an open watch; `close` ends it from another thread."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Object]:
        rest = b""
        try:
            for chunk in self._response.stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json_of(line)
                    if not isinstance(event, dict):
                        raise ProviderUnavailable("an event that is no object")
                    yield event
        except (HTTPError, OSError) as error:
            raise ProviderUnavailable(f"the watch broke: {error}") from error
        finally:
            self._response.close()

    def close(self) -> None:
        try:
            self._response.shutdown()
        except (AttributeError, OSError, ValueError, RuntimeError):
            self._response.close()


def json_of(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ProviderUnavailable("the API server's answer is torn or no JSON") from error


def _read(response: BaseHTTPResponse) -> bytes:
    try:
        return bytes(response.read())
    except (HTTPError, OSError) as error:
        response.close()
        raise ProviderUnavailable(f"the answer broke off: {error}") from error
    finally:
        response.release_conn()


def _client(site: Site) -> sdk.ApiClient:
    """Return a client of its own configuration: several clusters lie side by side."""
    configuration = sdk.Configuration()
    configuration.retries = False
    configuration.client_go_retries = False
    try:
        if site.kubeconfig:
            sdk_config.load_kube_config(site.kubeconfig, site.context or None, configuration, persist_config=False)
        else:
            sdk_config.load_incluster_config(configuration)
    except Exception as error:  # whatever the loader makes of somebody's file
        raise ProviderUnavailable(f"the kubeconfig of {site.namespace} cannot be used: {error}") from error
    return sdk.ApiClient(configuration)
