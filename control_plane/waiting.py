"""Says in the event log of a run that waits in the queue which limit holds it.

The gap: the web UI says "will start soon". Only the daemon's log knows which limit is reached, and
not for which run. This module could be deleted if the queue reported it as an event of the run.
"""

import logging
from collections.abc import Sequence
from typing import Any, cast

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.dagster_run import RunRecord
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)
from dagster._time import get_current_timestamp
from dagster._utils.tags import TagConcurrencyLimitsCounter

# Shorter waits need no explanation.
TELL_AFTER_SECONDS = 10
INTERVAL_SECONDS = 5
# The oldest. In a long queue, the others follow when they come that far.
AT_ONCE = 50

logger = logging.getLogger("dagster.daemon.Waiting")


def tell_waiting_runs() -> None:
    """Makes the queue of this process tell each run once why it waits."""
    original = QueuedRunCoordinatorDaemon._get_runs_to_dequeue  # pyright: ignore[reportPrivateUsage]
    told: set[str] = set()
    next_at = 0.0

    def get_runs_to_dequeue(
        self: QueuedRunCoordinatorDaemon,
        instance: DagsterInstance,
        concurrency_config: Any,  # noqa: ANN401 # upstream's
        fixed_iteration_time: float | None,
    ) -> list[DagsterRun]:
        nonlocal next_at
        found = original(self, instance, concurrency_config, fixed_iteration_time)
        now = get_current_timestamp()
        if now >= next_at:
            next_at = now + INTERVAL_SECONDS
            try:
                waiting = _waiting(instance, {run.run_id for run in found}, now)
                told.intersection_update(run.run_id for run in waiting)
                news = [run for run in waiting if run.run_id not in told]
                _tell(self, instance, concurrency_config.run_queue_config, news, told)
            except Exception:  # the runs that were found are launched all the same
                logger.exception("it cannot be said why runs wait")
        return found

    QueuedRunCoordinatorDaemon._get_runs_to_dequeue = get_runs_to_dequeue  # pyright: ignore[reportPrivateUsage]


def _waiting(instance: DagsterInstance, starting: set[str], now: float) -> list[DagsterRun]:
    """The oldest runs in the queue that have waited for some time."""
    queued = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.QUEUED]), limit=AT_ONCE, ascending=True
    )
    return [
        record.dagster_run
        for record in queued
        if record.dagster_run.run_id not in starting
        and now - record.create_timestamp.timestamp() > TELL_AFTER_SECONDS
    ]


def _tell(
    daemon: QueuedRunCoordinatorDaemon,
    instance: DagsterInstance,
    limits: Any,  # noqa: ANN401 # upstream's
    runs: Sequence[DagsterRun],
    told: set[str],
) -> None:
    """Writes the reasons, and adds the runs for which there is one to `told`."""
    if not runs:
        return
    records = daemon._get_in_progress_run_records(instance)  # pyright: ignore[reportPrivateUsage]
    for run in runs:
        why = reason(daemon, limits, records, run)
        if why:
            instance.report_engine_event(f"Waiting in the queue: {why}", run)
            told.add(run.run_id)


def reason(
    daemon: QueuedRunCoordinatorDaemon,
    limits: Any,  # noqa: ANN401 # upstream's
    in_progress: Sequence[RunRecord],
    run: DagsterRun,
) -> str | None:
    """Which limit holds a run, in words.

    Args:
        daemon: The queue.
        limits: The section concurrency, runs of dagster.yaml.
        in_progress: The runs in progress.
        run: The run that waits.
    """
    most = limits.max_concurrent_runs
    if -1 < most <= len(in_progress):
        return f"{len(in_progress)} runs are in progress, max_concurrent_runs in dagster.yaml"
    tagged = [record.dagster_run for record in in_progress]
    if TagConcurrencyLimitsCounter(limits.tag_concurrency_limits, tagged).is_blocked(run):
        return "enough runs with its tags are in progress, tag_concurrency_limits in dagster.yaml"
    held = cast("set[str]", daemon._global_concurrency_blocked_runs)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    if run.run_id in held:
        pools = cast("Any", run.run_op_concurrency).root_key_counts
        return f"no slot is free in one of its pools: {', '.join(pools)} (Deployment, Concurrency)"
    return None
