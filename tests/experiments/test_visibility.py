"""Who sees an experiment. The SQL and the Python predicate are compared on random data."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection

from experiments.models import Experiment, Proposal
from experiments.visibility import (
    announced_proposals,
    is_announced,
    is_open,
    is_open_experiment,
    open_experiments,
    open_proposals,
)
from portal.lib import clock
from tests.factories.auth import FacilityFactory, UserFactory
from tests.factories.experiments import ExperimentFactory, ProposalFactory, join_team, leave_team

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
AT = datetime(2024, 3, 31, 1, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
#: before, at and after the moment, also as other zones write them, across the change to summer time and midnight
MOMENTS = [
    None,
    AT,
    AT - timedelta(microseconds=1),
    AT + timedelta(microseconds=1),
    datetime(2024, 3, 31, 3, 0, tzinfo=BERLIN),
    datetime(2024, 3, 31, 0, 0, tzinfo=BERLIN),
    datetime(2024, 4, 1, 0, 0, tzinfo=BERLIN),
    datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2999, 1, 1, tzinfo=UTC),
]


def seen_by(user: object) -> set[int]:
    return set(Experiment.objects.visible_to(user).values_list("pk", flat=True))


class TestThePredicates:
    def test_sql_and_python_agree_on_random_data(self) -> None:
        dice = random.Random(700000)
        facilities = [
            FacilityFactory(slug=f"f{n}", open_data_enabled=n % 2 == 0, embargoed_metadata=policy)
            for n, policy in enumerate(["none", "landing", "landing", "none"])
        ]
        for _ in range(400):
            proposal = ProposalFactory(
                facility=dice.choice(facilities),
                embargo_until=dice.choice(MOMENTS),
                released_at=dice.choice(MOMENTS),
                withdrawn_at=dice.choice([None, None, *MOMENTS]),
                release_policy=dice.choice(["auto", "manual", "never"]),
                proprietary=dice.random() < 0.2,
            )
            ExperimentFactory(proposal=proposal, released_at=dice.choice([None, None, *MOMENTS]))
        proposals = Proposal.objects.select_related("facility")
        runs = Experiment.objects.select_related("proposal__facility")
        by_sql = set(Proposal.objects.filter(open_proposals(AT)).values_list("pk", flat=True))
        assert by_sql == {p.pk for p in proposals if is_open(p, AT)}
        assert 0 < len(by_sql) < 400
        runs_by_sql = set(Experiment.objects.filter(open_experiments(AT)).values_list("pk", flat=True))
        assert runs_by_sql == {run.pk for run in runs if is_open_experiment(run, AT)}
        announced = set(Proposal.objects.filter(announced_proposals(AT)).values_list("pk", flat=True))
        assert announced == {p.pk for p in proposals if is_announced(p, AT)}
        assert announced

    def test_missing_dates_and_never_do_not_open(self) -> None:
        for policy in ("auto", "manual", "never"):
            ExperimentFactory(proposal=ProposalFactory(release_policy=policy, embargo_until=None, released_at=None))
        for policy in ("manual", "never"):
            past = clock.now() - timedelta(days=1)
            ExperimentFactory(proposal=ProposalFactory(release_policy=policy, embargo_until=past))
        assert seen_by(NOBODY) == set()

    def test_an_embargo_ends_to_the_second_in_any_zone(self) -> None:
        end = datetime(2024, 1, 1, 0, 0, tzinfo=BERLIN)
        proposal = ProposalFactory(embargo_until=end)
        for moment, opened in ((end - timedelta(seconds=1), False), (end, True)):
            assert Proposal.objects.filter(open_proposals(moment), pk=proposal.pk).exists() is opened
            assert is_open(proposal, moment.astimezone(UTC)) is opened

    @pytest.mark.parametrize("bar", [{"withdrawn_at": datetime(2020, 1, 1, tzinfo=UTC)}, {"proprietary": True}])
    def test_what_is_withdrawn_or_proprietary_is_not_open(self, bar: dict[str, object]) -> None:
        run = ExperimentFactory(
            proposal=ProposalFactory(opened=True, **bar), released_at=datetime(2020, 1, 1, tzinfo=UTC)
        )
        assert seen_by(NOBODY) == set()
        member = UserFactory()
        join_team(member, run)
        assert seen_by(member) == {run.pk}

    def test_a_facility_without_open_data_shows_none(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True))
        assert seen_by(NOBODY) == {run.pk}
        run.proposal.facility.open_data_enabled = False
        run.proposal.facility.save()
        assert seen_by(NOBODY) == set()

    def test_the_databases_clock_decides(self) -> None:
        """A release a moment ahead of PostgreSQL's own time is closed, whatever this process believes."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp() + interval '1 hour'")
            soon = cursor.fetchone()[0]
        ExperimentFactory(proposal=ProposalFactory(released_at=soon))
        assert seen_by(NOBODY) == set()


