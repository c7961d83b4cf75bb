"""What is hidden leaves no trace: every answer is the same, byte for byte, whether it exists or not."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth.models import Facility, User
from experiments.models import Experiment, Instrument, Proposal
from instances.models import Instance, Plan
from tests.factories.auth import UserFactory, sign_in
from tests.factories.experiments import DatasetFactory, ExperimentFactory, InstrumentFactory, ProposalFactory, join_team
from tests.factories.instances import HomeFactory, InstanceFactory, PlanFactory
from tests.routes import plain

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(180)]


@pytest.fixture
def plan() -> Plan:
    return PlanFactory()


@pytest.fixture
def facility(plan: Plan) -> Facility:
    facility = plan.image.provider.facility
    assert facility is not None
    return facility


@pytest.fixture
def seen(facility: Facility, plan: Plan) -> list[Experiment]:
    """What everybody sees: more open experiments than a page holds, and an instance of Alice's with two of them."""
    proposal = ProposalFactory(facility=facility, opened=True, title="Ice at high pressure")
    instrument = InstrumentFactory(facility=facility, code="SEEN")
    runs = [ExperimentFactory(proposal=proposal, instrument=instrument, title=f"Ice {n}") for n in range(60)]
    InstanceFactory(owner=UserFactory(handle="alice"), plan=plan).experiments.set(runs[:2])
    return runs


@pytest.fixture
def alice(seen: list[Experiment]) -> User:
    return User.objects.get(handle="alice")


def hide_something(facility: Facility, seen: list[Experiment]) -> None:
    """Everything there is, and nothing of it for Alice: newer, older and between, in words and filters she may try."""
    bob = UserFactory(handle="bob", display_name="Bob Hidden")
    hidden = ProposalFactory(facility=facility, title="Ice under embargo")
    instrument = InstrumentFactory(facility=facility, code="HIDDEN")
    dates = [
        datetime(1999, 1, 1, tzinfo=UTC),
        seen[30].start_at + timedelta(minutes=1),
        datetime(2040, 1, 1, tzinfo=UTC),
    ]
    runs = [ExperimentFactory(proposal=hidden, instrument=instrument, title="Ice hidden", start_at=at) for at in dates]
    runs += [ExperimentFactory(proposal=hidden, instrument=seen[0].instrument, title="Ice hidden too")]
    runs += [ExperimentFactory(proposal=seen[0].proposal, title="Ice removed", removed_at=datetime.now(UTC))]
    DatasetFactory(experiment=runs[0])
    join_team(bob, *runs)
    theirs = InstanceFactory(owner=bob, name="Ice hidden", plan=Plan.objects.get())
    theirs.experiments.set(runs)
    HomeFactory(user=bob, provider=theirs.provider)
    sign_in(Client(), bob)


def lists(doi: str) -> Iterator[str]:
    """Every address that lists, counts, offers choices or pages."""
    for query in (
        "",
        "?text=ice",
        "?text=hidden",
        "?year=2021",
        "?year=1999",
        "?instrument=HIDDEN",
        "?mine=1",
        "?show=mine",
    ):
        yield f"/experiments{query}"
    for query in ("", "?limit=7", "?text=ice&limit=50", "?year=2040", "?open=true", "?mine=true", "?instrument=HIDDEN"):
        yield f"/api/v1/experiments{query}"
    yield f"/doi/{doi}"
    yield f"/doi/{doi}?page=2"
    yield f"/api/v1/experiments?doi={doi}"
    yield f"/instances/new?dois={doi}"
    yield from (
        "/",
        "/instances/",
        "/api/v1/instances",
        "/api/v1/plans",
        "/api/v1/me",
        "/auth/account/",
        "/search?q=hidden",
    )


def pages_from(client: Client, address: str) -> list[Any]:
    """The answer and all that follow it by "older" or `next`."""
    answers = []
    while address and len(answers) < 20:
        response = client.get(address)
        answers.append(_answer(response))
        address = _next(response)
    return answers


def _answer(response: Any) -> Any:
    status, headers, text = plain(response)
    headers.pop("ETag", None)
    # random by design, or a clock: the form's key, sealed places in a list, how long something has been so
    text = re.sub(r'(name="idempotency_key" value=")\w+', r"\1", text)
    text = re.sub(r'<span class="ticking".*?</span>', "", text)
    return status, headers, re.sub(r"cursor=[\w%=-]+", "cursor=", text)


def _next(response: Any) -> str:
    if response.headers["Content-Type"] == "application/json":
        found = json.loads(response.content)
        return (found.get("next") or "") if isinstance(found, dict) else ""
    match = re.search(r'href="([^"]*[?&]after=[^"]*)"', response.content.decode())
    return "/experiments" + match.group(1).replace("&amp;", "&") if match and match.group(1).startswith("?") else ""


