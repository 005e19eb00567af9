"""Postgres wakes the run queue when a run is put into it, or a slot becomes free.

The gap: the queue polls. A run waits half an interval on average, and a short interval costs CPU
time when nothing happens. Here Postgres notifies the daemon (postgres/notifications.sql). The poll
remains for lost notifications, for example while the connection was lost. This module could be
deleted if Dagster's queue could be woken.
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
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)
from dagster_postgres import PostgresRunStorage
from sqlalchemy import make_url

# The name in postgres/notifications.sql.
CHANNEL = "dagster_queue"
# At most ten iterations a second, however many notifications there are.
PAUSE_SECONDS = 0.1
# The daemon notes that it is alive, and looks whether it is to end.
ALIVE_SECONDS = 0.5
AGAIN_SECONDS = 2

Iterate = Callable[..., Generator[Any, None, None]]

logger = logging.getLogger("dagster.daemon.Enqueued")


class Calls(threading.Thread):
    """Listens to Postgres, and connects again whenever the connection is lost."""

    def __init__(self, url: str) -> None:
        """Does not listen yet.

        Args:
            url: The database, for libpq.
        """
        super().__init__(name="enqueued", daemon=True)
        self.url = url
        self.called = threading.Event()

    def run(self) -> None:
        """For as long as the process lives."""
        while True:
            try:
                self.listen()
            except Exception as error:  # most likely, Postgres has ended the connection
                logger.warning("the queue is polled until Postgres answers: %s", error)
            time.sleep(AGAIN_SECONDS)

    def listen(self) -> None:
        """Until the connection is lost, which raises psycopg2.Error."""
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            # What came before.
            self.called.set()
            while True:
                select.select([connection], [], [])
                connection.poll()
                connection.notifies.clear()
                self.called.set()

    def wait(self, seconds: float) -> Generator[None, None, None]:
        """Until the queue is called, or for so long. Yields now and then."""
        time.sleep(PAUSE_SECONDS)
        deadline = time.monotonic() + seconds
        while not self.called.wait(max(0, min(ALIVE_SECONDS, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                break
            yield
        self.called.clear()


def wake_the_queue(instance: DagsterInstance) -> None:
    """Makes the queue of this process wait for calls, between polls."""
    coordinator = instance.run_coordinator
    if not isinstance(coordinator, QueuedRunCoordinator):
        return
    seconds = coordinator.dequeue_interval_seconds
    url = make_url(cast("PostgresRunStorage", instance.run_storage).postgres_url)
    # libpq does not know SQLAlchemy's names of drivers.
    calls = Calls(url.set(drivername="postgresql").render_as_string(hide_password=False))
    calls.start()
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
