"""Everything the portal holds about somebody, as one JSON document (docs/reference/personal-data.md)."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import IO

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction

from auth import registry
from auth.models import User
from portal import audit
from portal.audit import AuditEvent
from portal.lib import clock
from portal.lib.clock import Now
from portal.lib.errors import TooMany

FORMAT = "beamport-personal-data/1"
MOST_AN_HOUR = 3
_HOUR = timedelta(hours=1)
#: up to here it stays in memory
_SPOOL = 2**20
_PIECE = 2**16

_encode = DjangoJSONEncoder(ensure_ascii=False).encode


def make(user: User) -> IO[bytes]:
    """Note the export, write it to a file that vanishes when it is closed, and return that from its beginning.

    To a file: the database is given back before the first byte is sent, however slowly somebody reads.
    """
    _note(user)
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL)  # noqa: SIM115  (closed by who sends it)
    try:
        with transaction.atomic():
            connection.cursor().execute("SET LOCAL intervalstyle = 'iso_8601'")
            for piece in _document(user):
                file.write(piece.encode())
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _note(user: User) -> None:
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        lately = AuditEvent.objects.filter(actor_uid=user.uid, action="data_exported", at__gt=Now() - _HOUR)
        if lately.count() >= MOST_AN_HOUR:
            raise TooMany(
                f"You have exported your data {MOST_AN_HOUR} times within an hour.",
                retry_after=int(_HOUR.total_seconds()),
            )
        audit.record("data_exported", actor=user, about=("user", user.uid))


def _document(user: User) -> Iterator[str]:
    head = {"format": FORMAT, "portal": settings.PORTAL_URL, "made_at": clock.now()}
    yield _encode(head)[:-1]
    for held in registry.everything():
        yield f",\n{_encode(held.section)}: ["
        comma = ""
        for line in held.lines(user):
            yield f"{comma}\n  {line}"
            comma = ","
        yield "]"
    yield "}\n"


async def pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield a file bit by bit and close it, however it ends."""
    try:
        while piece := await sync_to_async(file.read)(_PIECE):
            yield piece
    finally:
        file.close()
