"""The daemon: `dagster-daemon run`, with its database connections kept open between queries.

The gap: outside the webserver Dagster opens a new connection for every query (NullPool), which with
a one-second queue poll is six a second when idle: half of the whole stack's CPU (13.5 % of a core,
6.2 % with this; measured over a minute). The webserver asks its instance to
keep them with `optimize_for_webserver`; this does the same, and is otherwise what the command
does. Could be deleted if `dagster-daemon run` had the webserver's `--db-pool-recycle`.
"""

import contextlib
import os

from dagster import DagsterInstance
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.controller import (
    daemon_controller_from_instance,  # pyright: ignore[reportUnknownVariableType] # upstream's
)
from dagster._utils.interrupts import capture_interrupts

from control_plane.workspace import workspace_files

# Connections are renewed after an hour, so that a leak in a server process cannot grow for ever.
POOL_RECYCLE_SECONDS = 3600
# Beyond the one that each of the three storages keeps, for threads that query at the same time.
MAX_OVERFLOW = 20
# Migrations of old runs and purges of ticks may take long; the webserver's 15 s are not for them.
NO_STATEMENT_TIMEOUT = 0


def main() -> None:
    """Runs until it is stopped, or a thread of it has been silent for too long."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        capture_interrupts(),
        DagsterInstance.get() as instance,
    ):
        instance.optimize_for_webserver(NO_STATEMENT_TIMEOUT, POOL_RECYCLE_SECONDS, MAX_OVERFLOW)
        with daemon_controller_from_instance(
            instance,
            workspace_load_target=WorkspaceFileTarget(workspace_files()),
            heartbeat_tolerance_seconds=int(os.environ["DAGSTER_DAEMON_HEARTBEAT_TOLERANCE"]),
        ) as controller:
            controller.check_daemon_loop()


if __name__ == "__main__":
    main()
