"""What a page of a hostile instance tries in a real browser, against the real portal behind the real gateway.

Alice is signed in, has an instance of her own, and opens one of Mallory's, which she is a user of. All that script
there can do is tried: on the portal (another site), on her own instance (same site: siblings below the apps domain),
on cookies, frames, windows and service workers. Chromium alone: there is no Firefox on the machines that run this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, expect

from auth.models import Session, User
from auth.roles import InstanceRole
from instances.lifecycle import State
from instances.models import Instance, Member
from instances.routes import row_of
from portal import internal
from portal.asgi import application
from tests.browser.conftest import chromium
from tests.factories.auth import UserFactory, sign_in
from tests.factories.instances import InstanceFactory, PlanFactory
from tests.gateway.harness import INSTANCE_KEY, TOKEN, Backend, Harness

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

#: what a hostile instance adds to each of its answers
HEADERS = """\
Set-Cookie: own=1; Path=/
Set-Cookie: __Host-sid=planted; Path=/; Secure
Set-Cookie: __Host-inst=planted; Path=/; Secure
Set-Cookie: tossed=1; Domain=apps.localhost; Path=/
Service-Worker-Allowed: /
Clear-Site-Data: "cookies", "storage"
Access-Control-Allow-Origin: *
Cross-Origin-Opener-Policy: unsafe-none
Content-Security-Policy: frame-ancestors *
"""
PAGES = {
    "/sw.js": ("text/javascript", "self.addEventListener('fetch', event => {})"),
    "/below/sw.js": ("text/javascript", "self.addEventListener('fetch', event => {})"),
}


async def serve(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Any page, a worker script, or a redirect to where the portal signs out."""
    while True:
        head = await backend.head(reader)
        path = head.split(b" ", 2)[1].decode()
        kind, text = PAGES.get(path, ("text/html", "<!doctype html><title>hostile</title><h1>hostile</h1>"))
        status = "200 OK"
        more = HEADERS
        if path.startswith("/to?"):
            status, more = "302 Found", f"Location: {path.removeprefix('/to?')}\n"
        lines = f"HTTP/1.1 {status}\nContent-Type: {kind}\nContent-Length: {len(text)}\n{more}\n".replace("\n", "\r\n")
        writer.write(lines.encode() + text.encode())
        await writer.drain()


@dataclass
class Scene:
    """Who is there: the portal, Mallory's hostile instance, Alice's own, and a page of Mallory's in Alice's browser."""

    gateway: Harness
    context: BrowserContext
    hostile: Instance
    own: Instance
    session: Session
    backends: dict[str, Backend]

    @property
    def portal(self) -> str:
        return self.gateway.config.portal_url

    def origin(self, instance: Instance) -> str:
        return f"http://{instance.slug}.{self.gateway.config.apps_domain}"

    def page(self, path: str = "/") -> Page:
        """Mallory's page, entered as anybody enters an instance."""
        page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.goto(self.origin(self.hostile) + path)
        expect(page.get_by_role("heading", name="hostile")).to_be_visible()
        return page

    def seen_by(self, instance: Instance) -> int:
        """How many requests reached it; a browser asks for a page's icon when it likes."""
        return sum(b"/favicon.ico" not in head for head in self.backends[instance.slug].heads)

    def bombs(self) -> int:
        """How many cookies of the bomb the browser holds for Alice's own instance."""
        cookies = self.context.cookies(self.origin(self.own))
        return sum(cookie["name"].startswith("bomb") for cookie in cookies)

    def all_is_well(self) -> None:
        """Alice is signed in, and nothing of hers has changed."""
        self.session.refresh_from_db()
        self.own.refresh_from_db()
        assert self.session.ended_at is None
        assert (self.own.target, self.own.name) == ("active", "Alice's own")
        assert Instance.objects.count() == 2
        sid = [cookie for cookie in self.context.cookies(self.portal) if cookie["name"] == "__Host-sid"]
        assert [cookie["value"] for cookie in sid] == [self.sid]

    sid: str = ""


