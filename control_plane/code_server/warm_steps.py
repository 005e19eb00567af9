"""The processes of steps start with Dagster imported, for jobs with the multiprocess executor.

The gap: by default, that executor starts each step with a new interpreter, which imports Dagster
and the project again. Its setting `forkserver` forks the steps from a process that has imported,
but imports only what it is told, and ignores a module that it cannot import. Here it is the
default, with Dagster's own modules, and with the project if that outlives a fork
(project_for_steps.py). This module could be deleted if Dagster's preload were complete and safe.

The process that forks the steps is itself a new interpreter, and its imports delay the first step
by 2 s. In a warm container (warm_run.py) it is a fork of the process that has loaded the job. From
STEP_WORKER_STARTING to STEP_START, a first step then takes 0.15 s and not 2.5 s, a later one 0.2 s
and not 0.4 s, and 58 ms of CPU time and not 254 ms. A run of six steps takes 1.1 s of CPU time and
not 3.5 s, and 153 MiB and not 246 MiB (two busy cores, in turns, 2026-11).
"""

import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, util
from typing import Any

from dagster import in_process_executor
from dagster._core.executor.multiprocess import MultiprocessExecutor
from dagster._core.origin import JobPythonOrigin
from dagster._utils.hosted_user_process import recon_repository_from_origin

from control_plane.code_server.fork_safety import is_alone

# What a step imports. None of them opens a connection or starts a thread.
PRELOAD = [
    "dagster",
    "dagster._cli",
    "dagster._core.executor.multiprocess",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster_postgres.event_log",
    "dagster_postgres.run_storage",
    "dagster_postgres.schedule_storage",
    # An instance needs it.
    "upath.core",
    "control_plane.code_server.patience",
    "control_plane.code_server.project_for_steps",
]
# With STORE=s3 (Dockerfile.code).
STORE = "control_plane.code_server.kept_in_store"
if os.environ.get("DAGSTER_DEFAULT_IO_MANAGER_MODULE") == STORE:
    PRELOAD.append(STORE)


def start_steps_warm() -> None:
    """Makes `forkserver` the default of this process's multiprocess executors."""
    create = MultiprocessExecutor.__init__

    def init(self: MultiprocessExecutor, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 # upstream's
        if named.get("start_method") is None:
            named |= {"start_method": "forkserver", "explicit_forkserver_preload": PRELOAD}
        create(self, *arguments, **named)

    MultiprocessExecutor.__init__ = init


def fork_steps_from_here(origin: JobPythonOrigin) -> None:
    """Makes a fork of this process the one that steps are forked from, if the job needs one.

    Args:
        origin: The job, which this process has loaded.
    """
    repository = recon_repository_from_origin(origin.repository_origin).get_definition()
    executor = repository.get_job(origin.job_name).executor_def
    if executor.name == in_process_executor.name or not is_alone():
        return
    start = util.spawnv_passfds
    util.spawnv_passfds = _fork
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = start


def _fork(_interpreter: bytes, arguments: Sequence[str], needed: Sequence[int]) -> int:
    """Takes the place of starting an interpreter that executes a line of code of multiprocessing.

    Returns:
        The process ID.
    """
    child = os.fork()
    if child:
        return child
    try:
        # The connections of the run, for example.
        for number in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *needed}:  # noqa: PTH208
            with suppress(OSError):  # that of the list itself
                os.close(number)
        exec(arguments[-1])  # noqa: S102 # of multiprocessing
    except SystemExit:  # its end: no run is there any more
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
