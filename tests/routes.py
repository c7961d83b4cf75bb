"""The table of all addresses, and a world of somebody's things for them; tests ask every address from here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from auth import tokens
from auth.models import Session, User
from experiments.models import Experiment
from instances.models import Home, Instance
from tests.factories.auth import IdentityFactory, UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import HomeFactory, InstanceFactory

#: who gets further than a refusal
EVERYBODY, SIGNED_IN, OWNER, OPERATOR = "everybody", "signed in", "owner", "operator"


@dataclass(frozen=True)
class Route:
    """An address with places for ids, who may, and the methods that mean something there."""

    address: str
    who: str
    methods: str

    @property
    def is_api(self) -> bool:
        return self.address.startswith("/api/")


#: pattern of the URL configuration → what it is
TABLE = {
    "": Route("/", EVERYBODY, "GET"),
    "healthz": Route("/healthz", EVERYBODY, "GET"),
    "readyz": Route("/readyz", EVERYBODY, "GET"),
    "auth/sign-in/": Route("/auth/sign-in/", EVERYBODY, "GET"),
    "auth/logout/": Route("/auth/logout/", EVERYBODY, "POST"),
    "auth/signed-out/": Route("/auth/signed-out/", EVERYBODY, "GET"),
    "auth/account/": Route("/auth/account/", SIGNED_IN, "GET"),
    "auth/account/identities/": Route("/auth/account/identities/", SIGNED_IN, "GET"),
    "auth/account/identities/link/": Route("/auth/account/identities/link/", SIGNED_IN, "GET POST"),
    "auth/account/identities/<uuid:uid>/unlink/": Route(
        "/auth/account/identities/{identity}/unlink/", OWNER, "GET POST"
    ),
    "auth/account/sessions/": Route("/auth/account/sessions/", SIGNED_IN, "GET"),
    "auth/account/sessions/end-others/": Route("/auth/account/sessions/end-others/", SIGNED_IN, "POST"),
    "auth/account/sessions/<uuid:uid>/end/": Route("/auth/account/sessions/{session}/end/", OWNER, "POST"),
    "auth/account/tokens/": Route("/auth/account/tokens/", SIGNED_IN, "GET POST"),
    "auth/account/tokens/<slug:prefix>/revoke/": Route("/auth/account/tokens/{token}/revoke/", OWNER, "GET POST"),
    "auth/account/data/": Route("/auth/account/data/", SIGNED_IN, "GET"),
    "auth/account/data/export/": Route("/auth/account/data/export/", SIGNED_IN, "GET POST"),
    "auth/account/data/erasure/": Route("/auth/account/data/erasure/", SIGNED_IN, "GET POST"),
    "auth/account/data/erasure/withdraw/": Route("/auth/account/data/erasure/withdraw/", SIGNED_IN, "POST"),
    "auth/policies/<slug:kind>/": Route("/auth/policies/privacy/", EVERYBODY, "GET"),
    "auth/policies/rules/accept/": Route("/auth/policies/rules/accept/", SIGNED_IN, "GET POST"),
    "auth/policies/<slug:kind>/<str:version>/": Route("/auth/policies/privacy/{version}/", EVERYBODY, "GET"),
    "auth/person/": Route("/auth/person/", EVERYBODY, "GET POST"),
    "auth/<slug:slug>/login/": Route("/auth/{provider}/login/", EVERYBODY, "GET POST"),
    "auth/<slug:slug>/callback/": Route("/auth/{provider}/callback/", EVERYBODY, "GET"),
    "auth/<slug:slug>/backchannel-logout/": Route("/auth/{provider}/backchannel-logout/", EVERYBODY, "POST"),
    "admin/": Route("/admin/", OPERATOR, "GET"),
    "admin/<slug:page>/": Route("/admin/sessions/", OPERATOR, "GET"),
    "admin/<slug:page>/do/<slug:name>/": Route("/admin/role-grants/do/grant/", OPERATOR, "GET POST"),
    "admin/<slug:page>/<str:key>/": Route("/admin/sessions/{session}/", OPERATOR, "GET"),
    "admin/<slug:page>/<str:key>/<slug:name>/": Route("/admin/sessions/{session}/end/", OPERATOR, "GET POST"),
    "instances/": Route("/instances/", SIGNED_IN, "GET"),
    "instances/new": Route("/instances/new", SIGNED_IN, "GET POST"),
    "instances/<uuid:uid>/": Route("/instances/{instance}/", OWNER, "GET"),
    "instances/<uuid:uid>/start/": Route("/instances/{instance}/start/", OWNER, "POST"),
    "instances/<uuid:uid>/stop/": Route("/instances/{instance}/stop/", OWNER, "POST"),
    "instances/<uuid:uid>/reboot/": Route("/instances/{instance}/reboot/", OWNER, "POST"),
    "instances/<uuid:uid>/retry/": Route("/instances/{instance}/retry/", OWNER, "POST"),
    "instances/<uuid:uid>/delete/": Route("/instances/{instance}/delete/", OWNER, "GET POST"),
    "homes/<str:key>/delete/": Route("/homes/{home}/delete/", OWNER, "GET POST"),
    "enter/<slug:slug>": Route("/enter/{slug}?n=" + "0" * 64, OWNER, "GET"),
    "search": Route("/search", EVERYBODY, "GET"),
    "experiments": Route("/experiments", EVERYBODY, "GET"),
    "doi/<pid:pid>/availability": Route("/doi/{doi}/availability", EVERYBODY, "GET"),
    "doi/<pid:pid>": Route("/doi/{doi}", OWNER, "GET"),
    "proposals/<slug:facility>/<pid:identifier>": Route("/proposals/{facility}/{proposal}", OWNER, "GET"),
    "api/v1/openapi.json": Route("/api/v1/openapi.json", EVERYBODY, "GET"),
    "api/v1/me": Route("/api/v1/me", SIGNED_IN, "GET"),
    "api/v1/tokens": Route("/api/v1/tokens", SIGNED_IN, "GET POST"),
    "api/v1/tokens/<slug:prefix>": Route("/api/v1/tokens/{token}", OWNER, "DELETE"),
    "api/v1/experiments": Route("/api/v1/experiments", EVERYBODY, "GET"),
    "api/v1/experiments/<uuid:uid>": Route("/api/v1/experiments/{experiment}", OWNER, "GET"),
    "api/v1/instances": Route("/api/v1/instances", SIGNED_IN, "GET POST"),
    "api/v1/instances/<uuid:uid>": Route("/api/v1/instances/{instance}", OWNER, "GET DELETE"),
    "api/v1/instances/<uuid:uid>/start": Route("/api/v1/instances/{instance}/start", OWNER, "POST"),
    "api/v1/instances/<uuid:uid>/stop": Route("/api/v1/instances/{instance}/stop", OWNER, "POST"),
    "api/v1/instances/<uuid:uid>/reboot": Route("/api/v1/instances/{instance}/reboot", OWNER, "POST"),
    "api/v1/instances/<uuid:uid>/retry": Route("/api/v1/instances/{instance}/retry", OWNER, "POST"),
    "api/v1/plans": Route("/api/v1/plans", SIGNED_IN, "GET"),
}


def patterns(resolver: URLResolver | None = None, before: str = "") -> Iterator[str]:
    for entry in (resolver or get_resolver()).url_patterns:
        here = before + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield here
        else:
            yield from patterns(entry, here)


@dataclass(frozen=True)
class World:
    """Somebody's things: all behind an embargo and a membership."""

    owner: User
    session: Session
    instance: Instance
    home: Home
    experiment: Experiment
    ids: dict[str, Any]

    def address(self, route: Route) -> str:
        return route.address.format(**self.ids)