@pytest.fixture
def gateway(
    chromium: Browser, transactional_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Harness]:
    harness = Harness()
    settings.PORTAL_URL = harness.config.portal_url
    settings.APPS_DOMAIN = harness.config.apps_domain
    settings.ALLOWED_HOSTS = ["localhost"]
    settings.GATEWAY_TOKEN, settings.INSTANCE_KEY = TOKEN, INSTANCE_KEY
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    harness.portal.web = application  # type: ignore[method-assign]
    harness.portal.internal = internal.application  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(internal, "_pool", pool)
        with harness:
            yield harness


@pytest.fixture
def scene(gateway: Harness, chromium: Browser) -> Iterator[Scene]:
    alice, mallory = UserFactory(handle="alice"), UserFactory(handle="mallory")
    plan = PlanFactory()
    backends: dict[str, Backend] = {}

    def make(owner: User, name: str) -> Instance:
        instance = InstanceFactory(owner=owner, plan=plan, state=State.ACTIVE, name=name)
        backend = Backend(gateway.folder / f"{instance.slug}.sock")
        backend.handler = lambda reader, writer: serve(backend, reader, writer)
        gateway.run(backend.start())
        gateway._backends.append(backend)
        backends[instance.slug] = backend
        endpoint = {"service": "jupyter", "kind": "unix", "path": str(backend.path), "host": "", "port": 0}
        Instance.objects.filter(pk=instance.pk).update(endpoints=[endpoint])
        instance.refresh_from_db()
        gateway.call(gateway.gateway.apply, {"type": "route", **row_of(instance)})
        return instance

    hostile, own = make(mallory, "Mallory's"), make(alice, "Alice's own")
    Member.objects.create(instance=hostile, user=alice, role=InstanceRole.USER)
    client = Client()
    session = sign_in(client, alice)
    sid = client.cookies[django_settings.SESSION_COOKIE_NAME].value
    context = chromium.new_context()
    url = gateway.config.portal_url.replace("http:", "https:")
    context.add_cookies([{"name": "__Host-sid", "value": sid, "url": url, "secure": True, "httpOnly": True}])
    yield Scene(gateway, context, hostile, own, session, backends, sid)
    context.close()


#: fetch, and say whether anything could be read
TRY = """async ([url, options]) => {
  try { const answer = await fetch(url, options); return answer.type + ' ' + answer.status; }
  catch (error) { return 'refused'; }
}"""


def test_it_cannot_reach_the_portal_as_the_visitor(scene: Scene) -> None:
    """Read, call, submit, frame, script: the portal is another site, and says no to all of it."""
    page = scene.page()
    stop, out = f"{scene.portal}/instances/{scene.own.uid}/stop/", f"{scene.portal}/auth/logout/"
    assert "__Host" not in page.evaluate("document.cookie")
    for path in ("/api/v1/me", f"/api/v1/instances/{scene.own.uid}", "/auth/account/"):
        assert page.evaluate(TRY, [scene.portal + path, {"credentials": "include"}]) == "refused"
    json_as_text = {"headers": {"Content-Type": "text/plain"}, "body": "{}"}
    for address in (stop, out, f"{scene.portal}/api/v1/instances/{scene.own.uid}/stop"):
        blind = {"method": "POST", "mode": "no-cors", "credentials": "include"}
        assert page.evaluate(TRY, [address, {**blind, **json_as_text}]) in ("opaque 0", "refused")
        assert page.evaluate(TRY, [address, {"method": "DELETE", "credentials": "include"}]) == "refused"
    for address, method in ((stop, "post"), (out, "post"), (out, "get")):
        popup = scene.page()
        with popup.expect_navigation():
            popup.evaluate(
                """([action, method]) => {
                  const form = Object.assign(document.createElement('form'), {action, method});
                  document.body.append(form); form.submit(); }""",
                [address, method],
            )
        assert popup.get_by_text("another site").or_(popup.get_by_text("cannot be asked in this way")).count()
        popup.close()
    framed = page.evaluate(
        """url => new Promise(done => {
          const frame = Object.assign(document.createElement('iframe'), {src: url});
          frame.onload = () => {
            try { done(frame.contentDocument ? 'readable' : 'closed'); } catch { done('closed'); } };
          document.body.append(frame); setTimeout(() => done('nothing'), 5000); })""",
        f"{scene.portal}/instances/",
    )
    assert framed in ("closed", "nothing")
    assert [frame for frame in page.frames if frame.url.startswith(scene.portal)] == []
    scene.all_is_well()


