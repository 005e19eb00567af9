"""The processes of steps start with Dagster imported, for jobs with the multiprocess executor.

The gap: by default, that executor starts each step with a new interpreter, which imports Dagster
and the project again. Its setting `forkserver` forks the steps from a process that has imported,
but imports only what it is told, and ignores a module that it cannot import. Here it is the
default, with Dagster's own modules, and with the project if that outlives a fork
(project_for_steps.py). This module could be deleted if Dagster's preload were complete and safe.
"""

import os
from typing import Any

from dagster._core.executor.multiprocess import MultiprocessExecutor

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
