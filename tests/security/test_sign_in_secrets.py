"""A whole story of signing in and out, with each secret in it known: none is written where it does not belong.

Not in a log line (at the lowest level), an audit row or any other, the cache, a task, a page or an address. The suite's
canary (tests/canary.py) watches the same places during every test; here all of them are read at the end.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import redis
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from structlog.stdlib import ProcessorFormatter

from auth import tokens
from auth.models import User
from portal import audit
from tests.auth.conftest import Browser, forget, op, registered
from tests.auth.hostile_op import HostileOP, Reply
from tests.auth.test_backchannel import tell, token
from tests.factories.auth import bearer

__all__ = ["op", "registered"]

pytestmark = pytest.mark.django_db(transaction=True)

CALLBACK = "/auth/demo/callback/"
#: answers that carry secrets to where they belong: the provider
ONWARD = ("/auth/demo/login/", "/auth/logout/")
#: a table that keeps some in clear: worth nothing without the state, of which it has a hash
IN_CLEAR = {"accounts_loginstate": {"nonce", "verifier"}}


class Story:
    """All that was secret in it, by value, and all that was shown."""

    def __init__(self, op: HostileOP) -> None:
        self.op, self.known, self.shown = op, dict[str, str](), list[str]()
        self.browser = Watched(self)
        inner = op.answer

        def answer(method: str, path: str, headers: Any, body: str) -> Reply:
            reply = inner(method, path, headers, body)
            if path == "/token" and reply.status == 200:
                self.issued(json.loads(reply.body))
            return reply

        op.answer = answer  # type: ignore[method-assign]

    def know(self, value: str, name: str) -> str:
        assert len(value) >= 16
        self.known[value] = name
        return value

    def know_token(self, text: str, name: str) -> str:
        """Of a signed token each part, as the whole is hidden by cutting a little off; its head is nobody's secret."""
        for part in text.split(".")[1:]:
            self.know(part[:60], name)
        return text

    def issued(self, answer: dict[str, Any]) -> None:
        self.know(answer["access_token"], "access token")
        self.know(answer["refresh_token"], "refresh token")
        self.know_token(answer["id_token"], "ID token")

    # ---- what happens ----
    def start(self, **form: str) -> str:
        response = self.browser.post("/auth/demo/login/", {"next": "/doi/10.1/x", **form})
        assert response.status_code == 200
        url = response.headers["Refresh"].partition("url=")[2]
        sent = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.know(sent["state"], "state")
        self.know(sent["nonce"], "nonce")
        return url

    def carried(self, **form: str) -> dict[str, str]:
        parameters = self.op.authorize(self.start(**form))
        self.know(parameters["code"], "code")
        return parameters

    def come_back(self, parameters: dict[str, str], status: int = 200) -> None:
        response = self.browser.get(CALLBACK, parameters)
        assert response.status_code == status, response.content
        for request in self.op.token_requests:
            self.know(request["code_verifier"], "verifier")

    def sign_in(self, **form: str) -> None:
        self.op.claims = {"auth_time": int(time.time())}
        self.come_back(self.carried(**form))


class Watched(Browser):
    """Notes what cookies it is given and what it is shown."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story

    def request(self, **request: Any) -> Any:
        response = super().request(**request)
        for name, morsel in response.cookies.items():
            if morsel.value:
                self.story.know(morsel.value, f"cookie {name}")
        if request["PATH_INFO"] not in ONWARD:
            self.story.shown.append(f"{response.headers}\n{response.content.decode()}")
        return response


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """All that is logged, as the portal's own handler writes it, whatever its level."""
    root = logging.getLogger()
    ours = next(handler for handler in root.handlers if isinstance(handler.formatter, ProcessorFormatter))
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(ours.formatter)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.fixture
def story(op: HostileOP) -> Story:
    op.discovery = {"end_session_endpoint": f"{op.issuer}/end"}
    forget(op)
    op.configure(keeps_id_token=True)
    return Story(op)


