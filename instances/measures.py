"""What machines say of themselves through their agents: how full home and disk are, how busy they are, and that their
memory gave out.

It is a machine's word: it changes nothing but what its own people read about it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Q

from instances import transitions
from instances.explain import explain
from instances.lifecycle import SERVED, State, Target
from instances.models import Home, Instance
from portal.lib import clock
from portal.lib.clock import Now

#: what is measured of a home, or of an instance, is written so often at most, whoever reports it
EVERY = timedelta(minutes=1)
#: what is older is not shown
OLD = 3 * EVERY
#: no machine has more bytes, or cores
_MOST, _CORES = 2**60, 4096
_AT_ONCE = 500
_KEEP = """
INSERT INTO instances_measured AS kept (instance_id, at, cpu, memory, disk_used, disk_size)
SELECT instance.id, clock_timestamp(), said.cpu, said.memory, said.disk_used, said.disk_size
FROM unnest(%s::uuid[], %s::float8[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS said (uid, cpu, memory, disk_used, disk_size)
JOIN instances_instance AS instance ON instance.uid = said.uid AND instance.state = ANY (%s)
ORDER BY instance.id
ON CONFLICT (instance_id) DO UPDATE SET at = excluded.at, cpu = excluded.cpu, memory = excluded.memory,
    disk_used = excluded.disk_used, disk_size = excluded.disk_size
WHERE kept.at <= excluded.at - make_interval(secs => %s)
"""


def take(reported: Mapping[uuid.UUID, Mapping[str, Any]]) -> None:
    """Take what gateways have heard from agents."""
    _keep(reported)
    homes = {uid: used for uid, use in reported.items() if (used := _bytes_of(use.get("home"), "used")) is not None}
    if homes:
        _fill(homes)
    short = [uid for uid, use in reported.items() if use.get("memory_kills")]
    if short:
        _tell_of_memory(short)


def lately() -> Q:
    """Whether what was measured of an instance is worth showing: while it runs, of this run, and not old."""
    new = Q(measured__at__gte=Now() - OLD) & Q(measured__at__gte=F("ready_at"))
    return Q(state__in=SERVED) & new


def _keep(reported: Mapping[uuid.UUID, Mapping[str, Any]]) -> None:
    """Keep what pages show: one statement for all, in one order, because several gateways report the same instances."""
    rows = {uid: _row(use) for uid, use in reported.items()}
    rows = {uid: row for uid, row in rows.items() if any(figure is not None for figure in row)}
    if not rows:
        return
    columns = [list(column) for column in zip(*rows.values(), strict=True)]
    with connection.cursor() as cursor:
        cursor.execute(_KEEP, [list(rows), *columns, list(SERVED), EVERY.total_seconds()])


def _row(use: Mapping[str, Any]) -> tuple[float | None, int | None, int | None, int | None]:
    cpu, disk = _figure(use.get("cpu"), _CORES), use.get("scratch")
    used, size = _bytes_of(disk, "used"), _bytes_of(disk, "size")
    known = (used, size) if used is not None and size else (None, None)
    return None if cpu is None else float(cpu), _bytes(use.get("memory")), *known


def _bytes_of(disk: Any, name: str) -> int | None:
    return _bytes(disk.get(name)) if isinstance(disk, dict) else None


def _bytes(value: Any) -> int | None:
    return value if isinstance(value, int) and _figure(value, _MOST) is not None else None


def _figure(value: Any, most: int) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return value if known and 0 <= value <= most else None


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
