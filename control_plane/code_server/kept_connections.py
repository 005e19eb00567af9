"""A run keeps its connections to Postgres open between queries, as web server and daemon do.

The gap: outside of the web server, Dagster opens a connection for each query (NullPool): 35 for a
run with one op. This module could be deleted if the pool were a setting of dagster_postgres.
"""

import os
from collections.abc import Callable
from typing import Any

from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from psycopg2 import Error
from psycopg2.extensions import connection
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

# The defaults of the command `dagster-webserver` (dagster_webserver.cli). After an hour a
# connection is renewed, so that a leak in a Postgres process cannot grow forever. Each storage
# keeps one connection, and opens further ones for threads that query at the same time.
POOL_RECYCLE_SECONDS, MAX_OVERFLOW = 3600, 20
NO_STATEMENT_TIMEOUT = 0


def keep_connections_of_run() -> None:
    """Makes each storage of this process keep its connection, from its next query on."""
    # User code may make many instances: their storages share what there is.
    # An op may fork, and two processes must not use one connection.
    engines: dict[tuple[int, str, str], Engine] = {}

    def keeping(connect: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def kept(self: Any) -> Any:  # noqa: ANN401 # a storage; a connection
            key = os.getpid(), type(self).__name__, self.postgres_url
            if key not in engines:
                self.optimize_for_webserver(
                    NO_STATEMENT_TIMEOUT, POOL_RECYCLE_SECONDS, MAX_OVERFLOW
                )
                event.listen(self._engine, "checkout", tested)
                engines[key] = self._engine
            self._engine = engines[key]
            return connect(self)

        return kept

    for storage, name in ((PostgresRunStorage, "connect"), (PostgresEventLogStorage, "_connect")):
        setattr(storage, name, keeping(getattr(storage, name)))


def tested(kept: connection, _record: object, _proxy: object) -> None:
    """Raises what makes the pool connect again (SQLAlchemy's documentation of `PoolEvents`)."""
    try:
        with kept.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error as error:
        raise DisconnectionError from error