def good_days(story: Story) -> None:
    """In, about, shown once more, out at the portal; in again and out at the provider."""
    browser, op = story.browser, story.op
    story.sign_in()
    assert browser.get("/auth/account/").status_code == 200
    assert browser.get("/api/v1/me").status_code == 200
    story.sign_in(intent="reauth")
    _row, text = tokens.issue(User.objects.get(), scopes=["me:read"], lasts=tokens.ApiToken.LONGEST)
    story.know(text, "API token")
    assert Browser().get("/api/v1/me", headers=bearer(text)).status_code == 200
    leads = browser.post("/auth/logout/").headers["Refresh"]
    state = parse_qs(urlsplit(leads).query)["state"][0]
    story.know(state, "logout state")
    assert browser.get("/auth/signed-out/", {"state": state}).status_code == 200
    story.sign_in()
    said = story.know_token(token(op), "logout token")
    assert tell(op, said).status_code == 200
    assert tell(op, said).status_code == 400
    assert browser.get("/api/v1/me").status_code == 401


def bad_days(story: Story) -> None:
    """Each way in which it may fail with the secret in hand."""
    op = story.op
    used = story.carried()
    story.come_back(used)
    story.come_back(used, 400)
    story.come_back(story.carried() | {"iss": "https://elsewhere.example"}, 400)
    denied = story.carried()
    story.come_back({"error": "access_denied", "error_description": denied["code"][:0] + "no", **denied}, 400)
    story.browser.get(CALLBACK + "x", denied)
    for changes in ({"nonce": "another"}, {"aud": "somebody"}, {"exp": 1}):
        op.claims = changes
        story.come_back(story.carried(), 400)
    op.claims = {}
    op.make_token = lambda header, claims: op.sign(header, claims)[:-8] + "AAAAAAAA"
    story.come_back(story.carried(), 400)
    op.make_token = op.sign
    for path in ("/token", "/userinfo"):
        for status in (400, 500):
            parameters = story.carried()
            echo = f"{parameters['code']} of {op.client_secret} is no good"
            op.replies[path] = Reply(echo.encode(), status, "text/plain")
            story.come_back(parameters, 400 if (path, status) == ("/token", 400) else 502)
        del op.replies[path]
    broken = story.know_token(token(op, aud="somebody"), "logout token")
    assert tell(op, broken).status_code == 400


def places(story: Story, written: io.StringIO) -> Iterator[tuple[str, str]]:
    """Where one could stand: (where, text)."""
    for line in written.getvalue().splitlines():
        yield "log", line
    for text in story.shown:
        yield "page", text
    client = redis.Redis.from_url(settings.REDIS_URL)
    for number in range(16):
        client.execute_command("SELECT", number)
        for key in client.scan_iter():
            yield "Redis", repr(key) + repr(client.dump(key))
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            for (row,) in cursor.fetchall():
                yield table, row


def found(story: Story, written: io.StringIO) -> set[str]:
    return {
        f"{name} in {where}"
        for where, text in places(story, written)
        for value, name in story.known.items()
        if value in text and name not in IN_CLEAR.get(where, ())
    }


@pytest.mark.parametrize("days", [good_days, bad_days])
def test_no_secret_of_a_sign_in_is_written_anywhere(
    story: Story, lines: io.StringIO, days: Callable[[Story], None]
) -> None:
    days(story)
    assert {"state", "nonce", "verifier", "code", "access token", "ID token", "logout token"} <= {*story.known.values()}
    assert {"cookie __Host-sid", "cookie __Host-csrf"} <= {*story.known.values()}
    assert found(story, lines) == set()


@pytest.mark.leaks
def test_the_reading_finds_what_is_there(story: Story, lines: io.StringIO) -> None:
    story.sign_in()
    secret = next(value for value, name in story.known.items() if name == "ID token")
    audit.record("planted", why=f"before{secret}after")
    cache.set("planted", secret, 60)
    logging.getLogger("planted").debug("%s", secret)
    story.shown.append(f"<a href='/?x={secret}'>")
    assert found(story, lines) == {f"ID token in {where}" for where in ("portal_auditevent", "Redis", "log", "page")}
    cache.delete("planted")
