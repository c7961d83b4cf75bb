"""The table of errors, row by row, with the words that a real API server used."""

from __future__ import annotations

import json

import pytest

from instances.providers.base import NoCapacity, ProviderUnavailable, Rejected
from instances.providers.kubernetes.errors import Busy, Conflict, Exists, Expired, Locked, NotThere, error_of


def status(code: int, reason: str, message: str, **details: str) -> bytes:
    said = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return json.dumps({**said, "details": details}).encode()


ANSWERS = [
    (400, "BadRequest", "the object provided is unrecognized", Rejected),
    (401, "Unauthorized", "Unauthorized", Locked),
    (403, "Forbidden", 'statefulsets.apps "x" is forbidden: User "y" cannot get resource "statefulsets"', Locked),
    (403, "Forbidden", 'pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged', Rejected),
    (403, "Forbidden", "unable to create new content in namespace x because it is being terminated", Rejected),
    (403, "Forbidden", 'admission webhook "x" denied the request: no', Rejected),
    (403, "Forbidden", "exceeded quota: q, requested: cpu=1, used: cpu=2, limited: cpu=2", NoCapacity),
    (404, "NotFound", 'statefulsets.apps "x" not found', NotThere),
    (409, "AlreadyExists", 'statefulsets.apps "x" already exists', Exists),
    (409, "Conflict", "Precondition failed: UID in precondition: a, UID in object meta: b", Conflict),
    (410, "Expired", "too old resource version", Expired),
    (413, "RequestEntityTooLarge", "limit is 3145728", Rejected),
    (422, "Invalid", 'StatefulSet.apps "x" is invalid: spec: Forbidden', Rejected),
    (422, "Invalid", "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", Rejected),
    (429, "TooManyRequests", "Too many requests, please try again later.", Busy),
    (500, "InternalError", 'failed calling webhook "x": connection refused', ProviderUnavailable),
    (500, "", "rpc error: code = Unavailable desc = transport is closing", ProviderUnavailable),
    (503, "ServiceUnavailable", "the server is currently unable to handle the request", ProviderUnavailable),
    (504, "Timeout", "request did not complete within requested timeout", ProviderUnavailable),
    (307, "", "", ProviderUnavailable),
]


@pytest.mark.parametrize(("code", "reason", "message", "kind"), ANSWERS)
def test_an_answer_is_an_error_of_its_kind(code, reason, message, kind):
    error = error_of(code, status(code, reason, message))
    assert type(error) is kind


@pytest.mark.parametrize("code", [401, 403, 404, 409, 429, 500, 502, 503])
@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[1, 2", b'{"kind": "Cat"}'])
def test_what_is_no_status_concludes_nothing(code, body):
    error = error_of(code, body)
    assert isinstance(error, ProviderUnavailable)
    assert not isinstance(error, NotThere | Exists | Conflict)


def test_a_404_says_what_was_looked_for():
    error = error_of(404, status(404, "NotFound", "x", kind="statefulsets", group="apps", name="bp-1"))
    assert (error.kind, error.name) == ("statefulsets", "bp-1")


def test_429_says_how_long_to_wait():
    plain = b"Too many requests, please try again later.\n"
    assert error_of(429, plain, {"Retry-After": "7"}).after == 7
    assert error_of(429, plain, {"Retry-After": "soon"}).after == 1
    assert error_of(429, plain, {"Retry-After": "86400"}).after == 30


def test_a_quota_is_told_with_its_resources():
    message = "exceeded quota: q, requested: cpu=1,memory=2Gi, used: cpu=2,memory=3Gi, limited: cpu=2,memory=4Gi"
    error = error_of(403, status(403, "Forbidden", message))
    assert str(error) == "quota q has no room for cpu 1 (used 2 of 2), memory 2Gi (used 3Gi of 4Gi)"
