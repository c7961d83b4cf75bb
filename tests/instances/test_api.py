"""The API: the same rules as the pages, strict about what comes in, silent about what one may not see."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
from django.test import Client

from auth import tokens
from auth.roles import InstanceRole
from instances import services
from instances.models import Instance, Member
from tests.factories.auth import bearer, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory
from tests.factories.instances import QuotaFactory
from tests.instances.conftest import settle

URL = "/api/v1/instances"


class Api:
    """A client with a token."""

    def __init__(self, user, *scopes):
        _, text = tokens.issue(user, scopes=scopes or ["instances:read", "instances:write"], lasts=timedelta(hours=1))
        self.client, self.headers = Client(), bearer(text)

    def get(self, path):
        return self.client.get(path, headers=self.headers)

    def delete(self, path):
        return self.client.delete(path, headers=self.headers)

    def post(self, path, body=None, headers=None):
        body = body if isinstance(body, str) else json.dumps(body or {})
        return self.client.post(path, body, content_type="application/json", headers=self.headers | (headers or {}))


@pytest.fixture
def api(alice):
    return Api(alice)


@pytest.fixture
def body(plan, experiment):
    return {"plan": plan.slug, "experiments": [str(experiment.uid)], "name": "analysis"}


def test_an_instance_is_made_and_says_where_it_is(api, body, alice, settings):
    answer = api.post(URL, body)
    assert answer.status_code == 201
    made = answer.json()
    assert (made["state"], made["target"], made["name"]) == ("requested", "active", "analysis")
    assert made["experiments"] == body["experiments"]
    assert made["url"] == f"{settings.PORTAL_URL}/instances/{made['id']}/"
    assert answer.headers["Location"] == made["url"]
    assert made["open_url"] is None
    assert Instance.objects.get(uid=made["id"]).owner == alice


def test_no_primary_key_leaves_the_database(api, body):
    made = api.post(URL, body).json()
    uuid.UUID(made["id"])
    assert set(made) == {
        *("id", "name", "state", "target", "reason", "detail", "plan", "facility", "experiments"),
        *("created_at", "state_changed_at", "url", "open_url", "measured"),
    }


def test_an_idempotency_key_makes_one(api, body):
    first = api.post(URL, body, headers={"Idempotency-Key": "abc"}).json()
    assert api.post(URL, body, headers={"Idempotency-Key": "abc"}).json()["id"] == first["id"]
    assert api.post(URL, body, headers={"Idempotency-Key": "x" * 65}).status_code == 400
    assert Instance.objects.count() == 1


def test_the_key_of_a_deleted_instance_is_used_up(api, body):
    first = api.post(URL, body, headers={"Idempotency-Key": "abc"}).json()
    Instance.objects.filter(uid=first["id"]).update(state="deleted", target="deleted")
    answer = api.post(URL, body, headers={"Idempotency-Key": "abc"})
    assert answer.status_code == 409
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "key-used"
    assert "deleted" in problem["title"]
    assert "new idempotency key" in problem["detail"]
    assert Instance.objects.count() == 1
    assert api.post(URL, body, headers={"Idempotency-Key": "abd"}).status_code == 201


@pytest.mark.parametrize("extra", ["owner", "state", "target", "provider", "id", "ref", "nmae"])
def test_a_field_that_is_not_known_is_refused_by_name(api, body, extra):
    answer = api.post(URL, body | {extra: "x"})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert extra in answer.json()["errors"]
    assert not Instance.objects.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan": "no-such-plan"},
        {"plan": None},
        {"plan": {"a": 1}},
        {"experiments": "all"},
        {"experiments": [1]},
        {"experiments": [None]},
        {"experiments": [str(uuid.UUID(int=1))] * 501},
        {"name": ""},
        {"name": "x" * 101},
        {"name": "nul\x00"},
        {"name": ["a"]},
    ],
)
def test_a_wrong_value_is_a_problem_with_its_field(api, body, wrong):
    answer = api.post(URL, body | wrong)
    assert answer.status_code == 400
    assert next(iter(wrong)) in answer.json()["errors"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "1", '{"plan": NaN}', "\x00", '{"name": "\\ud800"}'])
def test_a_body_that_cannot_be_read_is_a_problem_not_a_crash(api, text):
    assert api.post(URL, text).status_code == 400


def test_an_experiment_that_is_hidden_answers_like_one_that_is_not_there(api, body, facility):
    hidden = ExperimentFactory(pid="", proposal=ProposalFactory(facility=facility))

    def answer_for(uid):
        answer = api.post(URL, body | {"experiments": [str(uid)]})
        assert answer.status_code == 404
        return {key: value for key, value in answer.json().items() if key != "request_id"}

    assert answer_for(hidden.uid) == answer_for(uuid.uuid4())


def test_over_quota_is_a_problem_with_its_code(api, body):
    QuotaFactory(limit=1)
    api.post(URL, body)
    answer = api.post(URL, body)
    assert (answer.status_code, answer.json()["code"]) == (409, "quota-exceeded")


def test_the_list_shows_ones_own_and_shared_ones_only(api, request_one, bob, alice):
    mine, theirs, shared = request_one(), request_one(user=bob), request_one(user=bob)
    Member.objects.create(instance=shared, user=alice, role=InstanceRole.GUEST)
    listed = [row["id"] for row in api.get(URL).json()["results"]]
    assert listed == [str(shared.uid), str(mine.uid)]
    assert api.get(f"{URL}/{theirs.uid}").status_code == 404


def test_the_list_costs_the_same_for_one_and_for_many(api, request_one, django_assert_max_num_queries):
    for _ in range(6):
        request_one()
    with django_assert_max_num_queries(8):
        assert len(api.get(URL).json()["results"]) == 6


def test_a_member_sees_only_the_experiments_they_may_see(active, bob, facility, alice):
    hidden = ExperimentFactory(pid="", proposal=ProposalFactory(facility=facility))
    active.experiments.add(hidden)
    Member.objects.create(instance=active, user=bob, role=InstanceRole.USER)
    shown = Api(bob).get(f"{URL}/{active.uid}").json()["experiments"]
    assert str(hidden.uid) not in shown
    assert len(shown) == 1


@pytest.mark.parametrize("verb", ["start", "stop", "reboot", "retry"])
def test_a_strangers_verb_is_the_same_404_as_for_nothing(active, bob, verb):
    api = Api(bob)
    theirs, none = api.post(f"{URL}/{active.uid}/{verb}"), api.post(f"{URL}/{uuid.uuid4()}/{verb}")
    assert theirs.status_code == none.status_code == 404
    assert theirs.json()["title"] == none.json()["title"]
    assert api.delete(f"{URL}/{active.uid}").status_code == 404


def test_stop_start_and_delete(api, active):
    assert active.state == "active"
    assert api.get(f"{URL}/{active.uid}").json()["open_url"]
    assert api.post(f"{URL}/{active.uid}/stop").json()["target"] == "stopped"
    assert api.post(f"{URL}/{active.uid}/start").json()["target"] == "active"
    answer = api.delete(f"{URL}/{active.uid}")
    assert (answer.status_code, answer.json()["target"]) == (202, "deleted")


def test_what_a_worker_has_deleted_before_the_answer_is_still_an_answer(api, active, monkeypatch):
    delete = services.delete

    def delete_at_once(instance, by):
        delete(instance, by=by)
        settle(instance)

    monkeypatch.setattr(services, "delete", delete_at_once)
    answer = api.delete(f"{URL}/{active.uid}")
    assert (answer.status_code, answer.json()["state"]) == (202, "deleted")


def test_a_verb_that_does_not_fit_is_a_conflict(api, active):
    answer = api.post(f"{URL}/{active.uid}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "not-now")


def test_a_verb_takes_no_fields(api, active):
    assert api.post(f"{URL}/{active.uid}/stop", {"force": True}).status_code == 400
    active.refresh_from_db()
    assert active.target == "active"


def test_a_token_does_only_what_its_scopes_say(alice, body, active):
    reader = Api(alice, "instances:read")
    assert reader.get(URL).status_code == 200
    assert reader.post(URL, body).status_code == 403
    assert reader.delete(f"{URL}/{active.uid}").status_code == 403
    stranger = Api(alice, "me:read")
    assert stranger.get(URL).status_code == 403
    assert stranger.get("/api/v1/plans").status_code == 403


@pytest.mark.parametrize("path", [URL, "/api/v1/plans", f"{URL}/{uuid.UUID(int=7)}"])
def test_without_signing_in_there_is_nothing(client, path, db):
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.json()["code"] == "not-signed-in"


def test_a_session_needs_the_csrf_token(alice, body):
    client = Client(enforce_csrf_checks=True)
    sign_in(client, alice)
    assert client.get(URL).status_code == 200
    assert client.post(URL, json.dumps(body), content_type="application/json").status_code == 403
    assert not Instance.objects.exists()


def test_plans_are_listed_with_their_sizes(api, plan):
    (row,) = api.get("/api/v1/plans").json()
    assert (row["slug"], row["cores"], row["memory"]) == (plan.slug, 1.0, 2**30)


def test_the_description_of_the_api_names_it_all(client, db):
    paths = client.get("/api/v1/openapi.json", headers={"Accept": "application/json"}).json()["paths"]
    for path in ("instances", "instances/{uid}", "instances/{uid}/start", "plans"):
        assert f"/api/v1/{path}" in paths
    assert {"get", "post"} <= set(paths["/api/v1/instances"])
