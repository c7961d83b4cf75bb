"""One journey at real providers of four makes: in, recognised, given what the rules give, out again.

Each is a program that others wrote, with a JOSE implementation of its own (JavaScript, Java, pyjwkest, joserfc). The
portal is the real one on a socket; the browser has no scripts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from auth.models import Group, Identity, Session, User
from portal.audit import AuditEvent
from tests.labs.conftest import LABS
from tests.labs.keycloak import Keycloak
from tests.labs.lab import MEMBER, PEOPLE, Lab, email
from tests.labs.visitor import Page, Visitor

pytestmark = [pytest.mark.labs, pytest.mark.timeout(180), pytest.mark.django_db(transaction=True)]

Browser = Callable[[], Visitor]
OTHER = next(login for login in PEOPLE if login != MEMBER)
ACCOUNT = "/auth/account/?tab=a%2Fb"


@pytest.fixture(params=LABS)
def lab(request: pytest.FixtureRequest, labs: dict[str, Lab], group: Group) -> Lab:
    lab = labs[request.param]
    lab.wait()
    return lab


def at_the_provider(lab: Lab, visitor: Visitor) -> Page:
    """Press the provider's button on the sign-in page."""
    page = visitor.open(f"{lab.portal}/auth/sign-in/?next={quote(ACCOUNT)}")
    return visitor.press(page, to=f"/auth/{lab.slug}/login/")


def sign_in(lab: Lab, visitor: Visitor, login: str) -> Page:
    page = lab.show_who(visitor, at_the_provider(lab, visitor), login)
    assert (page.url, page.status) == (lab.portal + ACCOUNT, 200), page.text
    return page


def me(lab: Lab, visitor: Visitor) -> dict[str, Any]:
    answer = visitor.ask("GET", f"{lab.portal}/api/v1/me")
    assert answer.status_code == 200
    return dict(answer.json())


def is_refused(lab: Lab, visitor: Visitor) -> bool:
    return visitor.ask("GET", f"{lab.portal}/api/v1/me").status_code == 401


def shape(lab: Lab, visitor: Visitor) -> dict[str, Any]:
    """What the portal knows of somebody, apart from ids."""
    said = me(lab, visitor)
    user = User.objects.get(uid=said["id"])
    return {
        "name": said["name"],
        "email": (said["email"], user.email_verified),
        "roles": [(role["role"], role["facility"]) for role in said["roles"]],
        "groups": [member.group.slug for member in user.group_memberships.select_related("group")],
        "identities": [(known.provider, known.issuer) for known in user.identities.all()],
    }


def expected(lab: Lab, login: str) -> dict[str, Any]:
    member = login == MEMBER
    return {
        "name": " ".join(PEOPLE[login]),
        "email": (email(login), lab.verifies_email),
        "roles": [("instrument-scientist", "xfel")] if member else [],
        "groups": ["beamline"] if member else [],
        "identities": [(lab.slug, lab.issuer)],
    }


def test_a_whole_journey(lab: Lab, browser: Browser) -> None:
    at_work, at_home, other = browser(), browser(), browser()
    sign_in(lab, at_work, MEMBER)
    assert shape(lab, at_work) == expected(lab, MEMBER)

    sign_in(lab, at_home, MEMBER)
    assert me(lab, at_home)["id"] == me(lab, at_work)["id"]
    sign_in(lab, other, OTHER)
    assert shape(lab, other) == expected(lab, OTHER)
    assert Identity.objects.count() == User.objects.count() == 2

    page = at_work.press(at_work.open(lab.portal + ACCOUNT), to="/auth/logout/")
    assert is_refused(lab, at_work)
    if lab.ends_sessions:
        page = lab.confirm_sign_out(at_work, page)
        assert page.url.startswith(f"{lab.portal}/auth/signed-out/?state=")
        assert "signed out at your sign-in provider too" in page.text
    else:
        assert page.url == f"{lab.portal}/auth/logout/"
        assert f"{lab.title}\n  may still know you" in page.text
    assert lab.asks_who(at_the_provider(lab, at_work))
    assert not is_refused(lab, at_home)
    assert Session.objects.filter(ended_at=None).exclude(user=None).count() == 2
    assert not AuditEvent.objects.exclude(result=AuditEvent.Result.DONE).exists()


@pytest.mark.parametrize("lab", [slug for slug, lab in LABS.items() if lab.ends_sessions], indirect=True)
def test_the_provider_knows_one_again_without_asking(lab: Lab, browser: Browser) -> None:
    """Signed in there, one is back here at once: what a session at the provider is for."""
    visitor = browser()
    sign_in(lab, visitor, MEMBER)
    for name in ("__Host-sid", "__Host-csrf"):
        visitor.session.cookies.clear("localhost.local", "/", name)
    assert at_the_provider(lab, visitor).url == lab.portal + ACCOUNT
    assert User.objects.count() == 1


def test_signing_out_at_keycloak_ends_the_session_here(
    labs: dict[str, Lab], group: Group, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keycloak posts a logout token for this session; the one of another browser goes on."""
    lab = labs["keycloak"]
    assert isinstance(lab, Keycloak)
    lab.wait()
    here, elsewhere = browser(), browser()
    sign_in(lab, here, MEMBER)
    sign_in(lab, elsewhere, MEMBER)

    page = lab.sign_out_there(here)
    assert not is_refused(lab, here)
    began = time.monotonic()
    here.press(page, to="/logout")
    while not is_refused(lab, here):
        assert time.monotonic() < began + 30, "Keycloak's logout did not arrive"
        time.sleep(0.005)
    took = 1000 * (time.monotonic() - began)
    with capsys.disabled():
        print(f"\nKeycloak's back-channel logout: refused {took:.0f} ms after the button there")

    assert not is_refused(lab, elsewhere)
    told = AuditEvent.objects.get(action="backchannel_logout")
    assert (told.result, told.object_id, told.detail) == (AuditEvent.Result.DONE, "keycloak", {"sessions": 1})
