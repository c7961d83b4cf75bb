"""What passed through the gateways, added up per session: each report of each gateway process counts once."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.db import connection, transaction

from instances.models import GatewayProcess, GatewaySession
from portal.lib.clock import Now

#: a gateway process that has not reported for so long is no more
_FORGET_AFTER = timedelta(days=1)
_COUNTED = ("received", "sent", "requests")
_ADD = """
UPDATE instances_gatewaysession AS session
SET received = session.received + passed.received, sent = session.sent + passed.sent,
    requests = session.requests + passed.requests
FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[]) AS passed (sid, received, sent, requests)
WHERE session.sid = passed.sid
"""


def take(report: dict[str, Any]) -> bool:
    """Add a numbered report to its sessions; False when it has been taken before."""
    process, number = uuid.UUID(report["gateway"]), int(report["number"])
    rows = {uuid.UUID(row["sid"]): [max(int(row[name]), 0) for name in _COUNTED] for row in report["sessions"]}
    with transaction.atomic():
        _, is_new = GatewayProcess.objects.get_or_create(uid=process)
        known = GatewayProcess.objects.filter(uid=process, report__lt=number)
        if not known.update(report=number, seen_at=Now()):
            return False
        # in one order, because several gateways report the same sessions
        sessions = GatewaySession.objects.filter(sid__in=rows).order_by("pk").select_for_update()
        present = list(sessions.values_list("sid", flat=True))
        with connection.cursor() as cursor:
            cursor.execute(_ADD, [present, *([rows[sid][at] for sid in present] for at in range(len(_COUNTED)))])
    if is_new:
        GatewayProcess.objects.filter(seen_at__lt=Now() - _FORGET_AFTER).delete()
    return True