class TestTeams:
    def test_a_member_sees_what_is_under_embargo_and_a_stranger_does_not(self) -> None:
        run, other = ExperimentFactory(), ExperimentFactory()
        member, stranger = UserFactory(), UserFactory()
        join_team(member, run)
        join_team(stranger, other)
        assert seen_by(member) == {run.pk}
        assert seen_by(stranger) == {other.pk}
        assert set(Proposal.objects.visible_to(stranger)) == {other.proposal}

    def test_a_member_of_one_run_does_not_see_the_others_of_the_proposal(self) -> None:
        mine = ExperimentFactory()
        ExperimentFactory(proposal=mine.proposal)
        member = UserFactory()
        join_team(member, mine)
        assert seen_by(member) == {mine.pk}

    def test_a_removed_member_loses_access_at_once(self) -> None:
        run = ExperimentFactory()
        member = UserFactory()
        join_team(member, run)
        leave_team(member, run)
        assert seen_by(member) == set()
        assert not Proposal.objects.visible_to(member).exists()

    def test_a_person_who_is_untied_loses_access_at_once(self) -> None:
        run = ExperimentFactory()
        member = UserFactory()
        person = join_team(member, run)
        person.user = None
        person.save()
        assert seen_by(member) == set()

    def test_open_experiments_without_a_team_are_seen_by_everybody(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True))
        assert seen_by(NOBODY) == seen_by(UserFactory()) == {run.pk}

    def test_somebody_without_any_experiment_sees_open_ones(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True))
        ExperimentFactory()
        assert seen_by(UserFactory()) == {run.pk}

    def test_a_team_of_many_does_not_repeat_the_experiment(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True))
        users = UserFactory.create_batch(3)
        for user in users:
            join_team(user, run)
        assert list(Experiment.objects.visible_to(users[0])) == [run]


class TestRemovedAndReleasedRuns:
    def test_a_removed_experiment_is_hidden_from_everybody(self) -> None:
        run = ExperimentFactory(proposal=ProposalFactory(opened=True), removed_at=clock.now())
        member = UserFactory()
        join_team(member, run)
        assert seen_by(NOBODY) == seen_by(member) == set()
        assert not Experiment.objects.open().exists()
        assert not Experiment.objects.of(member).exists()

    def test_a_run_released_by_itself_shows_itself_and_its_proposal_but_no_other_run(self) -> None:
        run = ExperimentFactory(released_at=clock.now() - timedelta(days=1))
        ExperimentFactory(proposal=run.proposal)
        assert seen_by(NOBODY) == {run.pk}
        assert list(Proposal.objects.visible_to(NOBODY)) == [run.proposal]
        assert not Proposal.objects.open().exists()

    def test_an_open_proposal_without_runs_is_visible(self) -> None:
        proposal = ProposalFactory(opened=True)
        assert list(Proposal.objects.visible_to(NOBODY)) == [proposal]
