"""Who may see an experiment: one SQL predicate and one Python predicate, proven equal by a test.

Visible = in the team, or open. Open = not withdrawn, not proprietary, open data enabled at the facility, and released
by policy or by an act (facts: embargo over and open are two dates).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.db import models

if TYPE_CHECKING:
    from auth.models import User


class ProposalQuerySet(models.QuerySet[Any]):
    def visible_to(self, user: User | Any) -> Self:
        """Proposals with something to see: open ones, and those with an experiment of the user's."""
        raise NotImplementedError


class ExperimentQuerySet(models.QuerySet[Any]):
    def visible_to(self, user: User | Any) -> Self:
        """Open experiments, and those the user took part in; an anonymous user sees the open ones."""
        raise NotImplementedError
