"""A run waits for Postgres to come back, or to have space, for some minutes.

The gap: a step that reports an event while the database is away tries six times, for six seconds in
all. Then its run fails ("too many retries for DB connection"), and is not launched again, because
that counts as an exception of its code. This module could be deleted if the number of attempts were
a setting of dagster_postgres.
"""

import logging
import time
from collections.abc import Callable
from inspect import getmembers, isfunction
from typing import Any

from dagster_postgres import utils
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from psycopg2 import Error as PsycopgError
from sqlalchemy.exc import DBAPIError, TimeoutError

# Postgres restarts in seconds, and recovers from a crash in up to checkpoint_timeout (5 minutes).
WAIT_SECONDS = 300
PAUSE_SECONDS = 1
# The manual of Postgres, "PostgreSQL Error Codes". The step would fail, as if by its code.
DISK_FULL = "53100"
# `./stack rotate` writes the clients' passwords before those of the server. Killed in between, it
# leaves a stack in which no run connects, until it is repeated.
REFUSED = "password authentication failed"
ROTATING = " (a rotation of passwords goes on, or was interrupted: make rotate)"
# What a run writes. A connection that ends meanwhile ends the call. The call is repeated: at worst,
# an event that Postgres had just stored is there twice.
WRITES = (
    (PostgresEventLogStorage, "store_event"),
    (PostgresEventLogStorage, "store_event_batch"),
    (PostgresRunStorage, "handle_run_event"),
    (PostgresRunStorage, "add_run_tags"),
)
# Methods that read, by the beginnings of their names.
READS = ("get_", "has_")


def wait_for_postgres() -> None:
    """Makes this process wait whenever the database is away. A second call does nothing."""
    if utils.retry_pg_connection_fn is connected:
        return
    utils.retry_pg_connection_fn = connected
    reads = [
        (storage, name)
        for storage in (PostgresEventLogStorage, PostgresRunStorage)
        for name, _ in getmembers(storage, isfunction)
        if name.startswith(READS)
    ]
    for storage, name in (*WRITES, *reads):
        setattr(storage, name, _repeated(getattr(storage, name)))


def connected(connect: Callable[[], Any], **_: float) -> Any:  # noqa: ANN401 # a connection
    """Takes the place of `retry_pg_connection_fn`.

    Raises:
        DagsterPostgresException: Postgres did not come back.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return connect()
        # Psycopg's own error comes if Postgres ends between the connection and Dagster's first
        # statement, which does not go through SQLAlchemy. A step failed so (make test-chaos).
        except (DBAPIError, TimeoutError, PsycopgError) as error:
            why = ROTATING if REFUSED in str(error) else ""
            if time.monotonic() > deadline:
                raise utils.DagsterPostgresException(
                    f"no connection to Postgres for {WAIT_SECONDS} s{why}: {error}"
                ) from error
            logging.getLogger("dagster").warning("waiting for Postgres%s: %s", why, error)
        time.sleep(PAUSE_SECONDS)


def _repeated(write: Callable[..., Any]) -> Callable[..., Any]:
    def repeat(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 # any method
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return write(*arguments, **named)
            except DBAPIError as error:
                has_no_space = getattr(error.orig, "pgcode", None) == DISK_FULL
                can_pass = error.connection_invalidated or has_no_space
                if not can_pass or time.monotonic() > deadline:
                    raise
                logging.getLogger("dagster").warning("waiting for Postgres: %s", error.orig)
            time.sleep(PAUSE_SECONDS)

    return repeat