def test_it_has_no_hold_on_the_portals_windows(scene: Scene) -> None:
    page = scene.page()
    with scene.context.expect_page() as opened:
        page.evaluate("url => { window.stolen = window.open(url); }", f"{scene.portal}/instances/")
    opened.value.wait_for_load_state()
    assert page.evaluate("stolen.closed || stolen === null") is True, (
        "the portal's window is cut off from who opened it"
    )
    assert opened.value.evaluate("window.opener") is None
    portal = scene.context.new_page()
    portal.goto(f"{scene.portal}/instances/")
    with scene.context.expect_page() as opened:
        portal.evaluate("url => { window.open(url); }", scene.origin(scene.hostile) + "/")
    hostile = opened.value
    hostile.wait_for_url(scene.origin(scene.hostile) + "/")
    assert hostile.evaluate("window.opener") is None
    assert portal.url == f"{scene.portal}/instances/"
    scene.all_is_well()


def test_it_cannot_reach_a_sibling(scene: Scene) -> None:
    """Siblings are same-site, so the browser sends their cookies along: the gateway must refuse."""
    sibling = scene.origin(scene.own)
    visit = scene.context.new_page()
    visit.goto(sibling + "/")  # so that there is a session to ride on
    page = scene.page()
    before = scene.seen_by(scene.own)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    for options in (
        {"credentials": "include"},
        {"credentials": "include", "mode": "no-cors"},
        {"credentials": "include", "mode": "no-cors", "method": "POST", "body": "x"},
        {"credentials": "include", "method": "PUT", "body": "x"},
    ):
        assert page.evaluate(TRY, [sibling + "/api/contents", options]) in ("refused", "opaque 0", "opaque 403")
    for tag, name in (("img", "src"), ("script", "src"), ("iframe", "src"), ("embed", "src"), ("object", "data")):
        page.evaluate(
            """([tag, name, url]) => new Promise(done => {
              const thing = Object.assign(document.createElement(tag), {[name]: url, onload: done, onerror: done});
              document.body.append(thing); setTimeout(done, 1500); })""",
            [tag, name, f"{sibling}/{tag}"],
        )
    socket = """url => new Promise(done => { const socket = new WebSocket(url);
      socket.onopen = () => done('open'); socket.onerror = () => done('refused'); })"""
    assert page.evaluate(socket, sibling.replace("http", "ws", 1) + "/api/kernels/x/channels") == "refused"
    assert page.evaluate(socket, scene.portal.replace("http", "ws", 1) + "/ws/events") == "refused"
    assert len([url for url in sent if url.startswith(sibling)]) >= 8, "the browser did ask"
    assert scene.seen_by(scene.own) == before
    scene.all_is_well()


