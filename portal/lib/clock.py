"""PostgreSQL's clock: every compared time, lease and expiry is its `clock_timestamp()`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import DateTimeField, Func


class Now(Func):
    """`clock_timestamp()` in a query; unlike `now()` it does not stand still inside a transaction."""

    function = "clock_timestamp"
    template = "%(function)s()"

    def __init__(self, **extra: Any) -> None:
        super().__init__(output_field=DateTimeField(), **extra)


def now() -> datetime:
    """Return the database's time; workers' clocks have no say."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        value: datetime = cursor.fetchone()[0]
        return value
