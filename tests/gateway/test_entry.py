"""The way onto an instance's origin: both halves, with a browser's cookies."""

from __future__ import annotations

import re
import secrets
import time
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.http import HttpResponse
from django.test import Client

from auth.models import Session
from auth.roles import InstanceRole
from instances.lifecycle import State
from instances.models import Instance, Member, Ticket
from portal.lib.hashing import digest
from tests.factories.auth import UserFactory, sign_in
from tests.factories.instances import InstanceFactory
from tests.gateway.harness import Harness, Reply

SLUG = "alpha1234"


class Browser:
    """Cookies of one instance's origin; keeps what it is told to keep."""

    def __init__(self, gateway: Harness, slug: str = SLUG, *, refuses_cookies: bool = False) -> None:
        self.gateway, self.slug = gateway, slug
        self.jar: dict[str, str] = {}
        self.refuses_cookies = refuses_cookies

    def go(self, path: str, site: str = "none") -> Reply:
        cookie = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        reply = self.gateway.navigate(path, slug=self.slug, cookie=cookie, Sec_Fetch_Site=site)
        if not self.refuses_cookies:
            self.jar |= reply.cookies
        return reply

    def portal(self, reply: Reply) -> str:
        """Do the portal's half for a redirect to it: return the way back, with a ticket."""
        assert reply.status == 303
        url = urlsplit(reply.get("Location"))
        assert f"{url.scheme}://{url.netloc}{url.path}" == f"{self.gateway.config.portal_url}/enter/{self.slug}"
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        ticket = secrets.token_urlsafe(32)
        self.gateway.portal.tickets[ticket] = {"nonce": query["n"], "session": self.gateway.session_row(self.slug)}
        return "/.portal/enter?" + urlencode({"t": ticket, **{k: v for k, v in query.items() if k in ("to", "again")}})

    def enter(self, path: str) -> Reply:
        """All of it."""
        return self.go(self.portal(self.go(path)), "same-site")


