"""`/api/v1/experiments`: the rules of the pages, as problem+json."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from auth import tokens
from experiments.models import Experiment
from tests.factories.auth import FacilityFactory, UserFactory, bearer, sign_in
from tests.factories.experiments import ExperimentFactory, InstrumentFactory, ProposalFactory, join_team, leave_team

pytestmark = pytest.mark.django_db

URL = "/api/v1/experiments"


def ids(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.content
    return {row["id"] for row in answer.json()["results"]}


def an_open(**values: Any) -> Experiment:
    return ExperimentFactory(proposal=ProposalFactory(opened=True), **values)


def test_without_sign_in_the_open_ones_are_listed(client: Client) -> None:
    free = an_open(pid="10.5072/RUN")
    ExperimentFactory()
    answer = client.get(URL)
    assert ids(answer) == {str(free.uid)}
    row = answer.json()["results"][0]
    assert set(row) == {
        "id", "title", "run_number", "doi", "instrument", "proposal", "sample", "technique",
        "start_at", "end_at", "open", "mine",
    }  # fmt: skip
    assert row["proposal"] == {
        "identifier": free.proposal.identifier,
        "title": free.proposal.title,
        "doi": free.proposal.pid,
    }
    assert row["instrument"]["facility"] == free.proposal.facility.slug
    assert (row["doi"], row["open"], row["mine"]) == ("10.5072/RUN", True, False)


def test_mine_and_open(client: Client) -> None:
    mine, free = ExperimentFactory(), an_open()
    user = UserFactory()
    join_team(user, mine)
    sign_in(client, user)
    rows = {row["id"]: (row["open"], row["mine"]) for row in client.get(URL).json()["results"]}
    assert rows == {str(mine.uid): (False, True), str(free.uid): (True, False)}
    assert ids(client.get(URL, {"mine": "true"})) == {str(mine.uid)}
    assert ids(client.get(URL, {"open": "true"})) == {str(free.uid)}
    assert ids(client.get(URL, {"mine": "true", "open": "true"})) == set()


def test_other_filters(client: Client) -> None:
    run = an_open(title="Lysozyme", instrument=InstrumentFactory(code="SPB"), pid="10.5072/Run-A")
    other = an_open(start_at=run.start_at + timedelta(days=800))
    assert ids(client.get(URL, {"instrument": "SPB"})) == {str(run.uid)}
    assert ids(client.get(URL, {"text": "lyso"})) == {str(run.uid)}
    assert ids(client.get(URL, {"year": "2021"})) == {str(run.uid)}
    assert ids(client.get(URL, {"doi": "https://doi.org/10.5072/RUN-a"})) == {str(run.uid)}
    assert ids(client.get(URL, {"doi": other.proposal.pid})) == {str(other.uid)}
    assert ids(client.get(URL, {"doi": "no doi"})) == set()


@pytest.mark.parametrize(
    "query",
    [
        "team=1",
        "proposal__withdrawn_at=1",
        "ordering=embargo_until",
        "mine=perhaps",
        "year=x",
        "year=1'--",
        "cursor=cD1hYmM%3D",  # p=abc
        "cursor=%FF",
    ],
)
def test_unknown_parameters_and_values_are_refused(client: Client, query: str) -> None:
    answer = client.get(f"{URL}?{query}")
    assert answer.status_code in (400, 404)
    assert answer["Content-Type"] == "application/problem+json"


def test_what_is_under_embargo_shows_in_no_way(client: Client) -> None:
    facility = FacilityFactory(embargoed_metadata="landing")
    hidden = ExperimentFactory(
        proposal=ProposalFactory(facility=facility), title="Hidden", pid="10.5072/HIDDEN", sample="Hidden"
    )
    ExperimentFactory(removed_at="2022-01-01T00:00Z", proposal=ProposalFactory(opened=True))
    stranger = UserFactory()
    for user in (None, stranger):
        if user:
            sign_in(client, user)
        for query in ({}, {"text": "hidden"}, {"doi": hidden.proposal.pid}, {"doi": hidden.pid}, {"mine": "true"}):
            assert client.get(URL, query).json()["results"] == []
        unknown = client.get(f"{URL}/{uuid.UUID(int=7)}")
        known = client.get(f"{URL}/{hidden.uid}")
        assert unknown.status_code == known.status_code == 404
        assert known.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}


def test_by_id_for_the_team_until_it_is_removed(client: Client) -> None:
    run = ExperimentFactory()
    member = UserFactory(display_name="Hidden Member")
    join_team(member, run, ExperimentFactory())
    sign_in(client, member)
    answer = client.get(f"{URL}/{run.uid}")
    assert answer.json()["mine"] is True
    assert b"Hidden Member" not in answer.content
    leave_team(member, run)
    assert client.get(f"{URL}/{run.uid}").status_code == 404


def test_pages_do_not_count_or_repeat(client: Client) -> None:
    proposal = ProposalFactory(opened=True)
    ExperimentFactory.create_batch(7, proposal=proposal)
    seen: list[str] = []
    url: str | None = f"{URL}?limit=3"
    while url:
        body = client.get(url).json()
        assert "count" not in body
        seen += [row["id"] for row in body["results"]]
        url = body["next"]
    assert len(seen) == len(set(seen)) == 7


def test_one_query_for_a_page(client: Client) -> None:
    for _ in range(5):
        an_open()
    with CaptureQueriesContext(connection) as queries:
        client.get(URL)
    assert len([query for query in queries if "experiments_experiment" in query["sql"]]) == 1


def test_a_token_needs_the_scope(client: Client) -> None:
    run = ExperimentFactory()
    user = UserFactory()
    join_team(user, run)
    lasts = timedelta(days=1)
    _, good = tokens.issue(user, scopes=["experiments:read"], lasts=lasts)
    _, other = tokens.issue(user, scopes=["me:read"], lasts=lasts)
    assert ids(client.get(URL, headers=bearer(good))) == {str(run.uid)}
    assert client.get(URL, headers=bearer(other)).status_code == 403
    assert client.get(URL, headers=bearer("nonsense")).status_code == 401


def test_nothing_can_be_written(client: Client) -> None:
    run = an_open()
    sign_in(client, UserFactory())
    for method in (client.post, client.put, client.patch, client.delete):
        assert method(f"{URL}/{run.uid}", content_type="application/json").status_code in (403, 405)
    assert client.post(URL).status_code in (403, 405)


def test_the_schema_names_the_filters(client: Client) -> None:
    answer = client.get("/api/v1/openapi.json", headers={"accept": "application/json"})
    listing = answer.json()["paths"]["/api/v1/experiments"]["get"]
    names = {parameter["name"] for parameter in listing["parameters"]}
    assert {"mine", "open", "instrument", "year", "text", "doi", "cursor", "limit"} <= names
