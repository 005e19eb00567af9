"""The daemon launches a failed run again, also if its first attempt to do so comes to nothing.

The gap: Dagster tries once, when it reads the event of the failure. The run may not have the status
yet, because that is stored after the event. Or the code server may be away: then the run gets the
tag that it is never launched again. Both were seen (make test-chaos, 2026-11-26). Here the daemon
looks for such runs every ten seconds, for an hour. This module could be deleted if Dagster did.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG
from dagster._daemon.auto_run_reexecution import auto_run_reexecution
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._time import get_current_datetime

AGAIN_SECONDS, FOR = 10, timedelta(hours=1)
MOST_RUNS = 500

Retry = Callable[[DagsterRun, Any], None]
Consume = Callable[[Any, Sequence[RunRecord], logging.Logger], Iterator[None]]
Iterate = Callable[[EventLogConsumerDaemon, Any], Iterator[Any]]

logger = logging.getLogger("dagster.daemon.Retries")


def retry_until_launched() -> None:
    """Makes this process come back to failed runs that are to be launched again and are not."""
    retry = cast("Retry", auto_run_reexecution.retry_run)  # pyright: ignore[reportUnknownMemberType] # upstream's
    consume = cast("Consume", auto_run_reexecution.consume_new_runs_for_automatic_reexecution)  # pyright: ignore[reportUnknownMemberType] # upstream's
    iterate = cast("Iterate", EventLogConsumerDaemon.run_iteration)  # pyright: ignore[reportUnknownMemberType] # upstream's
    told: set[str] = set()
    # Launched, or not to be launched: its job is gone, for example.
    settled: set[str] = set()
    next_at = 0.0

    def try_to_retry(failed_run: DagsterRun, workspace_context: Any) -> None:  # noqa: ANN401 # upstream's
        try:
            retry(failed_run, workspace_context)
        except Exception as error:  # Dagster would give up
            logger.warning("run %s is not launched again yet: %s", failed_run.run_id, error)
            if failed_run.run_id not in told:
                told.add(failed_run.run_id)
                message = f"Not launched again yet, the daemon tries for an hour: {error}"
                with suppress(Exception):  # Postgres is away
                    workspace_context.instance.report_engine_event(message, failed_run)
        else:
            settled.add(failed_run.run_id)

    def run_iteration(
        self: EventLogConsumerDaemon,
        workspace_process_context: Any,  # noqa: ANN401 # upstream's
    ) -> Generator[Any, None, None]:
        nonlocal next_at
        yield from iterate(self, workspace_process_context)
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + AGAIN_SECONDS
            found = left_behind(workspace_process_context.instance)
            ids = {record.dagster_run.run_id for record in found}
            for known in (told, settled):
                known &= ids
            records = [record for record in found if record.dagster_run.run_id not in settled]
            yield from consume(workspace_process_context, records, logger)

    auto_run_reexecution.retry_run = try_to_retry
    EventLogConsumerDaemon.run_iteration = run_iteration


def left_behind(instance: DagsterInstance) -> Sequence[RunRecord]:
    """Runs that failed in the last hour, may be launched again, and have not been."""
    since = get_current_datetime() - FOR
    failed = RunsFilter(
        statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"}, updated_after=since
    )
    records = instance.get_run_records(failed, limit=MOST_RUNS)
    return [record for record in records if AUTO_RETRY_RUN_ID_TAG not in record.dagster_run.tags]