#: ids of the same shape that belong to nothing
UNKNOWN = {
    "session": uuid.UUID(int=1),
    "instance": uuid.UUID(int=1),
    "experiment": uuid.UUID(int=1),
    "identity": uuid.UUID(int=1),
    "token": "aaaaaaaaaaaa",
    "version": "0",
    "home": "nobody-abcdef",
    "slug": "aaaaaaaaaaaaaaaa",
    "provider": "nowhere",
    "doi": "10.5072/data-000000",
    "facility": "nowhere",
    "proposal": "000000",
}


@pytest.fixture
def world() -> World:
    owner = UserFactory()
    session = sign_in(Client(), owner)
    IdentityFactory(user=owner)
    token, _ = tokens.issue(owner, scopes=["me:read"], lasts=timedelta(days=1))
    instance = InstanceFactory(owner=owner)
    home = HomeFactory(user=owner, provider=instance.provider)
    experiment = ExperimentFactory(proposal=ProposalFactory(facility=instance.facility))
    ids = UNKNOWN | {
        "session": session.uid,
        "instance": instance.uid,
        "experiment": experiment.uid,
        "identity": session.identity.uid if session.identity else None,
        "token": token.prefix,
        "home": home.key,
        "slug": instance.slug,
        "doi": experiment.proposal.pid_norm,
        "facility": instance.facility.slug,
        "proposal": experiment.proposal.identifier,
    }
    return World(owner, session, instance, home, experiment, ids)


def browser(caller: str, *, csrf: bool = False) -> Client:
    """A browser of a caller; it answers a crash with the page for one, as the portal does."""
    client = Client(enforce_csrf_checks=csrf, raise_request_exception=False, headers={"Sec-Fetch-Dest": "document"})
    if caller == "stranger":
        sign_in(client, UserFactory())
    return client


def plain(response: Any, ids: dict[str, Any] | None = None) -> tuple[int, dict[str, str], str]:
    """What a caller learns from an answer: all but the request's own id, the form's token, and the ids he sent."""

    def same(text: str) -> str:
        for name, value in (ids or {}).items():
            text = text.replace(str(value), str(UNKNOWN[name]))
        return text

    text = response.content.decode().replace(response.headers["X-Request-Id"], "")
    text = re.sub(r'(name="csrfmiddlewaretoken" value=")\w+', r"\1", text)
    headers = {name: same(value) for name, value in response.headers.items() if name != "X-Request-Id"}
    if headers.get("Content-Length") == str(len(response.content)):
        headers["Content-Length"] = "all of it"  # an address that the page repeats may be longer
    return response.status_code, headers, same(text)
