"""The connections to Postgres that the web server and the daemon keep open between queries.

The gap: Dagster does not test a kept connection before it uses it. After a restart of Postgres the
first queries of each process failed: in the UI, an error instead of a page. This module could be
deleted if `optimize_for_webserver` passed `pool_pre_ping` to SQLAlchemy.
"""

from dagster import DagsterInstance
from psycopg2 import Error
from psycopg2.extensions import connection
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

# The defaults of the command `dagster-webserver` (dagster_webserver.cli). After an hour a
# connection is renewed, so that a leak in a Postgres process cannot grow forever. Each of the three
# storages keeps one connection, and opens further ones for threads that query at the same time.
POOL_RECYCLE_SECONDS, MAX_OVERFLOW = 3600, 20


def keep_connections(instance: DagsterInstance, statement_timeout_ms: int) -> None:
    """Keeps connections open and tests each before use. A timeout of 0 ms is no limit."""
    event.listen(Pool, "checkout", _test)
    instance.optimize_for_webserver(statement_timeout_ms, POOL_RECYCLE_SECONDS, MAX_OVERFLOW)


def _test(kept: connection, _record: object, _proxy: object) -> None:
    """Raises what makes the pool connect again (SQLAlchemy's documentation of `PoolEvents`)."""
    try:
        with kept.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error as error:
        raise DisconnectionError from error