@pytest.mark.parametrize("signed_in", [False, True], ids=["visitor", "alice"])
def test_lists_are_the_same_with_and_without_it(
    seen: list[Experiment], alice: User, facility: Facility, signed_in: bool
) -> None:
    client = Client()
    if signed_in:
        sign_in(client, alice)
    addresses = list(lists(str(seen[0].proposal.pid_norm)))
    without = {address: pages_from(client, address) for address in addresses}
    with transaction.atomic():
        hide_something(facility, seen)
        with_it = {address: pages_from(client, address) for address in addresses}
        transaction.set_rollback(True)
    assert sum(len(pages) for pages in without.values()) > len(addresses) + 5, "some lists have several pages"
    for address in addresses:
        assert with_it[address] == without[address], address


def test_the_test_would_see_it(seen: list[Experiment], alice: User, facility: Facility) -> None:
    client = Client()
    before = pages_from(client, "/experiments")
    ExperimentFactory(proposal=seen[0].proposal, start_at=datetime(2041, 1, 1, tzinfo=UTC))
    assert pages_from(client, "/experiments") != before


def test_the_place_in_a_list_says_nothing_of_how_many_there_are(client: Client, seen: list[Experiment]) -> None:
    """A row's number would: the gaps are what is hidden."""
    page = client.get("/api/v1/experiments?limit=10").json()
    cursor = parse_qs(urlsplit(page["next"]).query)["cursor"][0]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    assert not re.fullmatch(rb"[!-~]+", raw), "it is sealed, not written down"
    assert client.get("/api/v1/experiments", {"cursor": cursor[:-3] + "AAA"}).status_code == 404


# ---- one thing: hidden or unknown ----


def asked_for(hidden: Proposal | None, run: Experiment | None, plan: Plan) -> Iterator[tuple[str, str, Any]]:
    """Requests that name a proposal or experiment, hidden or made up: (method, address, body)."""
    doi = str(hidden.pid_norm) if hidden else "10.5072/data-000000"
    number = hidden.identifier if hidden else "000000"
    uid = str(run.uid) if run else "00000000-0000-4000-8000-000000000001"
    yield "GET", f"/doi/{doi}", None
    yield "GET", f"/doi/{doi}?page=2", None
    yield "HEAD", f"/doi/{doi}", None
    yield "GET", f"/doi/{doi}/availability", None
    yield "GET", f"/proposals/{plan.image.provider.facility.slug}/{number}", None  # type: ignore[union-attr]
    yield "GET", f"/instances/new?dois={doi}", None
    yield "GET", f"/instances/new?dois={doi},10.5072/other", None
    yield "GET", f"/instances/new?proposals={number}", None
    yield "GET", f"/instances/new?experiments={uid}", None
    yield "GET", f"/experiments?text={number}", None
    yield "GET", f"/experiments?after={uid}", None
    yield "GET", f"/search?q={doi}", None
    yield "GET", f"/api/v1/experiments/{uid}", None
    yield "GET", f"/api/v1/experiments?doi={doi}", None
    yield "POST", "/api/v1/instances", {"plan": plan.slug, "name": "n", "experiments": [uid]}


@pytest.mark.parametrize("signed_in", [False, True], ids=["visitor", "alice"])
def test_hidden_and_unknown_are_one_answer(
    seen: list[Experiment], alice: User, plan: Plan, facility: Facility, signed_in: bool
) -> None:
    hidden = ProposalFactory(facility=facility)
    run = ExperimentFactory(proposal=hidden)
    client = Client()
    if signed_in:
        sign_in(client, alice)

    def ask(method: str, address: str, body: Any) -> tuple[Any, int]:
        with CaptureQueriesContext(connection) as queries:
            response = client.generic(method, address, json.dumps(body) if body else b"", "application/json")
        names = {hidden.pid_norm: "10.5072/data-000000", hidden.identifier: "000000"}
        names |= {hidden.pid: "10.5072/data-000000", str(run.uid): "00000000-0000-4000-8000-000000000001"}
        told = repr(_answer(response))
        for name, other in names.items():
            told = told.replace(str(name), str(other))
        return told, len(queries)

    pairs = zip(asked_for(hidden, run, plan), asked_for(None, None, plan), strict=True)
    for one, other in pairs:
        assert ask(*one) == ask(*other), one
    assert Instance.objects.count() == 1


def test_an_instrument_with_nothing_but_hidden_runs_is_not_offered(client: Client, facility: Facility) -> None:
    ExperimentFactory(proposal=ProposalFactory(facility=facility), instrument=InstrumentFactory(code="SECRETBL"))
    assert Instrument.objects.filter(code="SECRETBL").exists()
    assert "SECRETBL" not in client.get("/experiments").text
