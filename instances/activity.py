"""When somebody last worked in an instance, as gateways say: a busy kernel, or a machine that computes, is work now.

No word changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from instances.models import Instance
from portal.lib import clock

_AT_ONCE = 500
#: cores; a notebook server that waits for people takes some hundredths of one
COMPUTES = 0.25


def note(reported: Mapping[uuid.UUID, Mapping[str, Any]]) -> None:
    """Take a gateway's word on many instances at once; the clock is never turned back."""
    now = clock.now() if any(reported.values()) else None
    worked = {uid: at for uid, said in reported.items() if now and (at := _worked_at(said, now))}
    if not worked:
        return
    known = Instance.objects.filter(uid__in=worked).values_list("uid", "last_active_at")
    later = [uid for uid, at in known if at is None or at < worked[uid]]
    if later:
        _write(later, worked)


def _worked_at(said: Mapping[str, Any], now: datetime) -> datetime | None:
    if said.get("busy") or float(said.get("cpu") or 0) >= COMPUTES:
        return now
    if not said.get("last_active"):
        return None
    try:
        at = datetime.fromtimestamp(float(said["last_active"]), UTC)
    except (ValueError, OverflowError, OSError):  # one instance's nonsense must not cost the others their report
        return None
    return min(at, now)  # an instance's own clock has no say about the future


@transaction.atomic
def _write(uids: list[uuid.UUID], worked: Mapping[uuid.UUID, datetime]) -> None:
    # in one order, because several gateways report the same instances
    rows = Instance.objects.filter(uid__in=uids).order_by("pk").select_for_update(no_key=True)
    instances = list(rows.only("uid", "last_active_at"))
    for instance in instances:
        at = worked[instance.uid]
        instance.last_active_at = max(instance.last_active_at or at, at)
    Instance.objects.bulk_update(instances, ["last_active_at"], batch_size=_AT_ONCE)