# ---- the gateway's half ----
def test_a_navigation_goes_through_the_portal_and_comes_back_to_its_page(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    reply = browser.enter("/lab/tree/Welcome.ipynb?x=%2F")
    assert (reply.status, reply.get("Location")) == (303, "/lab/tree/Welcome.ipynb?x=%2F")
    assert reply.get("Referrer-Policy") == "no-referrer"
    assert reply.get("Cache-Control") == "no-store"
    cookie = next(line for line in reply.all("Set-Cookie") if line.startswith("__Host-inst="))
    assert cookie.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
    assert browser.go(reply.get("Location")).body == b"hello"


def test_the_nonce_itself_never_leaves_the_browser_but_to_its_origin(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    reply = browser.go("/")
    nonce = browser.jar["__Host-entry"]
    assert nonce not in reply.get("Location")
    assert digest(nonce) in reply.get("Location")
    assert "; Max-Age=600; Secure; HttpOnly; SameSite=Lax" in reply.get("Set-Cookie")


def test_an_unknown_slug_goes_through_the_entry_like_a_known_one(gateway: Harness) -> None:
    gateway.instance()
    known, unknown = gateway.navigate("/x"), gateway.navigate("/x", slug="zzzz99999")

    def shape(reply: Reply, slug: str) -> tuple[int, str, list[str]]:
        location = urlsplit(reply.get("Location"))
        return reply.status, location.path.replace(slug, "…"), sorted(name for name, _ in reply.fields)

    assert shape(known, SLUG) == shape(unknown, "zzzz99999")
    assert gateway.same_origin(cookie="a=b").status == gateway.same_origin(cookie="a=b", slug="zzzz99999").status == 401


def test_four_tabs_at_once_all_get_in(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    browser.go("/")  # the browser has its nonce when the tabs are restored
    tabs = [browser.portal(browser.go(f"/tab{n}")) for n in range(4)]
    for number, tab in enumerate(tabs):
        reply = browser.go(tab, "same-site")
        assert (reply.status, reply.get("Location")) == (303, f"/tab{number}")
        assert browser.go(f"/tab{number}").status == 200


def test_four_first_tabs_at_once_all_get_in(gateway: Harness) -> None:
    """Each got a nonce of its own; the last one is what the browser has kept."""
    gateway.instance()
    browser = Browser(gateway)
    ways = []
    for number in range(4):
        before = dict(browser.jar)
        browser.jar.pop("__Host-entry", None)
        ways.append(browser.portal(browser.go(f"/tab{number}")))
        assert before.get("__Host-entry") != browser.jar["__Host-entry"]
    for number, way in enumerate(ways):
        reply = browser.go(way, "same-site")
        if reply.get("Location").startswith("http"):  # one restart, with the nonce that the browser has
            reply = browser.go(browser.portal(reply), "same-site")
        assert (reply.status, reply.get("Location")) == (303, f"/tab{number}")
    assert browser.go("/").status == 200


def test_another_nonce_is_restarted_once_and_not_for_ever(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    way = browser.portal(browser.go("/x"))
    browser.jar["__Host-entry"] = "A" * 43
    reply = browser.go(way, "same-site")
    assert "again=1" in reply.get("Location")
    way = browser.portal(reply)
    browser.jar["__Host-entry"] = "B" * 43
    reply = browser.go(way, "same-site")
    assert reply.status == 403
    assert reply.get("Location") == ""


def test_another_browsers_ticket_is_worthless(gateway: Harness) -> None:
    """Nobody can be signed in to somebody else's instance by a link."""
    backend = gateway.instance()
    attacker, victim = Browser(gateway), Browser(gateway)
    way = attacker.portal(attacker.go("/"))
    victim.go("/")
    victim.go(way, "cross-site")
    assert "__Host-inst" not in victim.jar
    assert backend.heads == []


def test_a_ticket_is_no_use_a_second_time(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    way = browser.portal(browser.go("/"))
    assert browser.go(way, "same-site").status == 303
    assert browser.go(way, "same-site").status == 403


def test_a_ticket_of_another_instance_is_worthless(gateway: Harness) -> None:
    gateway.instance()
    gateway.instance("beta12345")
    alpha, beta = Browser(gateway), Browser(gateway, "beta12345")
    way = alpha.portal(alpha.go("/"))
    beta.jar["__Host-entry"] = alpha.jar["__Host-entry"]
    beta.go("/")
    assert beta.go(way, "same-site").status == 403
    assert "__Host-inst" not in beta.jar


def test_a_browser_without_cookies_gets_a_page_and_no_loop(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway, refuses_cookies=True)
    reply = browser.enter("/")
    assert reply.status == 403
    assert b"browser cannot open instances" in reply.body
    assert gateway.portal.calls == [], "the ticket was not even asked about"


def test_a_browser_that_does_not_say_where_it_comes_from_gets_a_page(gateway: Harness) -> None:
    gateway.instance()
    reply = gateway.get("/")
    assert reply.status == 403
    assert b"browser cannot open instances" in reply.body


@pytest.mark.parametrize(
    "fields",
    [
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Dest": "empty"},
        {"Origin": "own"},
    ],
)
def test_what_is_no_navigation_is_never_redirected(gateway: Harness, fields: dict[str, str]) -> None:
    gateway.instance()
    if "Origin" in fields:
        fields = {"Origin": f"http://{gateway.host()}"}
    assert gateway.get("/", **fields).status == 401
    assert gateway.get("/", method="POST", **fields).status == 401


def test_the_ticket_is_only_taken_from_a_navigation(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    way = browser.portal(browser.go("/"))
    entry = f"__Host-entry={browser.jar['__Host-entry']}"
    assert gateway.same_origin(way, cookie=entry).status == 404
    assert gateway.get(way, Cookie=entry, Sec_Fetch_Site="same-site", Sec_Fetch_Dest="iframe").status == 404
    assert gateway.portal.calls == []
    assert browser.go(way, "same-site").status == 303


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "\\\\evil.example",
        "/%0d%0aSet-Cookie:x",
        "/a\r\nSet-Cookie: x=1",
        "/a\x00",
        "/é",
        "/" + "a" * 3000,
        "/.portal/enter?t=x",
        "evil.example",
        "",
        "@evil.example",
    ],
)
def test_it_goes_on_to_a_path_of_this_origin_only(gateway: Harness, to: str) -> None:
    gateway.instance()
    browser = Browser(gateway)
    way = browser.portal(browser.go("/"))
    ticket = parse_qs(urlsplit(way).query)["t"][0]
    reply = browser.go("/.portal/enter?" + urlencode({"t": ticket, "to": to}), "same-site")
    assert reply.status == 303
    assert reply.get("Location") == (to if to.startswith("/%0d") else "/")
    assert reply.get("Set-Cookie").startswith("__Host-inst=")
    assert len(reply.all("Set-Cookie")) == 1


@pytest.mark.parametrize("query", ["", "?t=", "?t=x", "?t=" + "a" * 5000, "?t=%00%ff", "?" + "t=a&" * 9, "?to=/x"])
def test_nonsense_tickets_are_refused(gateway: Harness, query: str) -> None:
    gateway.instance()
    browser = Browser(gateway)
    browser.go("/")
    assert browser.go(f"/.portal/enter{query}", "same-site").status in (400, 403)


def test_with_the_portal_away_nobody_gets_in(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    way = browser.portal(browser.go("/"))
    gateway.portal.away = True
    reply = browser.go(way, "same-site")
    assert reply.status == 502
    assert "__Host-inst" not in browser.jar


def test_coming_back_after_sleep_costs_no_entry(gateway: Harness) -> None:
    gateway.instance()
    browser = Browser(gateway)
    browser.enter("/")
    sid = browser.jar["__Host-inst"].split(".")[1]
    session = gateway.gateway.sessions.get(sid)
    assert session is not None
    session.expires = time.time() - 1
    assert browser.go("/lab").body == b"hello"


# ---- the portal's half ----
pytestmark = pytest.mark.django_db
NAVIGATION = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "cross-site"}
NONCE = digest("nonce")


@pytest.fixture
def instance() -> Instance:
    return InstanceFactory(state=State.ACTIVE)


def visit(client: Client, slug: str, **query: str) -> object:
    return client.get(f"/enter/{slug}", query_params={"n": NONCE, "to": "/lab", **query}, headers=NAVIGATION)


def test_a_member_is_sent_on_with_a_ticket(instance: Instance, client: Client) -> None:
    session = sign_in(client, instance.owner)
    response = client.get(f"/enter/{instance.slug}?n={NONCE}&to=/lab%3Fx%3D1", headers=NAVIGATION)
    assert response.status_code == 303
    url = urlsplit(response["Location"])
    assert url.netloc.startswith(f"{instance.slug}.apps.localhost:")
    assert url.path == "/.portal/enter"
    query = parse_qs(url.query)
    assert query["to"] == ["/lab?x=1"]
    assert "again" not in query
    assert response["Referrer-Policy"] == "no-referrer"
    assert "no-store" in response["Cache-Control"]
    ticket = Ticket.objects.get()
    assert ticket.secret_hash == digest(query["t"][0])
    assert (ticket.nonce_hash, ticket.user, ticket.instance, ticket.role, ticket.login_session_id) == (
        NONCE,
        instance.owner,
        instance,
        InstanceRole.OWNER,
        session.pk,
    )


def test_a_ticket_lasts_thirty_seconds(instance: Instance, client: Client) -> None:
    sign_in(client, instance.owner)
    visit(client, instance.slug)
    ticket = Ticket.objects.get()
    assert 29 < (ticket.expires_at - ticket.created_at).total_seconds() < 31


def test_somebody_signed_out_signs_in_first_whatever_the_slug(instance: Instance, client: Client) -> None:
    for slug in (instance.slug, "zzzz99999"):
        response = client.get(f"/enter/{slug}?n={NONCE}&to=/lab", headers=NAVIGATION)
        assert response.status_code == 302
        assert response["Location"].startswith("/auth/sign-in/?next=/enter/")
        assert NONCE in response["Location"]
    assert not Ticket.objects.exists()


def plain(response: HttpResponse, slug: str) -> bytes:
    """A page without what differs on every request."""
    content = response.content.replace(response["X-Request-Id"].encode(), b"").replace(slug.encode(), b"")
    return re.sub(rb'name="csrfmiddlewaretoken" value="[^"]+"', b"", content)


def test_unknown_and_not_visible_are_one_answer(instance: Instance, client: Client) -> None:
    sign_in(client, UserFactory())
    foreign = client.get(f"/enter/{instance.slug}?n={NONCE}", headers=NAVIGATION)
    unknown = client.get(f"/enter/zzzz99999?n={NONCE}", headers=NAVIGATION)
    assert foreign.status_code == unknown.status_code == 404
    assert plain(foreign, instance.slug) == plain(unknown, "zzzz99999")
    assert not Ticket.objects.exists()


def test_a_guest_may_see_and_not_open(instance: Instance, client: Client) -> None:
    guest = UserFactory()
    Member.objects.create(instance=instance, user=guest, role=InstanceRole.GUEST)
    sign_in(client, guest)
    assert client.get(f"/enter/{instance.slug}?n={NONCE}", headers=NAVIGATION).status_code == 403
    assert not Ticket.objects.exists()


def test_a_deleted_instance_is_not_there(instance: Instance, client: Client) -> None:
    sign_in(client, instance.owner)
    Instance.objects.update(state=State.DELETED)
    assert client.get(f"/enter/{instance.slug}?n={NONCE}", headers=NAVIGATION).status_code == 404


@pytest.mark.parametrize("dest", ["", "iframe", "empty", "image", "script"])
def test_only_a_navigation_gets_a_ticket(instance: Instance, client: Client, dest: str) -> None:
    sign_in(client, instance.owner)
    response = client.get(f"/enter/{instance.slug}?n={NONCE}", headers={"Sec-Fetch-Dest": dest})
    assert response.status_code == 403
    assert not Ticket.objects.exists()


def test_entering_is_get_only(instance: Instance, client: Client) -> None:
    sign_in(client, instance.owner)
    headers = {**NAVIGATION, "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"/enter/{instance.slug}?n={NONCE}", headers=headers).status_code in (403, 405)
    assert not Ticket.objects.exists()


@pytest.mark.parametrize("nonce", ["", "x", "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "g", "é" * 64])
def test_a_nonce_that_is_none_is_400(instance: Instance, client: Client, nonce: str) -> None:
    sign_in(client, instance.owner)
    response = client.get(f"/enter/{instance.slug}", query_params={"n": nonce}, headers=NAVIGATION)
    assert response.status_code == 400


def test_a_sign_in_that_has_ended_gets_no_ticket(instance: Instance, client: Client) -> None:
    sign_in(client, instance.owner)
    Session.objects.update(ended_at="2020-01-01T00:00:00Z")
    assert client.get(f"/enter/{instance.slug}?n={NONCE}", headers=NAVIGATION).status_code == 302
