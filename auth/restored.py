"""A database that comes out of a backup brings back what had ended since: sign-ins, API tokens, links for persons.

The portal keeps in the database by what it knew it. A copy that was restored has other marks than those it names, so
everything in it that lets somebody in ends before anybody is let in by it. What is restored below PostgreSQL (a disk
snapshot, recovery to a point in time) looks the same as before: there the operator says it, `manage.py restored`.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from django.db import connection, transaction

from auth import access
from auth.models import ApiToken, DatabaseMark, PersonLink, Session
from portal import audit
from portal.lib.clock import Now

log = structlog.get_logger("auth.restored")

_ONLY = 1


@dataclass(frozen=True)
class Ended:
    sessions: int
    tokens: int
    links: int


def look() -> Ended | None:
    """End everything when this is another database than the one that we knew; None: it is the same."""
    mark = _mark()
    if DatabaseMark.objects.filter(pk=_ONLY, mark=mark).exists():
        return None
    with transaction.atomic():
        known, is_new = DatabaseMark.objects.select_for_update().get_or_create(pk=_ONLY, defaults={"mark": mark})
        if is_new or known.mark == mark:
            return None
        return _end_everything(mark)


def declare() -> Ended:
    """End everything because an operator says so."""
    with transaction.atomic():
        return _end_everything(_mark())


def _end_everything(mark: str) -> Ended:
    ended = Ended(
        sessions=len(access.end(Session.objects.all())),
        tokens=ApiToken.objects.filter(revoked_at__isnull=True).update(revoked_at=Now()),
        links=PersonLink.objects.filter(withdrawn_at__isnull=True, redeemed_at__isnull=True).update(withdrawn_at=Now()),
    )
    DatabaseMark.objects.update_or_create(pk=_ONLY, defaults={"mark": mark, "noted_at": Now()})
    audit.record("database_restored", sessions=ended.sessions, tokens=ended.tokens, links=ended.links)
    log.warning("database restored: every sign-in, token and link has ended", **vars(ended))
    return ended


def _mark() -> str:
    """Cluster, database and table: of a restored copy at least one is another."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT concat_ws(':', system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database()),"
            " %s::regclass::oid) FROM pg_control_system()",
            [Session._meta.db_table],
        )
        return str(cursor.fetchone()[0])
