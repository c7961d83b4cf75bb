"""What Django loads as the database's ENGINE."""

from __future__ import annotations

import time
from typing import Any

from django.db.backends.postgresql import base
from psycopg import Error, IsolationLevel

from portal.lib.postgres import limits
from portal.lib.postgres.pool import Connection, outage, pool


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        if limits.patience is not None:
            params["options"] = f"-c statement_timeout={int(limits.patience * 1000)}"
        return params

    def connect(self) -> None:
        super().connect()
        if limits.connections:
            self.close_at = time.monotonic()  # it goes back after each request

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        outage.check()
        self.isolation_level = IsolationLevel.READ_COMMITTED  # as the base class notes it
        if not limits.connections:
            return _connect(conn_params)
        return pool.take(lambda: _connect(conn_params))

    def _close(self) -> None:
        if not limits.connections or self.connection is None:
            super()._close()  # type: ignore[misc]
            return
        with self.wrap_database_errors:
            connection, self.connection = self.connection, None
            pool.give_back(connection)


def _connect(params: dict[str, Any]) -> Connection:
    try:
        made = Connection.connect(**params)
    except Error:
        if not pool.in_use:  # else it is full, or those who use one will hear it themselves
            outage.began()
        raise
    outage.ended()
    return made
