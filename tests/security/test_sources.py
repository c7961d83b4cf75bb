"""Where a request comes from decides first: one table for pages, API, events and instances, HTTP and WebSocket.

W3C Fetch Metadata: `Sec-Fetch-Site` alone decides; `Sec-Fetch-Mode` never counts (JupyterHub CVE-2026-40864).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from django.conf import settings
from django.test import Client

from auth.models import Session
from instances.lifecycle import State
from instances.models import Instance
from tests.factories.auth import UserFactory, sign_in
from tests.factories.instances import InstanceFactory
from tests.gateway.harness import Harness

OURS, SIBLING, EVIL = "ours", "sibling", "evil"


class Source(NamedTuple):
    """What a browser says of where a request comes from, and what may pass with it: an unsafe request, a WebSocket, a
    read of an instance. Somebody going to an address ("navigate" to a "document") may come from anywhere, by GET alone.
    """

    site: str | None
    mode: str | None
    dest: str | None
    origin: str | None
    unsafe: bool
    socket: bool
    read: bool

    def fields(self, ours: str) -> dict[str, str]:
        """The header fields, asked of `ours` (an origin)."""
        named = {SIBLING: ours.replace("://", "://sibling."), EVIL: "https://evil.example"}
        said = None if self.origin is None else named.get(self.origin, self.origin.replace(OURS, ours))
        given = {"Sec-Fetch-Site": self.site, "Sec-Fetch-Mode": self.mode, "Sec-Fetch-Dest": self.dest, "Origin": said}
        return {name: value for name, value in given.items() if value is not None}

    def wire(self, ours: str) -> dict[str, str]:
        """The same as the gateway's harness takes them."""
        return {name.replace("-", "_"): value for name, value in self.fields(ours).items()}


TABLE = [
    # site, mode, dest, origin, unsafe, socket, read
    ("same-origin", "cors", "empty", OURS, True, True, True),
    ("same-origin", "cors", "empty", None, True, False, True),
    ("same-origin", "navigate", "document", OURS, True, True, True),
    ("same-origin", "cors", "empty", SIBLING, False, False, False),
    ("same-origin", "cors", "empty", "null", False, False, False),
    ("same-site", "cors", "empty", SIBLING, False, False, False),
    ("same-site", "cors", "empty", OURS, False, False, False),
    ("same-site", "no-cors", "script", None, False, False, False),
    ("same-site", "navigate", "iframe", None, False, False, False),
    ("same-site", "navigate", "document", None, False, False, True),
    ("same-site", "navigate", "document", SIBLING, False, False, False),
    ("cross-site", "cors", "empty", EVIL, False, False, False),
    ("cross-site", "navigate", "document", None, False, False, True),
    ("cross-site", "navigate", "document", EVIL, False, False, False),
    ("cross-site", "navigate", "embed", None, False, False, False),
    ("cross-site", "same-origin", "empty", OURS, False, False, False),
    ("none", "navigate", "document", None, False, False, True),
    ("none", "navigate", "document", OURS, False, False, True),
    ("none", "cors", "empty", None, False, False, False),
    ("", "cors", "empty", OURS, False, False, False),
    ("SAME-ORIGIN", "cors", "empty", OURS, False, False, False),
    ("same-origin, cross-site", "cors", "empty", OURS, False, False, False),
    (None, None, None, OURS, True, True, True),
    (None, None, None, SIBLING, False, False, False),
    (None, None, None, EVIL, False, False, False),
    (None, None, None, "null", False, False, False),
    (None, "same-origin", "document", EVIL, False, False, False),
    (None, None, None, f"{OURS}.evil.example", False, False, False),
    (None, None, None, f"{OURS}/", False, False, False),
]
SOURCES = pytest.mark.parametrize(
    "source", [Source(*row) for row in TABLE], ids=lambda source: "/".join(map(str, source[:4]))
)
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.django_db
@SOURCES
def test_pages_and_api_take_unsafe_requests_of_their_own_alone(source: Source) -> None:
    client = Client()
    instance = InstanceFactory(owner=UserFactory(), state=State.ACTIVE)
    sign_in(client, instance.owner)
    given = source.fields(settings.PORTAL_URL)
    page = client.post(f"{instance.get_absolute_url()}stop/", headers=given)
    assert page.status_code == (302 if source.unsafe else 403)
    instance.refresh_from_db()
    assert instance.target == ("stopped" if source.unsafe else "active")
    call = client.post(f"/api/v1/instances/{instance.uid}/stop", headers=given)
    assert (call.status_code != 403) is source.unsafe


