"""Empties the database after a test that has committed: what Django's flush does, without making anything anew.

Flush truncates every table, and then makes content types and permissions again; both take longer than most tests.
"""

from __future__ import annotations

from functools import cache

from django.db import connection, transaction
from django.test import TransactionTestCase

#: made by the migrations, and changed by nobody
_KEPT = {"django_content_type", "auth_permission"}


def arm() -> None:
    """Have every test that commits end so."""
    TransactionTestCase._fixture_teardown = _teardown  # type: ignore[attr-defined]


def _teardown(_test: TransactionTestCase) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        # waits, as a truncation would, for whoever is still writing
        cursor.execute(f"LOCK TABLE {', '.join(_tables())} IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(" UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for name in _tables()))
        filled = [name for (name,) in cursor.fetchall()]
        cursor.execute("SET LOCAL session_replication_role = replica")  # references end all at once
        for name in filled:
            cursor.execute(f"DELETE FROM {name}")


@cache
def _tables() -> list[str]:
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return [connection.ops.quote_name(name) for name in sorted(set(names) - _KEPT)]
