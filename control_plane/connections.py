"""The connections to Postgres that the web server and the daemon keep open between queries.

The gap: Dagster does not test a kept connection before it uses it. After a restart of Postgres the
first queries of each process failed: in the UI, an error instead of a page. This module could be
deleted if `optimize_for_webserver` passed `pool_pre_ping` to SQLAlchemy.
"""

from typing import cast

from dagster import DagsterInstance
from dagster_postgres import PostgresRunStorage
from sqlalchemy import event, make_url
from sqlalchemy.pool import Pool

from control_plane.code_server.kept_connections import (
    MAX_OVERFLOW,
    POOL_RECYCLE_SECONDS,
    tested,
)


def keep_connections(instance: DagsterInstance, statement_timeout_ms: int) -> None:
    """Keeps connections open and tests each before use. A timeout of 0 ms is no limit."""
    event.listen(Pool, "checkout", tested)
    instance.optimize_for_webserver(statement_timeout_ms, POOL_RECYCLE_SECONDS, MAX_OVERFLOW)


def url_for_libpq(instance: DagsterInstance) -> str:
    """The database's URL, for a connection of psycopg2 itself."""
    url = make_url(cast("PostgresRunStorage", instance.run_storage).postgres_url)
    # libpq does not know SQLAlchemy's names of drivers.
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