@pytest.fixture(scope="module")
def gateway() -> Iterator[Harness]:
    with Harness() as harness:
        harness.instance("alpha1234")
        yield harness


@SOURCES
def test_instances_answer_their_own_pages_and_navigations_alone(gateway: Harness, source: Source) -> None:
    """And nothing goes to the instance before the decision."""
    (backend,) = gateway._backends
    _sid, cookie = gateway.session()
    given = source.wire(f"http://{gateway.host()}") | {"Cookie": cookie}
    asked: list[tuple[str, dict[str, str], bool]] = [
        ("GET", {}, source.read),
        ("POST", {}, source.unsafe),
        ("DELETE", {}, source.unsafe),
        ("GET", UPGRADE, source.socket),
    ]
    for method, more, passes in asked:
        before = len(backend.heads)
        reply = gateway.get("/", method=method, **given, **more)
        assert (reply.status == 403) is not passes, (method, reply.status)
        assert (len(backend.heads) > before) is passes


@SOURCES
def test_the_portals_events_are_for_its_own_pages_alone(gateway: Harness, source: Source) -> None:
    given = source.wire(gateway.config.portal_url)
    reply = gateway.get("/ws/events", host=f"localhost:{gateway.port}", **given, **UPGRADE)
    assert reply.status == (101 if source.socket else 403)


# ---- what a request may say of itself ----


@pytest.fixture
def mine() -> tuple[Client, Instance, Session]:
    client = Client(raise_request_exception=False)
    instance = InstanceFactory(owner=UserFactory(), state=State.ACTIVE)
    return client, instance, sign_in(client, instance.owner)


@pytest.mark.django_db
def test_a_get_signs_nobody_out(mine: tuple[Client, Instance, Session]) -> None:
    client, _instance, session = mine
    response = client.get("/auth/logout/")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert "use its buttons" in response.text
    session.refresh_from_db()
    assert session.ended_at is None


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
@pytest.mark.parametrize("verb", ["POST", "DELETE"])
def test_a_method_is_what_it_is(mine: tuple[Client, Instance, Session], name: str, verb: str) -> None:
    client, instance, _session = mine
    page, call = f"{instance.get_absolute_url()}delete/", f"/api/v1/instances/{instance.uid}"
    assert client.get(page, {"_method": verb}, headers={name: verb}).status_code == 200
    assert client.get(call, {"_method": verb, "method": verb}, headers={name: verb}).status_code == 200
    assert client.post(call, {"_method": verb}, headers={name: verb}).status_code in (405, 415)
    instance.refresh_from_db()
    assert instance.target == "active"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"]
)
def test_json_in_another_dress_is_refused(mine: tuple[Client, Instance, Session], kind: str) -> None:
    """A form of another site can send these without asking; `application/json` it cannot."""
    client, instance, _session = mine
    body = json.dumps({"plan": instance.plan.slug, "name": "made by another site", "experiments": []})
    response = client.generic("POST", "/api/v1/instances", body, content_type=kind)
    assert response.status_code == 415
    assert Instance.objects.count() == 1
    verb = client.generic("POST", f"/api/v1/instances/{instance.uid}/stop", body, content_type=kind)
    assert verb.status_code == 415
    instance.refresh_from_db()
    assert instance.target == "active"


@pytest.mark.django_db
def test_a_preflight_of_another_site_is_told_nothing(mine: tuple[Client, Instance, Session]) -> None:
    client, instance, _session = mine
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    for address in ("/", "/api/v1/instances", f"/api/v1/instances/{instance.uid}", "/healthz", "/api/v1/openapi.json"):
        response = client.options(address, headers=asked)
        assert not [name for name in response.headers if name.lower().startswith("access-control")], address
