"""What experiments hold about people: that their person is in a team, or looks after an instrument."""

from __future__ import annotations

from auth.registry import hold
from experiments.models import Instrument, TeamMember

STAYS = "stays with the user office's person, who is nobody's account then"


def register() -> None:
    hold(
        TeamMember,
        "teams",
        "facility=person__facility__slug person=person__external_id "
        "proposal=experiment__proposal__identifier experiment=experiment__uid",
        of="person__user",
        fate=f"{STAYS}; published authorship is untouched",
    )
    hold(
        Instrument.scientists.through,
        "instruments",
        "facility=person__facility__slug person=person__external_id instrument=instrument__code",
        of="person__user",
        fate=STAYS,
    )
