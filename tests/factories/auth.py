"""Facilities, people and a browser that is signed in."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

import factory
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest
from django.test import Client

from auth import services
from auth.models import Facility, Identity, Person, RoleGrant, Session, User
from auth.oidc.proof import SignInProof
from auth.sessions import SessionStore
from portal.lib import clock


class FacilityFactory(factory.django.DjangoModelFactory[Facility]):
    class Meta:
        model = Facility
        django_get_or_create = ("slug",)

    slug = factory.Sequence(lambda n: f"facility-{n}")
    name = factory.LazyAttribute(lambda facility: facility.slug.title())


class UserFactory(factory.django.DjangoModelFactory[User]):
    class Meta:
        model = User

    handle = factory.Sequence(lambda n: f"user{n}")
    display_name = factory.LazyAttribute(lambda user: user.handle.title())
    email = factory.LazyAttribute(lambda user: f"{user.handle}@facility.example")
    password = "!"


class IdentityFactory(factory.django.DjangoModelFactory[Identity]):
    class Meta:
        model = Identity

    user = factory.SubFactory(UserFactory)
    provider = "demo"
    issuer = "https://provider.example"
    #: drawn, as several programs may fill one database
    subject = factory.LazyFunction(lambda: f"{secrets.token_hex(8)}@provider.example")


class PersonFactory(factory.django.DjangoModelFactory[Person]):
    class Meta:
        model = Person

    facility = factory.SubFactory(FacilityFactory)
    external_id = factory.Sequence(lambda n: f"X-{n}")
    name = factory.Faker("name")


class RoleGrantFactory(factory.django.DjangoModelFactory[RoleGrant]):
    class Meta:
        model = RoleGrant

    user = factory.SubFactory(UserFactory)
    role = "operator"


def sign_in(client: Client, user: User, identity: Identity | None = None, *, shown: timedelta | None = None) -> Session:
    """Give the test browser a real session of this user, made as a sign-in makes it.

    They showed who they are just now, or `shown` ago.
    """
    request = HttpRequest()
    store: SessionBase = SessionStore()
    request.session = store
    proof = SignInProof(authenticated_at=clock.now() - (shown or timedelta()))
    session = services.open_session(request, identity or IdentityFactory(user=user), proof)
    client.cookies[settings.SESSION_COOKIE_NAME] = store.session_key or ""
    return session


def bearer(text: str) -> dict[str, Any]:
    """Headers for a test client that shows this API token."""
    return {"Authorization": f"Bearer {text}"}
