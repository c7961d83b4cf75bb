"""How often one address may fail, counted from the audit rows that the failures leave: no store besides, and after a
restart it goes on counting."""

from __future__ import annotations

import math
from datetime import timedelta

from portal import audit
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.clock import Now
from portal.lib.errors import TooMany

MOST = 20
WITHIN = timedelta(minutes=1)


def check(action: str) -> None:
    """Raise TooMany when the running request's address has left `MOST` refused rows of this action in a minute.

    The address is the one that the gateway saw, or that a configured proxy named to it. What is refused here leaves no
    row, so an address is let in again a minute after the first of its failures, however often it tries. Those under way
    at once are let in together: what fails is counted when it has failed.
    """
    recent = AuditEvent.objects.filter(
        action=action,
        address=audit.origin.get().address,
        result=AuditEvent.Result.REFUSED,
        at__gt=Now() - WITHIN,
    ).order_by("-at")
    times = list(recent.values_list("at", flat=True)[:MOST])
    if len(times) == MOST:
        left = times[-1] + WITHIN - clock.now()
        raise TooMany(retry_after=max(math.ceil(left.total_seconds()), 1))
