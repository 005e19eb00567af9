"""A run container that loads its code before it knows its run, and then executes that one run.

The gap: most of the time from the launch of a small run to its end is the start of its container,
and its imports. Here both are done before. The launcher hands a run over through Postgres, where a
function gives it to this process, once (postgres/warm_containers.sql). From then on, this process
is `dagster api execute_run`. This module could be deleted if Dagster had workers that wait.

    dagster api wait_for_run '{"slot": …, "proof": …, "like": the arguments of an earlier run}'
"""

import gc
import json
import os
import select
import sys
import time
from contextlib import closing
from datetime import date
from typing import cast

import psycopg2
from dagster import DagsterInstance
from dagster._cli import main as dagster
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import deserialize_value
from dagster._utils.hosted_user_process import recon_repository_from_origin
from dagster_postgres import PostgresRunStorage
from psycopg2.extensions import connection
from sqlalchemy import make_url

from control_plane.code_server import usage
from control_plane.code_server.hand_over import SETTINGS
from control_plane.code_server.patience import WAIT_SECONDS

AGAIN_SECONDS = 1
CHANNEL = "warm_container_{}"


class Warm:
    """A process that has loaded the code of a run, and waits for the run."""

    def __init__(self, slot: str, proof: str, like: str) -> None:
        """Loads the code, and opens the connections that a run keeps.

        Args:
            slot: The row of this container in Postgres.
            proof: Of that the row is its own.
            like: The arguments of a run with the same code and the same instance.
        """
        self.slot = slot
        # Not in a query: all sessions of this role see the queries of each other.
        self.options = f"-c warm.proof={proof}"
        self.loaded_from = sources()
        earlier = deserialize_value(like, ExecuteRunArgs)
        recon_repository_from_origin(earlier.job_origin.repository_origin).get_definition()
        assert earlier.instance_ref  # noqa: S101 # the launcher sends one
        instance = DagsterInstance.from_ref(earlier.instance_ref)
        instance.get_run_by_id(earlier.run_id)
        instance.get_records_for_run(earlier.run_id, limit=1)
        url = make_url(cast("PostgresRunStorage", instance.run_storage).postgres_url)
        # libpq does not know SQLAlchemy's names of drivers.
        self.url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        # As in bin/dagster.
        gc.collect()
        gc.freeze()

    def arguments(self) -> str | None:
        """Waits for a run; returns the arguments of its command, or nothing if none will come."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                with closing(psycopg2.connect(self.url, options=self.options)) as listening:
                    try:
                        return self._wait(listening)
                    finally:
                        deadline = time.monotonic() + WAIT_SECONDS
            except psycopg2.Error as error:
                print(f"waiting for Postgres: {error}", flush=True)
                time.sleep(AGAIN_SECONDS)
        return None

    def _wait(self, listening: connection) -> str | None:
        listening.autocommit = True
        with listening.cursor() as cursor:
            cursor.execute(f'LISTEN "{CHANNEL.format(self.slot)}"')
            # A run never executes code that was loaded yesterday, or with other secrets.
            while self.loaded_from == sources():
                cursor.execute("SELECT take_run()")
                found = cursor.fetchone()
                if not found or found[0] is None:
                    return None
                if found[0]:
                    return str(found[0])
                if not listening.notifies:
                    select.select([listening], [], [])
                    listening.poll()
                listening.notifies.clear()
        return None


def sources() -> tuple[date, bytes]:
    """What the code may have read when it was loaded: the date, and the project's `.env`."""
    file = SETTINGS / ".env"
    return date.today(), file.read_bytes() if file.is_file() else b""


def main() -> None:
    """Ends without a run when it is not wanted any more."""
    arguments = Warm(**json.loads(sys.argv[3])).arguments()
    if arguments:
        usage.begin()
        os.environ["DAGSTER_RUN_JOB_NAME"] = deserialize_value(
            arguments, ExecuteRunArgs
        ).job_origin.job_name
        sys.argv[2:] = ["execute_run", arguments]
        sys.exit(dagster())
