"""What passes through, HTTP: to the portal, to instances, both ways stripped."""

from __future__ import annotations

import json

from tests.gateway.harness import Harness


def test_the_portals_host_reaches_the_web_application_byte_for_byte(gateway: Harness) -> None:
    reply = gateway.get("/x%2Fy%20z?q=%C3%A9", host=f"localhost:{gateway.port}", X_Forwarded_For="6.6.6.6")
    assert reply.status == 200
    assert json.loads(reply.body)["path"] == "/x%2Fy%20z"
    fields = dict(gateway.portal.web_requests[0]["headers"])
    assert fields[b"x-forwarded-for"] == b"127.0.0.1"
    assert len(fields[b"x-request-id"]) == 32


def test_an_instance_answers_on_its_own_host_with_its_own_secret(gateway: Harness) -> None:
    backend = gateway.instance()
    _sid, cookie = gateway.session()
    reply = gateway.same_origin("/lab", cookie=cookie)
    assert (reply.status, reply.body) == (200, b"hello")
    assert b"\r\nAuthorization: token " in backend.heads[0]
    assert f"Host: {gateway.host()}".encode() in backend.heads[0]
