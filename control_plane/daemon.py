"""The daemon: `dagster-daemon run`, but it keeps its database connections open between queries.

The gap: outside the web server Dagster opens a new connection for every query (NullPool). With a
queue poll each second that is six connections a second when idle, half of the stack's CPU time
(docs/decisions/0004-our-own-daemon-entry-point.md has the measurement). The web server keeps its
connections with `optimize_for_webserver`, and so does this module. It adds to launches
(launcher/images.py), to the queue (calls.py, waiting.py), to schedules and sensors (lost_ticks.py,
switched_off.py), to the run monitoring (monitoring.py) and to the retries (retries.py), has two
threads more (housekeeping.py, launcher/warm.py), and works only while no other daemon does
(only_daemon.py). Apart from that, it does what the command does. It could be deleted if
`dagster-daemon run` had the web server's option `--db-pool-recycle`.
"""

import contextlib
import os

from dagster import DagsterInstance
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.controller import (
    daemon_controller_from_instance,  # pyright: ignore[reportUnknownVariableType] # upstream's
)
from dagster._utils.interrupts import capture_interrupts

from control_plane.calls import listen_to_calls
from control_plane.code_server.kept_connections import NO_STATEMENT_TIMEOUT
from control_plane.connections import keep_connections
from control_plane.housekeeping import keep_house
from control_plane.launcher import warm_containers
from control_plane.launcher.images import note_images
from control_plane.lost_ticks import launch_lost_ticks
from control_plane.monitoring import watch_containers
from control_plane.only_daemon import be_the_only_daemon
from control_plane.retries import retry_until_launched
from control_plane.switched_off import leave_off_what_is_off
from control_plane.waiting import tell_waiting_runs
from control_plane.workspace import name_code_location, workspace_files


def main() -> None:
    """Runs until it is stopped, or until one of its threads has sent no heartbeat for too long."""
    name_code_location()
    note_images()
    tell_waiting_runs()
    launch_lost_ticks()
    leave_off_what_is_off()
    watch_containers()
    retry_until_launched()
    with (
        contextlib.suppress(KeyboardInterrupt),
        capture_interrupts(),
        DagsterInstance.get() as instance,
    ):
        be_the_only_daemon(instance)
        # Data migrations and purges of ticks can take longer than the web server's 15 s.
        keep_connections(instance, NO_STATEMENT_TIMEOUT)
        listen_to_calls(instance)
        keep_house(instance)
        with (
            daemon_controller_from_instance(
                instance,
                workspace_load_target=WorkspaceFileTarget(workspace_files()),
                heartbeat_tolerance_seconds=int(os.environ["DAGSTER_DAEMON_HEARTBEAT_TOLERANCE"]),
            ) as controller,
            # They end at once. Dagster then waits for its threads.
            warm_containers(instance),
        ):
            controller.check_daemon_loop()


if __name__ == "__main__":
    main()
