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
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    PARENT_RUN_ID_TAG,
    RETRY_NUMBER_TAG,
    WILL_RETRY_TAG,
)
from dagster._daemon.auto_run_reexecution import auto_run_reexecution
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._time import get_current_datetime

AGAIN_SECONDS, FOR = 10, timedelta(hours=1)
MOST_RUNS = 500
WILL_RETRY = {WILL_RETRY_TAG: "true"}

Retry = Callable[[DagsterRun, Any], None]
Consume = Callable[[Any, Sequence[RunRecord], logging.Logger], Iterator[None]]
Iterate = Callable[[EventLogConsumerDaemon, Any], Iterator[Any]]

logger = logging.getLogger("dagster.daemon.Retries")


def retry_until_launched() -> None:
    """Makes this process come back to failed runs that are to be launched again and are not."""
    retry = cast("Retry", auto_run_reexecution.retry_run)  # pyright: ignore[reportUnknownMemberType] # upstream's
    consume = cast("Consume", auto_run_reexecution.consume_new_runs_for_automatic_reexecution)  # pyright: ignore[reportUnknownMemberType] # upstream's
    iterate = cast("Iterate", EventLogConsumerDaemon.run_iteration)  # pyright: ignore[reportUnknownMemberType] # upstream's
    # Runs whose last attempt failed, and runs that need no further one: launched by now, or refused
    # by Dagster, which then says why.
    failing: set[str] = set()
    settled: set[str] = set()
    next_at = 0.0

    def try_to_retry(failed_run: DagsterRun, workspace_context: Any) -> None:  # noqa: ANN401 # upstream's
        try:
            retry(failed_run, workspace_context)
            failing.discard(failed_run.run_id)
        except Exception as error:  # Dagster would give up
            logger.warning("run %s is not launched again yet: %s", failed_run.run_id, error)
            if failed_run.run_id not in failing:
                failing.add(failed_run.run_id)
                message = f"Not launched again yet, the daemon tries for an hour: {error}"
                with suppress(Exception):  # Postgres is away
                    workspace_context.instance.report_engine_event(message, failed_run)

    def run_iteration(
        self: EventLogConsumerDaemon,
        workspace_process_context: Any,  # noqa: ANN401 # upstream's
    ) -> Generator[Any, None, None]:
        nonlocal next_at
        yield from iterate(self, workspace_process_context)
        if time.monotonic() < next_at:
            return
        next_at = time.monotonic() + AGAIN_SECONDS
        instance: DagsterInstance = workspace_process_context.instance
        found = {record.dagster_run.run_id: record for record in left_behind(instance)}
        for known in (failing, settled):
            known &= found.keys()
        due = [found[run_id] for run_id in found.keys() - settled]
        yield from consume(workspace_process_context, due, logger)
        settled.update({record.dagster_run.run_id for record in due} - failing)
        give_up(instance)

    auto_run_reexecution.retry_run = try_to_retry
    EventLogConsumerDaemon.run_iteration = run_iteration


def left_behind(instance: DagsterInstance) -> Sequence[RunRecord]:
    """Runs that failed in the last hour, are to be launched again, and have not been."""
    since = get_current_datetime() - FOR
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags=WILL_RETRY, updated_after=since)
    records = instance.get_run_records(failed, limit=MOST_RUNS)
    next_of = {one.dagster_run.run_id: _next_of(one.dagster_run) for one in records}
    made = [again for again in next_of.values() if again]
    # A run that was made, and is not in the queue: Dagster puts it there.
    waiting = _runs(instance, run_ids=made, statuses=[DagsterRunStatus.NOT_STARTED]) if made else []
    unqueued = {run.run_id for run in waiting}
    open_ones = [run for run, again in next_of.items() if not again or again in unqueued]
    # Somebody has launched it again by hand.
    children = _runs(instance, tags={PARENT_RUN_ID_TAG: open_ones}) if open_ones else []
    parents = {run.parent_run_id for run in children if RETRY_NUMBER_TAG not in run.tags}
    return [one for one in records if one.dagster_run.run_id in {*open_ones} - parents]


def give_up(instance: DagsterInstance) -> None:
    """Marks runs that were not launched again in an hour. Backfills wait for a run without."""
    before = get_current_datetime() - FOR
    failed = RunsFilter(
        statuses=[DagsterRunStatus.FAILURE],
        tags=WILL_RETRY,
        updated_before=before,
        updated_after=before - FOR,
    )
    for record in instance.get_run_records(failed, limit=MOST_RUNS):
        run = record.dagster_run
        if not _next_of(run):
            instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})
            instance.report_engine_event("Not launched again, after an hour of attempts.", run)


def _runs(instance: DagsterInstance, **filters: Any) -> list[DagsterRun]:  # noqa: ANN401 # upstream's
    return [record.dagster_run for record in instance.get_run_records(RunsFilter(**filters))]


def _next_of(run: DagsterRun) -> str | None:
    return run.tags.get(AUTO_RETRY_RUN_ID_TAG)
