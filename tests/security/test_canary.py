"""The canary sings: each place that the suite watches notices a secret that is put there on purpose."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from django.conf import settings
from django.test import Client

from auth import tokens
from instances import entry
from instances.gateway.log import Log
from instances.models import Instance
from portal import audit
from portal.lib import bus, hashing
from tests import canary
from tests.auth.conftest import Browser, browser, op, registered
from tests.auth.hostile_op import HostileOP
from tests.auth.test_backchannel import tell, token
from tests.factories.auth import UserFactory, sign_in
from tests.gateway.harness import Harness

__all__ = ["browser", "op", "registered"]


def into_a_log_line(secret: str) -> None:
    structlog.get_logger("tests.canary").warning("planted", address=f"/somewhere/{secret}/x")


def into_the_gateways_log(secret: str) -> None:
    with open("/dev/null", "wb") as nowhere:
        Log(nowhere.fileno()).event("info", "planted", why=f"before{secret}after")


def into_an_audit_row(secret: str) -> None:
    audit.record("planted", why=secret)


def into_the_database(secret: str) -> None:
    Instance.objects.filter(name=secret).exists()


def into_redis(secret: str) -> None:
    bus._publish("tests.canary", {"instance": secret})


def into_a_task(secret: str) -> None:
    from portal.celery import app

    with app.connection_for_write() as connection:
        app.send_task("tests.planted", args=[secret], connection=connection, queue="tests-canary")
        connection.default_channel.queue_delete("tests-canary")


def into_an_instance(secret: str) -> None:
    with Harness() as gateway:
        gateway.instance()
        _sid, cookie = gateway.session()
        assert gateway.same_origin("/", cookie=cookie, X_Planted=secret).status == 200


PLACES: list[Callable[[str], None]] = [
    into_a_log_line,
    into_the_gateways_log,
    into_an_audit_row,
    into_the_database,
    into_redis,
    into_a_task,
    into_an_instance,
]


@pytest.mark.django_db
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_secret_that_is_put_there_is_seen(place: Callable[[str], None]) -> None:
    with canary.expected() as seen:
        place(secrets.token_urlsafe(32))
    assert any(line.startswith("a secret of ours in ") for line in seen)


@pytest.mark.django_db
def test_every_kind_of_secret_is_known_to_it(client: Client) -> None:
    user = UserFactory()
    session = sign_in(client, user)
    client.get("/")
    _token, text = tokens.issue(user, scopes=["me:read"], lasts=tokens.ApiToken.LONGEST)
    instance = _instance(user)
    ticket = entry.issue_ticket(session, user, instance, "owner", "0" * 64)
    made = {
        "a session key": client.cookies[settings.SESSION_COOKIE_NAME].value,
        "a CSRF token": client.cookies[settings.CSRF_COOKIE_NAME].value,
        "a secret of ours": text,
        "an instance's token": hashing.instance_secret(settings.INSTANCE_KEY, str(instance.uid), 1, "jupyter"),
        "SECRET_KEY": settings.SECRET_KEY,
        "INSTANCE_KEY": settings.INSTANCE_KEY.decode(),
        "GATEWAY_TOKEN": settings.GATEWAY_TOKEN,
    }
    for what, secret in made.items():
        assert canary.seen_in(f"somewhere in {secret}.") == {what}
    assert canary.seen_in(f"?t={ticket}&to=/") == {"a secret of ours"}
    with Harness() as gateway:
        gateway.instance()
        _sid, cookie = gateway.session()
        assert canary.seen_in(f"Cookie: a=b; {cookie}") == {"an instance cookie's seal"}


@pytest.mark.django_db
def test_what_a_provider_hands_out_is_known_to_it(op: HostileOP, browser: Browser) -> None:
    issued: list[str] = []

    def signed(header: dict[str, Any], claims: dict[str, Any]) -> str:
        issued.append(op.sign(header, claims))
        return issued[-1]

    op.make_token = signed
    op.token_answer = {"access_token": "access-of-some-other-maker"}
    carried = op.authorize(browser.start())
    op.codes["a-code-that-is-no-canarys"] = op.codes.pop(carried["code"])
    assert browser.come_back(carried | {"code": "a-code-that-is-no-canarys"}).status_code == 400
    _head, payload, signature = issued[0].split(".")
    said = token(op)
    tell(op, said)
    assert canary.seen_in("<a-code-that-is-no-canarys>") == {"a provider's code"}
    for secret in ("access-of-some-other-maker", payload, signature, said.rpartition(".")[2]):
        assert canary.seen_in(f"<{secret}>") == {"a provider's token"}


def _instance(user: object) -> Instance:
    from tests.factories.instances import InstanceFactory

    instance: Instance = InstanceFactory(owner=user)
    return instance


def test_a_text_without_secrets_is_quiet() -> None:
    assert canary.seen_in("a" * 10_000 + " nothing here " + hashing.digest("x")) == set()
