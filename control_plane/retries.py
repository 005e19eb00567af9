"""The daemon tries for an hour to launch a failed run again.

The gap: Dagster tries once, when it reads the event of the failure. The run may not have the status
yet, because that is stored after the event. Or the code server may be away: then Dagster sets
will_retry=false, and never tries again. Both were seen (make test-chaos, 2026-11-26). Here the
daemon looks for such runs every ten seconds. This module could be deleted if Dagster repeated it.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterInvalidSubsetError
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    BACKFILL_ID_TAG,
    PARENT_RUN_ID_TAG,
    RETRY_NUMBER_TAG,
    WILL_RETRY_TAG,
)
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
    # Runs whose launch raised an error: in this pass, and those that were told so.
    failing: set[str] = set()
    told: set[str] = set()
    next_at = 0.0

    def try_to_retry(failed_run: DagsterRun, workspace_context: Any) -> None:  # noqa: ANN401 # upstream's
        try:
            if _is_canceling(workspace_context.instance, failed_run):
                why = "its backfill is being canceled"
                give_up(workspace_context.instance, failed_run, why)
            else:
                retry(failed_run, workspace_context)
        except DagsterInvalidSubsetError as error:  # all its steps are done
            give_up(workspace_context.instance, failed_run, str(error).rstrip("."))
        except Exception as error:  # Dagster would give up
            logger.warning("run %s is not launched again yet: %s", failed_run.run_id, error)
            failing.add(failed_run.run_id)
            if failed_run.run_id not in told:
                told.add(failed_run.run_id)
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
        told.intersection_update(found)
        too_late, taken_over = get_current_datetime() - FOR, launched_by_hand(instance, found)
        for run_id, record in list(found.items()):
            if run_id in taken_over:
                give_up(instance, found.pop(run_id).dagster_run, "a user has launched it again")
            elif record.update_timestamp < too_late:
                give_up(instance, found.pop(run_id).dagster_run, "it failed more than an hour ago")
        if not found:
            return
        failing.clear()
        yield from consume(workspace_process_context, list(found.values()), logger)
        for record in left_behind(instance):
            if record.dagster_run.run_id in found.keys() - failing:
                # Its job is gone, or its backfill has ended, for example.
                give_up(instance, record.dagster_run, "Dagster refused the retry")

    auto_run_reexecution.retry_run = try_to_retry
    EventLogConsumerDaemon.run_iteration = run_iteration


def left_behind(instance: DagsterInstance) -> list[RunRecord]:
    """Runs that failed in the last two hours, are to be launched again, and have not been."""
    since = get_current_datetime() - 2 * FOR
    failed = RunsFilter(
        statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "true"}, updated_after=since
    )
    records = instance.get_run_records(failed, limit=MOST_RUNS)
    next_of = {
        one.dagster_run.run_id: one.dagster_run.tags.get(AUTO_RETRY_RUN_ID_TAG) for one in records
    }
    made = [again for again in next_of.values() if again]
    # A run that was made, and is not in the queue: Dagster puts it there.
    waiting = _runs(instance, run_ids=made, statuses=[DagsterRunStatus.NOT_STARTED]) if made else []
    unqueued = {run.run_id for run in waiting}
    return [
        one
        for one in records
        if not (again := next_of[one.dagster_run.run_id]) or again in unqueued
    ]


def launched_by_hand(instance: DagsterInstance, run_ids: Iterable[str]) -> set[str | None]:
    """Those of some runs that a user has launched again."""
    parents = list(run_ids)
    children = _runs(instance, tags={PARENT_RUN_ID_TAG: parents}) if parents else []
    return {run.parent_run_id for run in children if RETRY_NUMBER_TAG not in run.tags}


def _is_canceling(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run is part of a backfill that is being canceled. Dagster asks for ended ones."""
    backfill_id = run.tags.get(BACKFILL_ID_TAG)
    backfill = instance.get_backfill(backfill_id) if backfill_id else None
    return bool(backfill and backfill.status == BulkActionStatus.CANCELING)


def give_up(instance: DagsterInstance, run: DagsterRun, why: str) -> None:
    """Sets will_retry=false: a backfill waits for a run that has true."""
    instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "false"})
    instance.report_engine_event(f"Not launched again by the daemon: {why}.", run)


def _runs(instance: DagsterInstance, **filters: Any) -> list[DagsterRun]:  # noqa: ANN401 # upstream's
    return [record.dagster_run for record in instance.get_run_records(RunsFilter(**filters))]
