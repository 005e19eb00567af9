"""The daemon launches a failed run again, also when it sees the failure a moment too early.

The gap: Dagster stores a run's failure as an event first, and changes the run's status afterwards.
The thread that launches runs again reads the event, finds that the run has not failed, and passes
on for good. Seen once (make test-chaos, 2026-11-26). This module could be
deleted if that thread came back to such a run.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import RunRecord
from dagster._daemon.auto_run_reexecution import event_log_consumer

Consume = Callable[[Any, Sequence[RunRecord], logging.Logger], Iterator[None]]

# The status follows within milliseconds. If its writer has ended before, the monitoring fails the
# run again.
WAIT_SECONDS = 10
PAUSE_SECONDS = 0.2


def wait_for_statuses() -> None:
    """Makes this process wait until a run has the status that its event says."""
    consume = cast("Consume", event_log_consumer.consume_new_runs_for_automatic_reexecution)  # pyright: ignore[reportUnknownMemberType, reportPrivateImportUsage]

    def consume_new_runs(
        workspace_process_context: Any,  # noqa: ANN401 # upstream's
        run_records: Sequence[RunRecord],
        logger: logging.Logger,
    ) -> Iterator[None]:
        ended = records_of_ended(workspace_process_context.instance, run_records)
        yield from consume(workspace_process_context, ended, logger)

    event_log_consumer.consume_new_runs_for_automatic_reexecution = consume_new_runs  # pyright: ignore[reportPrivateImportUsage]


def records_of_ended(
    instance: DagsterInstance, records: Sequence[RunRecord]
) -> Sequence[RunRecord]:
    """The same runs, read again until each has ended, or for some seconds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if all(record.dagster_run.is_finished for record in records):
            break
        time.sleep(PAUSE_SECONDS)
        ids = [record.dagster_run.run_id for record in records]
        records = instance.get_run_records(RunsFilter(run_ids=ids))
    return records
