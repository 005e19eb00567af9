"""Says in the event log of a run that waits in the queue which limit holds it.

The gap: the web UI says "will start soon". Only the daemon's log knows which limit is reached, and
not for which run. This module could be deleted if the queue reported it as an event of the run.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
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
# Another reason is told at the earliest so long after the one before.
AGAIN_SECONDS = 60
INTERVAL_SECONDS = 5
# The oldest. In a long queue, the others follow when they come that far.
AT_ONCE = 50

logger = logging.getLogger("dagster.daemon.Waiting")


@dataclass(frozen=True)
class Told:
    """The reason that a run was told, and when, in seconds since 1970."""

    why: str
    at: float

    def is_old(self, now: float) -> bool:
        """Whether the run may be told another one."""
        return now - self.at >= AGAIN_SECONDS


def tell_waiting_runs() -> None:
    """Makes the queue of this process tell each run why it waits, and when the reason changes."""
    original = QueuedRunCoordinatorDaemon._get_runs_to_dequeue  # pyright: ignore[reportPrivateUsage]
    told: dict[str, Told] = {}
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
                for gone in told.keys() - {run.run_id for run in waiting}:
                    del told[gone]
                _tell(self, instance, concurrency_config.run_queue_config, waiting, told)
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
    told: dict[str, Told],
) -> None:
    """Writes the reasons that are new, and notes them in `told`, by run."""
    now = get_current_timestamp()
    due = [run for run in runs if run.run_id not in told or told[run.run_id].is_old(now)]
    if not due:
        return
    records = daemon._get_in_progress_run_records(instance)  # pyright: ignore[reportPrivateUsage]
    for run in due:
        why = reason(daemon, limits, records, run)
        if why and (run.run_id not in told or told[run.run_id].why != why):
            instance.report_engine_event(f"Waiting in the queue: {why}", run)
            told[run.run_id] = Told(why, now)


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
    for limit in limits.tag_concurrency_limits:
        if TagConcurrencyLimitsCounter([limit], tagged).is_blocked(run):
            tag = f"{limit['key']}={run.tags[limit['key']]}"
            return f"the limit for its tag {tag} is {limit['limit']}, tag_concurrency_limits"
    held = cast("set[str]", daemon._global_concurrency_blocked_runs)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
    if run.run_id in held:
        pools = cast("Any", run.run_op_concurrency).root_key_counts
        return f"no slot is free in one of its pools: {', '.join(pools)} (Deployment, Concurrency)"
    return None
