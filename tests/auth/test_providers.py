"""Several providers side by side: each with its own callback, subjects, demands and troubles."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from structlog.testing import capture_logs

from auth import providers, urls
from auth.models import Group, GroupRule, Identity, LoginState, Person, User
from auth.oidc import http, shelf
from auth.oidc.errors import ProviderSlow
from auth.providers import Provider
from auth.providers_file import ALGORITHMS, RESERVED
from portal.audit import AuditEvent
from tests.auth.conftest import Browser, forget, reason, refused
from tests.auth.hostile_op import MISSING, HostileOP, Reply, public_jwk, rsa_key
from tests.factories.auth import FacilityFactory

pytestmark = pytest.mark.django_db


# ---- one beside the other ----
def test_the_sign_in_page_has_a_button_for_each(op: HostileOP, other_op: HostileOP, browser: Browser) -> None:
    op.configure(description="For <staff>", logo="data:image/svg+xml;base64,PHN2Zy8+")
    page = browser.get("/auth/sign-in/?next=/doi/10.1/x").content.decode()
    assert page.index('action="/auth/demo/login/"') < page.index('action="/auth/other/login/"')
    assert page.count('name="next" value="/doi/10.1/x"') >= 2
    assert "For &lt;staff&gt;" in page
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page
    assert "Which one is mine?" in page


def test_with_one_provider_there_is_no_question(op: HostileOP, browser: Browser) -> None:
    assert "Which one is mine?" not in browser.get("/auth/sign-in/").content.decode()


def test_no_address_of_our_own_can_be_a_providers() -> None:
    first = {str(ours.pattern).partition("/")[0] for ours in urls.urlpatterns}
    assert first - {"<slug:slug>"} <= RESERVED


def test_each_is_a_callback_and_an_account_of_its_own(op: HostileOP, other_op: HostileOP, browser: Browser) -> None:
    assert browser.sign_in(op).status_code == 200
    assert Browser().sign_in(other_op).status_code == 200
    assert set(Identity.objects.values_list("provider", "issuer", "subject")) == {
        ("demo", op.issuer, op.subject),
        ("other", other_op.issuer, op.subject),
    }
    assert User.objects.count() == 2
    assert other_op.token_requests[0]["redirect_uri"].endswith("/auth/other/callback/")
    assert len(op.token_requests) == 1


def test_an_answer_at_anothers_callback_is_refused(op: HostileOP, other_op: HostileOP, browser: Browser) -> None:
    answer = op.authorize(browser.start())
    assert browser.come_back(answer, "other").status_code == 400
    assert reason() == "unknown-state"
    assert not other_op.token_requests
    assert browser.come_back(answer).status_code == 200


def test_a_code_of_one_under_the_state_of_the_other_never_leaves(
    op: HostileOP, other_op: HostileOP, browser: Browser
) -> None:
    """The mix-up attack: a hostile provider sends the browser on with the honest one's state."""
    honest, hostile = browser.start(), browser.start(slug="other")
    answer = op.authorize(honest)
    mixed = answer | {"state": parse_qs(urlsplit(hostile).query)["state"][0]}
    assert browser.come_back(mixed, "other").status_code == 400
    assert reason() == "answer-of-another-issuer"
    assert not other_op.token_requests


def test_a_token_of_the_other_provider_is_refused(op: HostileOP, other_op: HostileOP, browser: Browser) -> None:
    browser.sign_in(other_op)
    other_op.header = {"kid": "one"}
    op.make_token = lambda header, claims: other_op.sign(header, claims | {"iss": other_op.issuer})
    before = User.objects.count()
    assert Browser().sign_in(op).status_code == 400
    assert reason() == "wrong-issuer"
    assert User.objects.count() == before


