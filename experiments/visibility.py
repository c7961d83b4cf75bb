"""Who may see an experiment: one SQL predicate and one Python predicate, proven equal by a test.

Visible = in the team, or open. Open = not withdrawn, not proprietary, open data enabled at the facility, and released
by policy or by an act (embargo over and open are two dates).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.expressions import Combinable

from portal.lib.clock import Now

if TYPE_CHECKING:
    from auth.models import User
    from experiments.models import Experiment, Proposal

Moment = datetime | Combinable


# ---- in SQL ----
def _may_open(at: Moment, prefix: str) -> Q:
    """Nothing forbids opening: what is withdrawn, proprietary or at a facility without open data never opens."""
    return (
        (Q(**{f"{prefix}withdrawn_at__isnull": True}) | Q(**{f"{prefix}withdrawn_at__gt": at}))
        & Q(**{f"{prefix}proprietary": False})
        & Q(**{f"{prefix}facility__open_data_enabled": True})
    )


def _released(at: Moment, prefix: str) -> Q:
    """The embargo ended by itself, or somebody released it; a missing date never compares as true."""
    return Q(**{f"{prefix}release_policy": "auto", f"{prefix}embargo_until__lte": at}) | Q(
        **{f"{prefix}released_at__lte": at}
    )


def open_proposals(at: Moment) -> Q:
    return _may_open(at, "") & _released(at, "")


def open_experiments(at: Moment) -> Q:
    """An experiment opens with its proposal, or earlier by its own release."""
    return _may_open(at, "proposal__") & (_released(at, "proposal__") | Q(released_at__lte=at))


def announced_proposals(at: Moment) -> Q:
    """Closed ones whose facility shows their metadata: an embargo that is meant to end, and nothing withdrawn.

    Without a day on which it opens by itself, and without somebody who is to open it, there is no embargo to announce.
    """
    return (
        _may_open(at, "")
        & Q(facility__embargoed_metadata="landing")
        & (Q(release_policy="manual") | Q(release_policy="auto", embargo_until__isnull=False))
    )


class ProposalQuerySet(models.QuerySet[Any]):
    def open(self) -> Self:
        return self.filter(open_proposals(Now()))

    def visible_to(self, user: User | Any) -> Self:
        """Proposals with something to see: open ones, and those with an experiment that this user may see."""
        from experiments.models import Experiment

        seen = Experiment.objects.visible_to(user).filter(proposal=OuterRef("pk"))
        return self.filter(open_proposals(Now()) | Exists(seen))

    def announced(self) -> Self:
        """Proposals whose metadata everybody may read although they are under embargo (facility's policy)."""
        return self.filter(announced_proposals(Now()))


class ExperimentQuerySet(models.QuerySet[Any]):
    def open(self) -> Self:
        return self.filter(open_experiments(Now()), removed_at__isnull=True)

    def of(self, user: User | Any) -> Self:
        """Experiments whose team the user is in now."""
        from experiments.models import TeamMember

        if not user.is_authenticated:
            return self.none()
        member = TeamMember.objects.filter(experiment=OuterRef("pk"), person__user=user.pk)
        return self.filter(Exists(member), removed_at__isnull=True)

    def visible_to(self, user: User | Any) -> Self:
        """Open experiments, and those the user took part in; an anonymous user sees the open ones.

        Written with EXISTS: a join with the team would lose open experiments that have none, and repeat others.
        """
        from experiments.models import TeamMember

        seen = open_experiments(Now())
        if user.is_authenticated:
            seen |= Q(Exists(TeamMember.objects.filter(experiment=OuterRef("pk"), person__user=user.pk)))
        return self.filter(seen, removed_at__isnull=True)


# ---- in Python, for a row at hand ----
def _reached(moment: datetime | None, at: datetime) -> bool:
    return moment is not None and moment <= at


def _is_free(proposal: Proposal, at: datetime) -> bool:
    return not _reached(proposal.withdrawn_at, at) and not proposal.proprietary and proposal.facility.open_data_enabled


def _is_released(proposal: Proposal, at: datetime) -> bool:
    ended = proposal.release_policy == "auto" and _reached(proposal.embargo_until, at)
    return ended or _reached(proposal.released_at, at)


def is_open(proposal: Proposal, at: datetime) -> bool:
    """The same as `open_proposals`."""
    return _is_free(proposal, at) and _is_released(proposal, at)


def is_open_experiment(experiment: Experiment, at: datetime) -> bool:
    """The same as `ExperimentQuerySet.open`."""
    released = _is_released(experiment.proposal, at) or _reached(experiment.released_at, at)
    return experiment.removed_at is None and _is_free(experiment.proposal, at) and released


def is_announced(proposal: Proposal, at: datetime) -> bool:
    """The same as `announced_proposals`."""
    meant_to_end = proposal.release_policy == "manual" or (
        proposal.release_policy == "auto" and proposal.embargo_until is not None
    )
    return _is_free(proposal, at) and proposal.facility.embargoed_metadata == "landing" and meant_to_end
