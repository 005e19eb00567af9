"""Postgres wakes the run queue, the sensors and the backfills when there is something for them.

The gap: all of them poll. A run waits in the queue for half an interval on average, and a sensor of
runs or assets notices what has happened after 2.5 s. A new backfill waits for up to 30 s, which no
setting changes: its first run was made after 7 to 23 s, and with the call after 0.1 to 3 s (two
cores, November 2026). A short interval costs CPU time when nothing happens. Here Postgres notifies
the daemon (postgres/notifications.sql). The polls remain for lost notifications, for example while
the connection was lost, and for sensors that look elsewhere. A sensor's own
`minimum_interval_seconds` holds. This module could be deleted if Dagster's queue, sensors and
backfills could be woken.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, cast

import psycopg2
from dagster import DagsterInstance
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._daemon.daemon import BackfillDaemon, SensorDaemon
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from control_plane.connections import url_for_libpq

# The names in postgres/notifications.sql.
QUEUE, SENSORS, BACKFILLS = "dagster_queue", "dagster_sensors", "dagster_backfills"
# At most ten iterations of the queue a second, and one of the others, whatever the calls are.
PAUSE_SECONDS, OTHERS_PAUSE_SECONDS = 0.1, 1
# The daemon notes that it is alive, and looks whether it is to end.
ALIVE_SECONDS = 0.5
AGAIN_SECONDS = 2

Iterate = Callable[..., Generator[Any, None, None]]

logger = logging.getLogger("dagster.daemon.Calls")


class Calls(threading.Thread):
    """Listens to Postgres, and connects again whenever the connection is lost."""

    def __init__(self, url: str) -> None:
        """Does not listen yet.

        Args:
            url: The database, for libpq.
        """
        super().__init__(name="calls", daemon=True)
        self.url = url
        self.called = {channel: threading.Event() for channel in (QUEUE, SENSORS, BACKFILLS)}

    def run(self) -> None:
        """For as long as the process lives."""
        while True:
            try:
                self.listen()
            except Exception as error:  # most likely, Postgres has ended the connection
                logger.warning("polling until Postgres answers: %s", error)
            time.sleep(AGAIN_SECONDS)

    def listen(self) -> None:
        """Until the connection is lost, which raises psycopg2.Error."""
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for channel in self.called:
                    cursor.execute(f"LISTEN {channel}")
            # What came before.
            for called in self.called.values():
                called.set()
            while True:
                select.select([connection], [], [])
                connection.poll()
                for channel in {notify.channel for notify in connection.notifies}:
                    self.called[channel].set()
                connection.notifies.clear()

    def wait(self, seconds: float) -> Generator[None, None, None]:
        """Until the queue is called, or for so long. Yields now and then."""
        time.sleep(PAUSE_SECONDS)
        called, deadline = self.called[QUEUE], time.monotonic() + seconds
        while not called.wait(max(0, min(ALIVE_SECONDS, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                break
            yield
        called.clear()


class UntilCalled(threading.Event):
    """The event that ends the daemon, as sensors or backfills wait for it between iterations."""

    def __init__(self, shutdown: threading.Event, called: threading.Event) -> None:
        """Takes the two events that end a wait."""
        super().__init__()
        self.shutdown, self.called = shutdown, called

    def is_set(self) -> bool:
        """Whether the daemon is to end."""
        return self.shutdown.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for a call, or for so many seconds; returns whether the daemon is to end."""
        deadline = time.monotonic() + (timeout or 0)
        if self.shutdown.wait(min(OTHERS_PAUSE_SECONDS, timeout or 0)):
            return True
        while (left := deadline - time.monotonic()) > 0 and not self.shutdown.is_set():
            if self.called.wait(min(ALIVE_SECONDS, left)):
                break
        self.called.clear()
        return self.shutdown.is_set()


def listen_to_calls(instance: DagsterInstance) -> None:
    """Makes the queue and the sensors of this process wait for calls, between polls."""
    calls = Calls(url_for_libpq(instance))
    calls.start()
    _wake(SensorDaemon, calls.called[SENSORS])
    _wake(BackfillDaemon, calls.called[BACKFILLS])
    if isinstance(instance.run_coordinator, QueuedRunCoordinator):
        _wake_the_queue(calls, instance.run_coordinator.dequeue_interval_seconds)


def _wake(daemon: type[SensorDaemon | BackfillDaemon], called: threading.Event) -> None:
    loop = cast("Iterate", daemon.core_loop)  # pyright: ignore[reportUnknownMemberType] # upstream's

    def core_loop(
        self: SensorDaemon | BackfillDaemon,
        workspace_process_context: Any,  # noqa: ANN401 # upstream's
        shutdown_event: threading.Event,
    ) -> Generator[Any, None, None]:
        yield from loop(self, workspace_process_context, UntilCalled(shutdown_event, called))

    daemon.core_loop = core_loop


def _wake_the_queue(calls: Calls, seconds: float) -> None:
    iterate = cast("Iterate", QueuedRunCoordinatorDaemon.run_iteration)  # pyright: ignore[reportUnknownMemberType] # upstream's

    def run_iteration(
        self: QueuedRunCoordinatorDaemon,
        workspace_process_context: Any,  # noqa: ANN401 # upstream's
        fixed_iteration_time: float | None = None,
    ) -> Generator[Any, None, None]:
        yield from calls.wait(seconds)
        yield from iterate(self, workspace_process_context, fixed_iteration_time)

    QueuedRunCoordinatorDaemon.run_iteration = run_iteration
    # Dagster waits for this long after each iteration. Here the wait is before it.
    no_wait = property(lambda _: 0, lambda _, __: None)
    QueuedRunCoordinatorDaemon.interval_seconds = no_wait  # pyright: ignore[reportAttributeAccessIssue]