def test_it_cannot_toss_cookies_that_count(scene: Scene) -> None:
    """What it sets for the parent domain reaches the sibling's own application at most, never a name of ours."""
    sibling, page = scene.origin(scene.own), scene.page()
    for name in ("__Host-sid", "__Host-inst", "__Host-entry", "__host-INST", "__Secure-inst", "_xsrf"):
        for more in ("; Path=/", "; Path=/; Secure", "; Path=/lab; Secure"):
            for domain in ("; Domain=apps.localhost", "; Domain=localhost", ""):
                page.evaluate("text => { document.cookie = text; }", f"{name}=planted{more}{domain}")
    planted = {(c["name"], c["domain"]) for c in scene.context.cookies() if c["value"] == "planted"}
    ours = {name for name, domain in planted if name.lower().startswith("__host") and domain.startswith(".")}
    assert ours == set(), "the browser keeps these names to the host that set them"
    assert "tossed" not in {cookie["name"] for cookie in scene.context.cookies()}, "the gateway lets no Domain through"
    for address in (f"{sibling}/lab", f"{scene.portal}/instances/"):
        answer = scene.context.new_page().goto(address)
        assert answer is not None
        assert answer.status == 200, address
    heads = b"".join(scene.backends[scene.own.slug].heads)
    assert b"__Host" not in heads
    assert b"__host" not in heads
    scene.all_is_well()


def test_a_cookie_bomb_is_cured_by_the_page_that_names_it(scene: Scene) -> None:
    sibling, page = scene.origin(scene.own), scene.page()
    page.evaluate(
        """() => { for (let n = 0; n < 40; n++)
          document.cookie = `bomb${n}=${'x'.repeat(3500)}; Domain=apps.localhost; Path=/`; }"""
    )
    while scene.bombs() < 40:  # the browser stores them in its own time
        page.wait_for_timeout(50)
    visit = scene.context.new_page()
    answer = visit.goto(sibling + "/lab")
    assert answer is not None
    assert answer.status == 431
    expect(visit.get_by_role("heading")).to_contain_text("Too many cookies")
    answer = visit.goto(sibling + "/lab")
    assert answer is not None
    assert answer.status == 200
    assert scene.bombs() == 0
    portal = scene.context.new_page().goto(f"{scene.portal}/instances/")
    assert portal is not None
    assert portal.status == 200
    scene.all_is_well()


def test_a_worker_of_its_own_stays_on_its_own_origin(scene: Scene) -> None:
    page = scene.page("/below/page")
    register = """async ([script, scope]) => {
      try { return (await navigator.serviceWorker.register(script, scope ? {scope} : {})).scope; }
      catch (error) { return 'refused'; } }"""
    own = scene.origin(scene.hostile)
    assert page.evaluate(register, ["/below/sw.js", ""]) == f"{own}/below/"
    assert page.evaluate(register, ["/below/sw.js", "/"]) == "refused", "the instance may not widen a worker's reach"
    for origin in (scene.portal, scene.origin(scene.own)):
        assert page.evaluate(register, [f"{origin}/sw.js", ""]) == "refused"
        assert page.evaluate(register, ["/sw.js", f"{origin}/"]) == "refused"
    scene.all_is_well()


def test_it_sends_nobody_into_the_portal(scene: Scene) -> None:
    """A redirect to the portal would be a navigation that the visitor seems to want."""
    page = scene.page()
    for target in (f"{scene.portal}/auth/logout/", f"//localhost:{scene.gateway.port}/", "javascript:alert(1)"):
        answer = page.goto(f"{scene.origin(scene.hostile)}/to?{target}")
        assert answer is not None
        assert answer.status == 502
    scene.all_is_well()


def test_the_attacks_have_somebody_to_attack(scene: Scene) -> None:
    """The same requests from the portal's own page and from Alice's own instance do work."""
    portal = scene.context.new_page()
    portal.goto(f"{scene.portal}/instances/")
    assert portal.evaluate(TRY, [f"{scene.portal}/api/v1/me", {"credentials": "include"}]) == "basic 200"
    own = scene.context.new_page()
    own.goto(scene.origin(scene.own) + "/")
    before = scene.seen_by(scene.own)
    assert own.evaluate(TRY, ["/api/contents", {"method": "POST", "body": "x"}]) == "basic 200"
    assert scene.seen_by(scene.own) == before + 1
    portal.get_by_role("button", name="Stop Alice's own").click()
    portal.wait_for_load_state()
    scene.own.refresh_from_db()
    assert scene.own.target == "stopped"