def test_a_provider_that_hangs_takes_nobody_elses_threads(
    op: HostileOP, other_op: HostileOP, registered: dict[str, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    op.replies["/slow"] = Reply(b"{}", delay=8)
    begun = threading.Semaphore(0)

    def hang() -> None:
        begun.release()
        with pytest.raises(ProviderSlow):
            http.call(registered["demo"], "GET", f"{op.issuer}/slow", limit=100)

    threads = [threading.Thread(target=hang) for _ in range(2 * http.MOST_AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        begun.acquire()
    assert http.call(registered["other"], "GET", f"{other_op.issuer}/jwks", limit=10_000).status == 200
    assert any(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()


# ---- what each may be asked for ----
@pytest.mark.parametrize(
    ("subject", "why"),
    [
        ("test@eduteams.org", "monitoring-account"),
        ("TEST@eduTEAMS.org", "monitoring-account"),
        ("test@eduteams.org.example", ""),
    ],
)
def test_accounts_that_only_monitor_are_nobody(op: HostileOP, browser: Browser, subject: str, why: str) -> None:
    op.subject = subject
    if why:
        refused(op, browser, why, status=403)
    else:
        assert browser.sign_in(op).status_code == 200


def test_monitoring_accounts_are_named_by_the_operator(op: HostileOP, browser: Browser) -> None:
    op.configure(monitoring_subjects=frozenset({"Probe@provider.example"}))
    op.subject = "probe@provider.example"
    refused(op, browser, "monitoring-account", status=403)
    op.subject = "test@eduteams.org"
    assert browser.sign_in(op).status_code == 200


REFEDS = "https://refeds.org/assurance"


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ([f"{REFEDS}/IAP/medium"], True),
        (f"{REFEDS}/IAP/high", True),
        ([REFEDS, f"{REFEDS}/profile/cappuccino"], True),
        ([f"{REFEDS}/IAP/low"], False),
        ([f"{REFEDS}/IAP/medium/"], False),
        (MISSING, False),
        (None, False),
    ],
)
def test_a_provider_may_be_asked_for_assurance(op: HostileOP, browser: Browser, said: Any, good: bool) -> None:
    op.configure(required_assurance="medium")
    op.userinfo = {"eduperson_assurance": said}
    if good:
        assert browser.sign_in(op).status_code == 200
    else:
        refused(op, browser, "assurance-too-low", status=403)


MFA = "https://refeds.org/profile/mfa"


@pytest.mark.parametrize(
    ("claims", "userinfo", "good"),
    [
        ({"acr": MFA}, {}, True),
        ({"acr": MFA}, {"acr": "other"}, True),
        ({"acr": "https://refeds.org/profile/sfa"}, {}, False),
        ({}, {"acr": MFA}, False),
        ({"acr": [MFA]}, {}, False),
        ({}, {}, False),
    ],
    ids=str,
)
def test_a_provider_may_be_asked_for_a_second_factor_which_its_token_must_say(
    op: HostileOP, browser: Browser, claims: dict[str, Any], userinfo: dict[str, Any], good: bool
) -> None:
    op.configure(required_acr=(MFA, "https://example.org/loa3"))
    op.claims, op.userinfo = claims, userinfo
    if good:
        assert browser.sign_in(op).status_code == 200
    else:
        refused(op, browser, "acr-not-accepted", status=403)


@pytest.mark.parametrize("methods", [MISSING, None, [], ["plain"], "S256", {"S256": 1}])
def test_where_pkce_is_required_a_provider_without_it_is_disabled(
    op: HostileOP, browser: Browser, methods: Any
) -> None:
    op.discovery = {"code_challenge_methods_supported": methods}
    op.configure(pkce="require")
    assert browser.post("/auth/demo/login/").status_code == 502
    assert reason() == "pkce-not-announced"
    assert not LoginState.objects.exists()


def test_where_pkce_is_required_a_provider_with_it_serves(op: HostileOP, browser: Browser) -> None:
    op.discovery = {"code_challenge_methods_supported": ["plain", "S256"]}
    op.configure(pkce="require")
    assert browser.sign_in(op).status_code == 200


def test_claims_may_have_other_names_at_one_provider(op: HostileOP, browser: Browser) -> None:
    op.configure(claims={"name": ("displayName",)})
    op.userinfo = {"name": "Not this", "displayName": "This"}
    browser.sign_in(op)
    assert User.objects.get().display_name == "This"


def test_a_provider_may_speak_for_several_facilities(op: HostileOP, browser: Browser) -> None:
    for slug in ("xfel", "ill"):
        FacilityFactory(slug=slug)
    op.configure(facility_claims={"xfel_id": "xfel", "ill_id": "ill", "third_id": "nowhere"})
    op.userinfo = {"xfel_id": "X-1", "ill_id": ["I-7"], "third_id": "T-1"}
    assert browser.sign_in(op).status_code == 200
    tied = Person.objects.filter(user=User.objects.get()).values_list("facility__slug", "external_id")
    assert set(tied) == {("xfel", "X-1"), ("ill", "I-7")}


# ---- the registry ----
FILE = """
[sso]
title = "Facility account"
issuer = "https://login.example/realms/users"
client_id = "beamport"
client_secret_file = "secret"
"""


@pytest.fixture
def file(tmp_path: Path, settings: Any) -> None:
    """A file with one provider, which the settings name."""
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "providers.toml").write_text(FILE)
    settings.PROVIDERS_FILE = str(tmp_path / "providers.toml")


def test_the_demos_provider_stands_beside_those_of_the_file(file: None, settings: Any) -> None:
    settings.DEMO_PROVIDER = {
        "slug": "demo", "title": "Demo", "issuer": "http://127.0.0.1:1", "client_id": "b", "client_secret": "a secret",
    }  # fmt: skip
    assert [(one.slug, one.title) for one in providers.every()] == [("demo", "Demo"), ("sso", "Facility account")]
    assert "a secret" not in repr(providers.every())


def test_outside_the_demo_nothing_is_private(file: None, settings: Any) -> None:
    assert [one.allow_private for one in providers.every()] == [True, True]
    settings.DEMO, settings.DEMO_PROVIDER = False, {}
    assert [one.allow_private for one in providers.every()] == [False]
    assert providers.get("sso").algorithms == ALGORITHMS


# ---- what it announces ----
def test_a_provider_that_turns_into_another_is_disabled_at_once(
    op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.sign_in(op)
    monkeypatch.setattr(shelf, "FRESH", 0.0)
    monkeypatch.setattr(shelf, "_may_ask", lambda key: True)
    op.discovery = {"issuer": "https://other.example"}
    for _ in range(2):
        assert Browser().post("/auth/demo/login/").status_code == 502
        assert reason() == "wrong-issuer-announced"
    op.replies["/.well-known/openid-configuration"] = Reply(status=503)
    assert Browser().post("/auth/demo/login/").status_code == 502, "what it said before counts no more"
    op.replies, op.discovery = {}, {}
    assert Browser().sign_in(op).status_code == 200


def test_what_only_a_human_can_mend_is_an_error_in_the_log(op: HostileOP, browser: Browser) -> None:
    browser.sign_in(op)
    with capture_logs() as logs:
        op.subject = op.subject.upper()
        assert Browser().sign_in(op).status_code == 400
        forget(op)
        op.discovery = {"issuer": "https://other.example"}
        assert Browser().post("/auth/demo/login/").status_code == 502
    ours = [entry for entry in logs if entry["log_level"] == "error" and "provider" in entry]
    errors = [(entry["event"], entry["provider"]) for entry in ours]
    assert errors == [
        ("known subject in another letter case", "demo"),
        ("provider disabled: it announces another issuer", "demo"),
    ]


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks", "/token", "/userinfo"])
def test_a_provider_that_is_slow_anywhere_is_a_page_that_says_so(
    op: HostileOP, browser: Browser, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0.5)
    op.replies[path] = Reply(b"{}", delay=3)
    response = browser.post("/auth/demo/login/")
    if response.status_code == 200:
        response = browser.come_back(op.authorize(response.headers["Refresh"].partition("url=")[2]))
    assert response.status_code == 504
    assert reason() == "too-slow"
    assert AuditEvent.objects.filter(action="login_failed").count() == 1
    assert not browser.is_signed_in()


def test_rotated_keys_without_kid_are_found(op: HostileOP, rotate: Callable[[], None]) -> None:
    op.header = {}
    for _ in range(3):
        rotate()
        assert Browser().sign_in(op).status_code == 200


@pytest.fixture
def rotate(op: HostileOP, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give the provider a new key and let the thirty seconds pass."""
    monkeypatch.setattr(shelf, "_may_ask", lambda key: True)
    numbers = iter(range(1, 5))

    def turn() -> None:
        op.key = rsa_key(next(numbers))
        op.jwks = [public_jwk(op.key)]

    return turn


def test_a_replayed_id_token_of_another_attempt_is_refused(op: HostileOP, browser: Browser) -> None:
    kept: list[str] = []

    def keep(header: dict[str, Any], claims: dict[str, Any]) -> str:
        kept.append(op.sign(header, claims))
        return kept[0]

    op.claims = {"at_hash": MISSING}
    op.make_token = keep
    assert browser.sign_in(op).status_code == 200
    assert Browser().sign_in(op).status_code == 400
    assert reason() == "wrong-nonce"


# ---- what a sign-in costs ----
def test_a_sign_in_costs_few_queries_and_no_look_at_the_keys(op: HostileOP) -> None:
    """Of somebody who is known, with a person at a facility and groups by three rules."""
    FacilityFactory(slug="xfel")
    op.configure(facility_claims={"facility_person_id": "xfel"}, asserts_scopes=frozenset({"urn:geant:x.example"}))
    said = [f"urn:geant:x.example:group:{name}#x.example" for name in ("a", "b", "c", "d")]
    op.subject, op.userinfo = "jana", {"facility_person_id": "X-1", "eduperson_entitlement": said}
    for name in ("a", "b", "c"):
        group = Group.objects.create(slug=name, title=name)
        GroupRule.objects.create(
            provider="demo", group=group, namespace="urn:geant:x.example", path=name, authority="x.example"
        )
    Browser().sign_in(op)
    browser, asked = Browser(), op.asked.copy()
    with CaptureQueriesContext(connection) as begun:
        url = browser.start()
    with CaptureQueriesContext(connection) as ended:
        assert browser.come_back(op.authorize(url)).status_code == 200
    assert (op.asked["/jwks"], op.asked["/.well-known/openid-configuration"]) == (1, 1)
    assert (op.asked - asked).total() == 2  # token, userinfo
    assert _asked(begun) <= 4
    assert _asked(ended) <= 15
    assert User.objects.get().group_memberships.count() == 3


def _asked(queries: CaptureQueriesContext) -> int:
    """How many questions and answers went over the wire; a savepoint is none."""
    return sum("SAVEPOINT" not in query["sql"][:20] for query in queries.captured_queries)
