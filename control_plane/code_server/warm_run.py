"""A run container that loads its code before it knows its run, and then executes that run.

The gap: most of the time from the launch of a small run to its end is the start of its container,
and its imports. Here both are done before. The launcher hands a run over through Postgres, where a
function gives it to this process, once (postgres/warm_containers.sql). From then on, this process
is `dagster api execute_run`. In a container for many runs a fork is, and this process waits for the
next one. This module could be deleted if Dagster had workers that wait.

    dagster api wait_for_run '{"slot": …, "proof": …, "like": the arguments of an earlier run,
        "is_shared": whether it is for many runs, "has_run": whether its first run has been chosen}'
"""

import gc
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import closing, suppress
from datetime import date
from pathlib import Path
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

from control_plane.code_server import fork_safety, hand_over, usage
from control_plane.code_server.patience import WAIT_SECONDS
from control_plane.code_server.warm_steps import fork_steps_from_here

AGAIN_SECONDS = 1
CHANNEL = "warm_container_{}"
TEMPORARY = [Path("/tmp"), Path("/dev/shm"), Path("/dev/mqueue")]  # noqa: S108 # of this container alone
IPC = Path("/proc/sysvipc")
SIGTERM = {signal.SIGTERM}


class Warm:
    """A process that has loaded the code of a run, and waits for runs."""

    def __init__(self, slot: str, proof: str, like: str) -> None:
        """Loads nothing yet.

        Args:
            slot: The row of this container in Postgres.
            proof: Of that the row is its own.
            like: The arguments of a run with the same code and the same instance.
        """
        self.slot = slot
        # Not in a query: all sessions of this role see the queries of each other.
        self.options = f"-c warm.proof={proof}"
        self.loaded_from = sources()
        self.can_fork_steps = False
        self.earlier = deserialize_value(like, ExecuteRunArgs)
        assert self.earlier.instance_ref  # noqa: S101 # the launcher sends one
        self.instance = DagsterInstance.from_ref(self.earlier.instance_ref)
        url = make_url(cast("PostgresRunStorage", self.instance.run_storage).postgres_url)
        # libpq does not know SQLAlchemy's names of drivers.
        self.url = url.set(drivername="postgresql").render_as_string(hide_password=False)

    def load(self) -> None:
        """Loads the code, and opens the connections that a run keeps."""
        before = fork_safety.descriptors()
        recon_repository_from_origin(self.earlier.job_origin.repository_origin).get_definition()
        self.can_fork_steps = fork_safety.outlives_fork(before)
        self.instance.get_run_by_id(self.earlier.run_id)
        self.instance.get_records_for_run(self.earlier.run_id, limit=1)
        # Dagster imports it at its first use.
        _ = self.instance.compute_log_manager
        # As in bin/dagster.
        gc.collect()
        gc.freeze()

    def arguments(self, ask: str = "SELECT true") -> str | None:
        """Waits for a run; returns the arguments of its command, or nothing if none will come.

        Args:
            ask: A query whose answer is whether this container may wait.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                with closing(psycopg2.connect(self.url, options=self.options)) as listening:
                    try:
                        return self._wait(listening, ask)
                    finally:
                        deadline = time.monotonic() + WAIT_SECONDS
            except psycopg2.Error as error:
                print(f"waiting for Postgres: {error}", flush=True)
                time.sleep(AGAIN_SECONDS)
        return None

    def _wait(self, listening: connection, ask: str) -> str | None:
        listening.autocommit = True
        with listening.cursor() as cursor:
            cursor.execute(ask)
            if cursor.fetchone() != (True,):
                return None
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


def sources() -> tuple[date, list[bytes]]:
    """What the code may have read when it was loaded: the date, `.env` and the secrets."""
    return date.today(), hand_over.sources()


def main() -> None:
    """Ends when it may take no more runs, or with the status of a run's process that has failed."""
    told = json.loads(sys.argv[3])
    is_shared, has_run = told.pop("is_shared"), told.pop("has_run")
    warm = Warm(**told)
    try:
        warm.load()
    except Exception:
        if not has_run:
            raise
        # Dagster's command tells the run.
        traceback.print_exc()
        is_shared = False
    arguments = warm.arguments()
    # A fork does not have the threads that the code has started.
    while arguments and is_shared and threading.active_count() == 1:
        before = files()
        status = execute_in_a_fork(arguments, can_fork_steps=warm.can_fork_steps)
        if status or not is_clean(before):
            sys.exit(status)
        arguments = warm.arguments("SELECT wait_again()")
    if arguments:
        execute(arguments, can_fork_steps=warm.can_fork_steps)


def execute(arguments: str, *, can_fork_steps: bool) -> None:
    """Makes this process Dagster's command. It does not return."""
    usage.begin()
    origin = deserialize_value(arguments, ExecuteRunArgs).job_origin
    os.environ["DAGSTER_RUN_JOB_NAME"] = origin.job_name
    if can_fork_steps:
        try:
            fork_steps_from_here(origin)
        except Exception:  # if it is of the job, Dagster's command tells the run
            traceback.print_exc()
    sys.argv[2:] = ["execute_run", arguments]
    sys.exit(dagster())


def execute_in_a_fork(arguments: str, *, can_fork_steps: bool) -> int:
    """Executes a run; returns its exit status."""
    run_id = deserialize_value(arguments, ExecuteRunArgs).run_id
    print(f"{usage.RUN_BEGINS}{run_id}", flush=True)
    # What stops this container stops the run.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGTERM)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGTERM)
        execute(arguments, can_fork_steps=can_fork_steps)

    def forward(number: int, _frame: object) -> None:
        os.kill(child, number)

    signal.signal(signal.SIGTERM, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # As a shell says which signal has ended a process.
    return 128 - status if status < 0 else status


def is_clean(before: set[Path]) -> bool:
    """Removes the processes and files that a run has left behind; returns whether all is gone.

    Args:
        before: The files that were there before the run.
    """
    if os.getppid() <= 1:  # in a container, where these are all but this process and PID 1
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    for one in files() - before:
        with suppress(OSError, RecursionError):
            if one.is_dir() and not one.is_symlink():
                _open_up(one)
                shutil.rmtree(one)
            else:
                one.unlink()
    # Each has a heading, and then a line for each segment, queue and set of semaphores.
    left = [one for one in IPC.glob("*") if len(one.read_text().splitlines()) > 1]
    return not left and not files() - before


def files() -> set[Path]:
    """What is in the folders that a run can write to, and that no other container has."""
    return {one for folder in TEMPORARY for one in folder.glob("*")}


def _open_up(folder: Path) -> None:
    """A run may have taken its own rights away from a folder."""
    folder.chmod(0o700)
    for parent, names, _ in os.walk(folder):
        for name in names:
            one = Path(parent, name)
            if not one.is_symlink():
                one.chmod(0o700)
