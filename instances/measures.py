"""What machines say of themselves through their agents: how full a home is, and that their memory gave out.

It is a machine's word: it changes nothing but what its own owner reads about it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from instances import transitions
from instances.explain import explain
from instances.lifecycle import State, Target
from instances.models import Home, Instance
from portal.lib import clock
from portal.lib.clock import Now

#: a home that several instances use, or several gateways report, is written so often at most
EVERY = timedelta(minutes=1)
_MOST = 2**60
_AT_ONCE = 500


def take(reported: Mapping[uuid.UUID, Mapping[str, Any]]) -> None:
    """Take what gateways have heard from agents."""
    homes = {uid: used for uid, use in reported.items() if (used := _used(use.get("home"))) is not None}
    if homes:
        _fill(homes)
    short = [uid for uid, use in reported.items() if use.get("memory_kills")]
    if short:
        _tell_of_memory(short)


def _used(home: Any) -> int | None:
    used = home.get("used") if isinstance(home, dict) else None
    return used if isinstance(used, int) and 0 <= used <= _MOST else None


@transaction.atomic
def _fill(used: Mapping[uuid.UUID, int]) -> None:
    """Write how full homes are, each by one of the instances that have it."""
    due = Q(home__measured_at__isnull=True) | Q(home__measured_at__lte=Now() - EVERY)
    said = dict(Instance.objects.alive().filter(due, uid__in=used, home__isnull=False).values_list("home", "uid"))
    if not said:
        return
    # in one order, because several gateways report the same homes
    homes = list(Home.objects.filter(pk__in=said).order_by("pk").select_for_update(no_key=True))
    now = clock.now()
    for home in homes:
        home.used, home.measured_at = used[said[home.pk]], now
    Home.objects.bulk_update(homes, ["used", "measured_at"], batch_size=_AT_ONCE)


def _tell_of_memory(uids: list[uuid.UUID]) -> None:
    """Say on the page that something was ended for lack of memory, unless another reason stands there."""
    running = Instance.objects.filter(uid__in=uids, state=State.ACTIVE, target=Target.ACTIVE, reason="")
    for instance in running.select_related("plan__flavour"):
        transitions.mark_limit(instance, "out-of-memory", explain(instance, "out-of-memory"))
