"""What people see of instances, and what strangers do not."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from auth.models import Session, User
from auth.roles import InstanceRole
from experiments.models import Experiment
from instances import views
from instances.lifecycle import State, Target
from instances.models import Instance, Member, Plan, Transition
from portal.lib.clock import Now
from tests.factories.auth import UserFactory, sign_in
from tests.factories.experiments import ExperimentFactory, ProposalFactory, join_team
from tests.factories.instances import FlavourFactory, HomeFactory, InstanceFactory, PlanFactory, QuotaFactory

GIB = 2**30
NEW = "/instances/new"
FRAGMENT = {"HX-Request": "true"}


@pytest.fixture
def browser(client: Client, alice: User) -> Client:
    sign_in(client, alice)
    return client


@pytest.fixture
def mine(alice: User, plan: Plan) -> Instance:
    return InstanceFactory(owner=alice, plan=plan, name="Lysozyme", state=State.ACTIVE)


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode())


def from_doi(*dois: str) -> str:
    return f"{NEW}?dois={quote(','.join(dois), safe='')}"


def choices(response: Any, name: str) -> dict[str, bool]:
    """The boxes of this name on a page: value → checked."""
    boxes = re.findall(
        rf'<input type="(?:checkbox|radio)" name="{name}" value="([^"]*)"([^>]*)>', response.content.decode()
    )
    return {value: "checked" in rest for value, rest in boxes}


def form_data(response: Any) -> dict[str, Any]:
    """What a browser sends when Start is pressed on this page."""
    page = response.content.decode()
    key = re.search(r'name="idempotency_key" value="([^"]+)"', page)
    name = re.search(r'<input id="name" name="name" value="([^"]*)"', page)
    assert key is not None
    assert name is not None
    return {
        "experiments": [value for value, checked in choices(response, "experiments").items() if checked],
        "plan": next(value for value, checked in choices(response, "plan").items() if checked),
        "name": name[1],
        "idempotency_key": key[1],
    }


# ---- from a link to the form ----


def test_all_experiments_of_the_doi_are_preselected(browser: Client, experiment: Experiment, plan: Plan) -> None:
    second = ExperimentFactory(pid="", proposal=experiment.proposal)
    response = browser.get(from_doi(experiment.proposal.pid))
    assert choices(response, "experiments") == {str(experiment.uid): True, str(second.uid): True}
    assert choices(response, "plan") == {plan.slug: True}
    assert experiment.proposal.identifier in form_data(response)["name"]


@pytest.mark.parametrize("dress", ["{}", "doi:{}", "https://doi.org/{}", "HTTPS://DOI.ORG/{}"])
def test_a_doi_is_found_in_any_dress(browser: Client, experiment: Experiment, plan: Plan, dress: str) -> None:
    response = browser.get(NEW, {"dois": dress.format(experiment.proposal.pid)})
    assert str(experiment.uid) in choices(response, "experiments")


def test_a_link_may_name_dois_and_proposals_in_commas_and_repeatedly(browser: Client) -> None:
    PlanFactory(image__provider__facility=None)
    runs = [ExperimentFactory(pid="", proposal=ProposalFactory(opened=True)) for _ in range(4)]
    pids = [run.proposal.pid for run in runs]
    query = f"dois={pids[0]},{pids[1]}&doi={pids[2]}&proposals={runs[3].proposal.identifier}"
    assert set(choices(browser.get(f"{NEW}?{query}"), "experiments")) == {str(run.uid) for run in runs}


def test_an_embargoed_record_reads_like_an_unknown_one(browser: Client, experiment: Experiment, plan: Plan) -> None:
    closed = ExperimentFactory(proposal=ProposalFactory(title="Secret study"), title="Secret run")
    response = browser.get(from_doi(experiment.proposal.pid, closed.proposal.pid, "10.5072/unknown"))
    page = text_of(response)
    assert set(choices(response, "experiments")) == {str(experiment.uid)}
    assert "Secret" not in page
    assert closed.proposal.pid in page
    assert "10.5072/unknown" in page


def test_a_link_with_nothing_one_may_see_leads_to_the_data(browser: Client, plan: Plan) -> None:
    page = text_of(browser.get(from_doi("10.5072/unknown")))
    assert "None of the records in this link is open to you" in page
    assert reverse("experiments:list") in page


def test_without_a_link_the_page_says_where_data_are_found(browser: Client, plan: Plan) -> None:
    assert "An instance is made for experiments" in text_of(browser.get(NEW))


def test_a_link_with_too_many_names_is_refused(browser: Client) -> None:
    response = browser.get(
        f"{NEW}?dois=" + ",".join(f"10.5072/{n}" for n in range(150)) + "".join(f"&doi={n}" for n in range(101))
    )
    assert response.status_code == 400
    assert "at most 100" in text_of(response)


def test_the_plan_in_a_link_is_preset(browser: Client, experiment: Experiment, plan: Plan) -> None:
    larger = PlanFactory(image=plan.image, position=5)
    response = browser.get(f"{NEW}?experiments={experiment.uid}&plan={larger.slug}")
    assert choices(response, "plan") == {plan.slug: False, larger.slug: True}
    assert choices(response, "experiments") == {str(experiment.uid): True}


def test_the_address_of_an_experiment_shows_nothing_of_a_closed_one(browser: Client, plan: Plan) -> None:
    closed = ExperimentFactory(title="Secret run")
    page = text_of(browser.get(f"{NEW}?experiments={closed.uid}"))
    assert "Secret run" not in page


def test_only_plans_of_the_datas_facility_are_offered(browser: Client, experiment: Experiment, plan: Plan) -> None:
    PlanFactory(name="Elsewhere")
    everywhere = PlanFactory(image__provider__facility=None)
    response = browser.get(from_doi(experiment.proposal.pid))
    assert set(choices(response, "plan")) == {plan.slug, everywhere.slug}


# ---- signed out ----


def test_signed_out_one_doi_goes_to_its_landing_page(client: Client, experiment: Experiment) -> None:
    response = client.get(from_doi(experiment.proposal.pid.upper()))
    assert response.status_code == 302
    assert response["Location"] == reverse("experiments:landing", kwargs={"pid": experiment.proposal.pid_norm})


def test_signed_out_an_unknown_doi_goes_the_same_way(client: Client, db: None) -> None:
    assert client.get(from_doi("10.5072/unknown"), follow=True).status_code == 404


def test_signed_out_a_malformed_doi_gets_the_search_box_filled_in(client: Client, db: None) -> None:
    response = client.get(from_doi("ten.5072-oops"))
    assert response.status_code == 400
    assert 'value="ten.5072-oops"' in text_of(response)


def test_signed_out_several_dois_are_named_found_or_not(client: Client, experiment: Experiment) -> None:
    closed = ProposalFactory(title="Secret study")
    address = from_doi(experiment.proposal.pid, closed.pid)
    page = text_of(client.get(address))
    assert experiment.proposal.title in page
    assert closed.pid in page
    assert "Secret study" not in page
    assert address.replace("&", "&amp;") in page  # Analyse comes back here


def test_signed_out_without_a_link_one_signs_in_first(client: Client, db: None) -> None:
    response = client.get(NEW)
    assert response.status_code == 302
    assert response["Location"] == f"{reverse('accounts:sign-in')}?next=%2Finstances%2Fnew"


# ---- Start ----


def test_one_click_starts_it(browser: Client, alice: User, experiment: Experiment, plan: Plan) -> None:
    address = from_doi(experiment.proposal.pid)
    response = browser.post(address, form_data(browser.get(address)))
    made = Instance.objects.get(owner=alice)
    assert response.status_code == 302
    assert response["Location"] == made.get_absolute_url()
    assert list(made.experiments.all()) == [experiment]


def test_a_double_click_makes_one_instance(browser: Client, alice: User, experiment: Experiment, plan: Plan) -> None:
    address = from_doi(experiment.proposal.pid)
    data = form_data(browser.get(address))
    first, second = browser.post(address, data), browser.post(address, data)
    assert Instance.objects.filter(owner=alice).count() == 1
    assert first["Location"] == second["Location"]


def test_an_old_form_whose_instance_was_deleted_comes_back_with_a_fresh_key(
    browser: Client, alice: User, experiment: Experiment, plan: Plan
) -> None:
    address = from_doi(experiment.proposal.pid)
    old = form_data(browser.get(address))
    browser.post(address, old)
    Instance.objects.update(state=State.DELETED, target=Target.DELETED)
    response = browser.post(address, old | {"name": "Second try"})
    assert response.status_code == 409
    assert "The instance that this request made has been deleted since." in text_of(response)
    assert "press Start again" in text_of(response)
    again = form_data(response)
    assert again["idempotency_key"] != old["idempotency_key"]
    assert (again["name"], again["experiments"]) == ("Second try", [str(experiment.uid)])
    made = browser.post(address, again)
    assert made.status_code == 302
    assert Instance.objects.alive().filter(owner=alice).count() == 1


def test_two_visits_make_two(browser: Client, alice: User, experiment: Experiment, plan: Plan) -> None:
    address = from_doi(experiment.proposal.pid)
    for _ in range(2):
        browser.post(address, form_data(browser.get(address)))
    assert Instance.objects.filter(owner=alice).count() == 2


def test_over_the_quota_the_form_comes_back_with_what_was_typed(
    browser: Client, alice: User, experiment: Experiment, plan: Plan
) -> None:
    QuotaFactory(limit=1)
    InstanceFactory(owner=alice, plan=plan, state=State.STOPPED)
    other = ExperimentFactory(pid="", proposal=experiment.proposal)
    address = from_doi(experiment.proposal.pid)
    shown = browser.get(address)
    assert "1 of 1 instance in use" in text_of(shown)
    assert "then start" not in text_of(shown)
    data = form_data(shown) | {"name": "My own name", "experiments": [str(other.uid)]}
    response = browser.post(address, data)
    assert response.status_code == 409
    assert "quota" in text_of(response)
    assert form_data(response) == data
    assert choices(response, "experiments") == {str(experiment.uid): False, str(other.uid): True}


def test_choosing_none_is_refused_with_the_form(browser: Client, experiment: Experiment, plan: Plan) -> None:
    address = from_doi(experiment.proposal.pid)
    response = browser.post(address, form_data(browser.get(address)) | {"experiments": []})
    assert response.status_code == 400
    assert "Choose at least one experiment" in text_of(response)
    assert Instance.objects.count() == 0


@pytest.mark.parametrize("field", ["plan", "name", "idempotency_key"])
def test_a_missing_field_makes_nothing(browser: Client, experiment: Experiment, plan: Plan, field: str) -> None:
    address = from_doi(experiment.proposal.pid)
    data = form_data(browser.get(address))
    del data[field]
    assert browser.post(address, data).status_code == 400
    assert Instance.objects.count() == 0


def test_a_closed_experiment_cannot_be_smuggled_in(browser: Client, experiment: Experiment, plan: Plan) -> None:
    closed = ExperimentFactory()
    address = from_doi(experiment.proposal.pid)
    data = form_data(browser.get(address))
    response = browser.post(address, data | {"experiments": [str(closed.uid)]})
    assert response.status_code == 400
    assert Instance.objects.count() == 0


def test_a_plan_that_is_no_longer_offered_is_refused(browser: Client, experiment: Experiment, plan: Plan) -> None:
    address = from_doi(experiment.proposal.pid)
    data = form_data(browser.get(address))
    withdrawn = PlanFactory(image=plan.image, enabled=False)
    response = browser.post(address, data | {"plan": withdrawn.slug})
    assert response.status_code == 400
    assert "no longer offered" in text_of(response)


def test_a_form_without_the_token_of_this_session_is_refused(alice: User, experiment: Experiment, plan: Plan) -> None:
    strict = Client(enforce_csrf_checks=True)
    sign_in(strict, alice)
    address = from_doi(experiment.proposal.pid)
    assert strict.post(address, form_data(strict.get(address))).status_code == 403
    assert Instance.objects.count() == 0


def test_experiments_of_two_facilities_come_back_with_a_sentence(
    browser: Client, experiment: Experiment, plan: Plan
) -> None:
    elsewhere = ExperimentFactory(pid="", proposal=ProposalFactory(opened=True))
    address = from_doi(experiment.proposal.pid, elsewhere.proposal.pid)
    response = browser.post(address, form_data(browser.get(address)))
    assert response.status_code == 400
    assert "one facility" in text_of(response)


# ---- list and instance ----


def test_an_empty_list_says_what_to_do(browser: Client) -> None:
    page = text_of(browser.get("/instances/"))
    assert "No instances yet" in page
    assert reverse("experiments:list") in page


def test_the_list_holds_mine_only_and_pages_without_counting(
    browser: Client, alice: User, plan: Plan, bob: User
) -> None:
    mine = [InstanceFactory(owner=alice, plan=plan, name=f"mine {n:02}") for n in range(25)]
    InstanceFactory(owner=bob, plan=plan, name="Bob's own")
    first = browser.get("/instances/")
    assert "Bob's own" not in text_of(first)
    assert f"after={mine[5].uid}" in text_of(first)
    second = text_of(browser.get(f"/instances/?after={mine[5].uid}"))
    assert [name for name in (i.name for i in mine) if f">{name}<" in second] == [f"mine {n:02}" for n in range(5)]


def test_the_place_in_the_list_tells_nothing_of_others(browser: Client, alice: User, plan: Plan, bob: User) -> None:
    InstanceFactory(owner=alice, plan=plan, name="older")
    theirs = InstanceFactory(owner=bob, plan=plan)
    assert "No older instances" in text_of(browser.get(f"/instances/?after={theirs.uid}"))


def test_open_is_a_plain_link_to_the_instances_own_origin(browser: Client, mine: Instance) -> None:
    page = browser.get(mine.get_absolute_url()).content.decode()
    address = f"http://{mine.slug}.{settings.APPS_DOMAIN}/lab/tree/Welcome.ipynb"
    assert re.search(rf'<a id="open" [^>]*href="{re.escape(address)}"', page)
    assert not re.search(r"<form[^>]*apps\.", page)
    assert 'target="_blank"' not in page


@pytest.mark.parametrize(
    ("state", "target", "offered"),
    [
        (State.STARTING, Target.ACTIVE, {"stop", "delete"}),
        (State.ACTIVE, Target.ACTIVE, {"open", "stop", "reboot", "delete"}),
        (State.UNAVAILABLE, Target.ACTIVE, {"open", "stop", "reboot", "delete"}),
        (State.STOPPED, Target.STOPPED, {"start", "delete"}),
        (State.STOPPING, Target.STOPPED, {"delete"}),
        (State.ERROR, Target.ACTIVE, {"retry", "delete"}),
        (State.DELETING, Target.DELETED, set()),
    ],
)
def test_each_state_offers_what_fits(
    browser: Client, alice: User, plan: Plan, state: State, target: Target, offered: set[str]
) -> None:
    instance = InstanceFactory(owner=alice, plan=plan, state=state, target=target)
    page = browser.get(instance.get_absolute_url()).content.decode()
    found = set(re.findall(r'<(?:a|button) id="(open|start|stop|reboot|retry|delete)"', page))
    assert found == offered


def test_progress_names_what_each_step_waits_for(browser: Client, alice: User, plan: Plan) -> None:
    instance = InstanceFactory(owner=alice, plan=plan, state=State.STARTING)
    page = text_of(browser.get(instance.get_absolute_url()))
    assert re.findall(r'class="step step-(\w+)"', page) == ["done", "done", "now", "ahead"]
    assert "waiting for JupyterLab to answer" in page


def test_a_failure_says_where_why_and_what_to_do(browser: Client, alice: User, plan: Plan) -> None:
    instance = InstanceFactory(
        owner=alice, plan=plan, state=State.ERROR, reason="deadline", log="[E] cannot bind <script>"
    )
    Transition.objects.create(instance=instance, old=State.BUILDING, new=State.ERROR, target="active", event="step")
    page = text_of(browser.get(instance.get_absolute_url()))
    assert re.findall(r'class="step step-(\w+)"', page) == ["done", "failed", "ahead", "ahead"]
    assert "It took too long" in page
    assert "cannot bind &lt;script&gt;" in page
    assert 'id="retry"' in page


def test_out_of_memory_leads_to_the_next_larger_plan(
    browser: Client, alice: User, plan: Plan, experiment: Experiment
) -> None:
    larger = PlanFactory(
        name="Large", image=plan.image, flavour=FlavourFactory(provider=plan.image.provider, memory=4 * GIB)
    )
    instance = InstanceFactory(owner=alice, plan=plan, state=State.STOPPED, target="stopped", reason="out-of-memory")
    instance.experiments.add(experiment)
    page = text_of(browser.get(instance.get_absolute_url()))
    assert "memory" in page
    assert f"{NEW}?experiments={experiment.uid}&amp;plan={larger.slug}" in page
    assert "4 GiB" in page


def test_a_stranger_finds_nothing(client: Client, mine: Instance, bob: User) -> None:
    sign_in(client, bob)
    unknown = f"/instances/{uuid.uuid4()}/"
    for verb in ("", "start/", "stop/", "reboot/", "retry/", "delete/"):
        ask = client.get if verb in ("", "delete/") else client.post
        known, nothing = ask(mine.get_absolute_url() + verb), ask(unknown + verb)
        assert known.status_code == nothing.status_code == 404
        assert mine.name not in known.content.decode()
    assert client.post(f"{mine.get_absolute_url()}delete/").status_code == 404
    mine.refresh_from_db()
    assert mine.target == Target.ACTIVE


def test_verbs_are_no_links(browser: Client, mine: Instance) -> None:
    for verb in ("start", "stop", "reboot", "retry"):
        assert browser.get(f"{mine.get_absolute_url()}{verb}/").status_code == 405


def test_a_guest_sees_and_may_do_nothing(client: Client, mine: Instance, bob: User) -> None:
    Member.objects.create(instance=mine, user=bob, role=InstanceRole.GUEST)
    sign_in(client, bob)
    page = client.get(mine.get_absolute_url()).content.decode()
    assert not re.findall(r'<(?:a|button) id="(open|start|stop|reboot|retry|delete)"', page)
    response = client.post(f"{mine.get_absolute_url()}stop/", follow=True)
    assert "Your role does not allow this" in text_of(response)
    mine.refresh_from_db()
    assert mine.target == Target.ACTIVE


def test_stop_and_start_come_back_to_the_page(browser: Client, mine: Instance) -> None:
    response = browser.post(f"{mine.get_absolute_url()}stop/", follow=True)
    assert response.redirect_chain == [(mine.get_absolute_url(), 302)]
    assert "its files stay" in text_of(response)
    mine.refresh_from_db()
    assert mine.target == Target.STOPPED


def test_a_verb_that_does_not_fit_says_so_on_the_page(browser: Client, mine: Instance) -> None:
    page = text_of(browser.post(f"{mine.get_absolute_url()}retry/", follow=True))
    assert "Only an error can be retried" in page


def test_delete_asks_first_and_says_that_the_home_stays(browser: Client, mine: Instance) -> None:
    assert "Your home stays" in text_of(browser.get(f"{mine.get_absolute_url()}delete/"))
    mine.refresh_from_db()
    assert mine.target == Target.ACTIVE
    response = browser.post(f"{mine.get_absolute_url()}delete/", follow=True)
    assert response.redirect_chain == [("/instances/", 302)]
    mine.refresh_from_db()
    assert mine.target == Target.DELETED


def test_titles_of_closed_experiments_stay_hidden_from_members(
    client: Client, mine: Instance, alice: User, bob: User
) -> None:
    closed = ExperimentFactory(title="Secret run")
    join_team(alice, closed)
    mine.experiments.add(closed)
    Member.objects.create(instance=mine, user=bob, role=InstanceRole.USER)
    sign_in(client, bob)
    page = text_of(client.get(mine.get_absolute_url()))
    assert "Secret run" not in page
    assert "1 experiment of this instance is not open to you" in page
    sign_in(client, alice)
    assert "Secret run" in text_of(client.get(mine.get_absolute_url()))


# ---- fragments ----


def test_a_fragment_is_a_part_of_its_page(browser: Client, mine: Instance) -> None:
    for address in ("/instances/", mine.get_absolute_url()):
        part = browser.get(address, headers=FRAGMENT)
        assert "<html" not in part.content.decode()
        assert mine.name in browser.get(address).content.decode()
    assert 'id="progress"' in part.content.decode()


def test_a_fragment_of_a_deleted_instance_sends_its_page_to_the_list(browser: Client, mine: Instance) -> None:
    Instance.objects.filter(pk=mine.pk).update(state=State.DELETED, target=Target.DELETED)
    response = browser.get(mine.get_absolute_url(), headers=FRAGMENT)
    assert (response.status_code, response["HX-Redirect"]) == (204, "/instances/")


def test_a_fragment_for_somebody_signed_out_reloads_its_page(client: Client, mine: Instance) -> None:
    response = client.get(mine.get_absolute_url(), headers=FRAGMENT)
    assert (response.status_code, response["HX-Refresh"]) == (204, "true")
    assert response.content == b""


def test_a_page_that_refreshes_itself_keeps_no_session_alive(client: Client, alice: User, mine: Instance) -> None:
    session = sign_in(client, alice)
    Session.objects.filter(pk=session.pk).update(last_used_at=Now() - timedelta(minutes=30))
    used = Session.objects.get(pk=session.pk).last_used_at
    client.get(mine.get_absolute_url(), headers=FRAGMENT)
    assert Session.objects.get(pk=session.pk).last_used_at == used
    client.get(mine.get_absolute_url())
    assert Session.objects.get(pk=session.pk).last_used_at > used


def test_signed_out_a_verb_comes_back_to_the_instance(client: Client, mine: Instance) -> None:
    response = client.post(f"{mine.get_absolute_url()}stop/")
    assert response["Location"] == f"{reverse('accounts:sign-in')}?next={quote(mine.get_absolute_url(), safe='')}"


def test_pages_cost_the_same_however_much_they_show(
    browser: Client, alice: User, plan: Plan, experiment: Experiment, django_assert_max_num_queries: Any
) -> None:
    proposal = experiment.proposal
    runs = [ExperimentFactory(pid="", proposal=proposal, instrument=experiment.instrument) for _ in range(30)]
    for n in range(views.PAGE_SIZE):
        instance = InstanceFactory(owner=alice, plan=plan, state=State.ACTIVE, name=f"i{n}")
        instance.experiments.set(runs)
    for address in ("/instances/", instance.get_absolute_url(), from_doi(proposal.pid)):
        browser.get(address)
        with django_assert_max_num_queries(14):
            browser.get(address)


# ---- homes ----


def test_the_account_page_shows_the_home_and_how_full_it_is(browser: Client, alice: User) -> None:
    HomeFactory(user=alice, used=3 * GIB, limit=10 * GIB)
    page = text_of(browser.get(reverse("accounts:account")))
    assert "3 GiB of 10 GiB used" in page
    assert "<meter" in page


def test_a_home_is_deleted_only_by_a_word_typed_out(browser: Client, alice: User) -> None:
    home = HomeFactory(user=alice)
    address = reverse("instances:home-delete", args=[home.key])
    assert f"Type <code>{home.facility.slug}</code>" in text_of(browser.get(address))
    assert browser.post(address, {"confirmation": "yes"}).status_code == 400
    assert alice.homes.count() == 1
    assert browser.post(address, {"confirmation": home.facility.slug})["Location"] == reverse("accounts:account")
    assert alice.homes.count() == 0


def test_a_home_in_use_is_kept_and_the_page_names_the_instance(browser: Client, alice: User, plan: Plan) -> None:
    home = HomeFactory(user=alice, provider=plan.image.provider)
    InstanceFactory(owner=alice, plan=plan, home=home, name="Lysozyme", state=State.STOPPED)
    address = reverse("instances:home-delete", args=[home.key])
    assert "Lysozyme" in text_of(browser.get(address))
    response = browser.post(address, {"confirmation": home.facility.slug})
    assert response.status_code == 409
    assert alice.homes.count() == 1


def test_anothers_home_is_no_page(browser: Client, bob: User) -> None:
    home = HomeFactory(user=bob)
    address = reverse("instances:home-delete", args=[home.key])
    assert browser.get(address).status_code == 404
    assert browser.post(address, {"confirmation": home.facility.slug}).status_code == 404
    assert bob.homes.count() == 1


def test_a_guest_learns_nothing_of_the_owners_other_things(client: Client, db: None) -> None:
    """The home and what else runs on it are the owner's business."""
    home = HomeFactory(used=2**30)
    shown = InstanceFactory(owner=home.user, home=home, state=State.ACTIVE)
    other = InstanceFactory(owner=home.user, home=home, state=State.ACTIVE, name="Something private")
    guest = UserFactory()
    Member.objects.create(instance=shown, user=guest, role=InstanceRole.GUEST)
    sign_in(client, guest)
    page = client.get(shown.get_absolute_url()).text
    assert other.name not in page
    assert str(other.uid) not in page
    assert "1 GiB of" not in page
    assert "Its owner opens and changes it" in page
    sign_in(client, home.user)
    page = client.get(shown.get_absolute_url()).text
    assert other.name in page
    assert "1 GiB of" in page
