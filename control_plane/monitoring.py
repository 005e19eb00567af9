"""What the daemon's run monitoring does about runs whose container has ended, or has never been.

The gap: Dagster looks at the clock only when runs start or are being canceled. A run whose
container died before it reported its start, or ended before it reported CANCELED, kept its place in
the queue until a timeout (180 s and 60 s in dagster.yaml), and so did a run whose launch was cut
off. Here the next poll ends it, with the reason. A run whose container died after its last step
fails in Dagster, and its retry finds nothing to do; here it succeeds. A run that never came into
the queue, because its launch got an error, is not launched again minutes later. And Dagster fails a
run that takes too long to start while its container lives: both it and its retry executed after the
machine had slept for four minutes. Here that container ends first. This module could be deleted if
the functions that it replaces asked the run launcher and the event log.
"""

import logging
from collections.abc import Callable
from typing import Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.execution.stats import StepEventStatus
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun, RunRecord, RunsFilter
from dagster._core.storage.tags import (
    BACKFILL_ID_TAG,
    RETRY_NUMBER_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
)
from dagster._daemon.monitoring import run_monitoring
from dagster._time import get_current_timestamp

from control_plane.launcher.watched import WatchedLauncher

Monitor = Callable[[DagsterInstance, RunRecord, logging.Logger], None]
# Between the report that a run starts and the launch there are milliseconds.
LAUNCH_SECONDS = 15
CUT_OFF = "Its launch was cut off, for example by the daemon's end. No container was started."
NEVER_QUEUED = (
    "It never came into the queue: its launch got an error, or was cut off, for example by the end"
    " of Postgres or of the daemon."
)
# A client that gets an error launches its run again. The daemon does not.
BY_THE_DAEMON = {SCHEDULE_NAME_TAG, SENSOR_NAME_TAG, BACKFILL_ID_TAG, RETRY_NUMBER_TAG}
DEAD = (WorkerStatus.FAILED, WorkerStatus.NOT_FOUND)


def watch_containers() -> None:
    """Makes the monitoring of this process look at the containers of such runs first."""
    run_monitoring.monitor_starting_run = _first(_fail, run_monitoring.monitor_starting_run)
    run_monitoring.monitor_canceling_run = _first(_cancel, run_monitoring.monitor_canceling_run)
    started = run_monitoring.monitor_started_run

    def monitor_started_run(
        instance: DagsterInstance,
        workspace: Any,  # noqa: ANN401 # upstream's
        run_record: RunRecord,
        logger: logging.Logger,
    ) -> None:
        run = run_record.dagster_run
        is_ours = isinstance(instance.run_launcher, WatchedLauncher)
        cause = _cause_of_death(instance, run) if is_ours else None
        if cause and all_steps_are_done(instance, run):
            _succeed(instance, run, cause)
        else:
            started(instance, workspace, run_record, logger)

    run_monitoring.monitor_started_run = monitor_started_run


def all_steps_are_done(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether each step of a run has succeeded or was skipped.

    The answer is no for a run with dynamic outputs, because the number of its steps is not known.
    """
    plan = run.execution_plan_snapshot_id
    snapshot = instance.get_execution_plan_snapshot(plan) if plan else None
    keys = list(snapshot.step_keys_to_execute) if snapshot else []
    if not keys or any("[?]" in key for key in keys):
        return False
    stats = instance.get_run_step_stats(run.run_id, step_keys=keys)
    good = (StepEventStatus.SUCCESS, StepEventStatus.SKIPPED)
    return {one.step_key for one in stats if one.status in good} == set(keys)


def _cause_of_death(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Why the container of a run has ended, if the run has not reported its end meanwhile."""
    health = instance.run_launcher.check_run_worker_health(run)
    if health.status not in DEAD:
        return None
    now = instance.get_run_by_id(run.run_id)
    return (health.msg or "-") if now and now.status == run.status else None


def _succeed(instance: DagsterInstance, run: DagsterRun, cause: str) -> None:
    message = f"All steps were done when the container ended, so the run is a success. {cause}"
    event = DagsterEvent(
        event_type_value=DagsterEventType.RUN_SUCCESS.value, job_name=run.job_name, message=message
    )
    instance.report_dagster_event(event, run_id=run.run_id)


def _first(end: Callable[[DagsterInstance, DagsterRun, str], None], upstream: Monitor) -> Monitor:
    """Ends a run whose container has ended. For all others, does what Dagster does."""
    late: set[str] = set()

    def monitor(instance: DagsterInstance, run_record: RunRecord, logger: logging.Logger) -> None:
        run = run_record.dagster_run
        launcher = instance.run_launcher
        now = get_current_timestamp()
        if not isinstance(launcher, WatchedLauncher):
            pass  # Dagster's own
        elif run.status == DagsterRunStatus.NOT_STARTED:
            age = now - run_record.create_timestamp.timestamp()
            is_late = age >= instance.run_monitoring_start_timeout_seconds
            if is_late and _is_same(instance, run):
                if not _is_known_to_the_daemon(instance, run):
                    launcher.do_not_retry(run)
                end(instance, run, NEVER_QUEUED)
            return
        elif not run.tags.get(launcher.WORKER_TAG):
            is_launching = run.run_id in launcher.launching
            is_old = now - run_record.update_timestamp.timestamp() > LAUNCH_SECONDS
            if is_old and not is_launching and _is_same(instance, run):
                end(instance, run, CUT_OFF)
                return
        else:
            try:
                health = launcher.check_run_worker_health(run)
            except Exception:  # the guard is away, for example: Dagster's timeout still holds
                logger.exception("the container of run %s cannot be inspected", run.run_id)
            else:
                if health.status in DEAD:
                    # It may have reported its end meanwhile, or its container may be another one.
                    if _is_same(instance, run):
                        end(instance, run, _reason(instance, run, health, logger))
                    return
        if isinstance(launcher, WatchedLauncher) and _is_late(instance, run, now):
            # All processes may have slept, with the machine: it has until the next poll.
            if run.run_id in launcher.launching or run.run_id not in late:
                late.add(run.run_id)
                return
            late.remove(run.run_id)
            if not _is_stopped(launcher, run, logger) or not _is_same(instance, run):
                return
        upstream(instance, run_record, logger)

    return monitor


def _is_late(instance: DagsterInstance, run: DagsterRun, now: float) -> bool:
    """Whether a run takes longer to start than it may."""
    if run.status != DagsterRunStatus.STARTING:
        return False
    begun = instance.get_run_stats(run.run_id).launch_time
    return begun is not None and now - begun >= instance.run_monitoring_start_timeout_seconds


def _is_stopped(launcher: WatchedLauncher, run: DagsterRun, logger: logging.Logger) -> bool:
    """Ends the container of a run that is late, because another attempt follows."""
    try:
        launcher.stop(run)
    except Exception:  # the guard is away, for example: the next polls try again
        logger.exception("the container of run %s cannot be stopped", run.run_id)
        return False
    return True


def _is_known_to_the_daemon(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether the daemon made a run, and can find it.

    It looks for its runs by their tags. Dagster stores these after the run, in a transaction of
    their own. If Postgres ends in between, the daemon does not find the run, and makes another.
    """
    tags = {tag: run.tags[tag] for tag in BY_THE_DAEMON & run.tags.keys()}
    stored = RunsFilter(run_ids=[run.run_id], tags=tags)
    return bool(tags) and instance.get_runs_count(stored) > 0


def _is_same(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run has still the status and the container that it had when it was read."""
    now, launcher = instance.get_run_by_id(run.run_id), instance.run_launcher
    tag = launcher.WORKER_TAG if isinstance(launcher, WatchedLauncher) else ""
    return bool(now and now.status == run.status and now.tags.get(tag) == run.tags.get(tag))


def _reason(
    instance: DagsterInstance,
    run: DagsterRun,
    health: CheckRunHealthResult,
    logger: logging.Logger,
) -> str:
    lines = None
    try:
        lines = instance.run_launcher.get_run_worker_debug_info(run)
    except Exception:  # the run ends all the same
        logger.exception("the last lines of the container cannot be read")
    return "\n".join(filter(None, [health.msg, lines]))


def _fail(instance: DagsterInstance, run: DagsterRun, reason: str) -> None:
    data = JobFailureData(error=None, failure_reason=RunFailureReason.START_TIMEOUT)
    instance.report_run_failed(run, f"The run did not start. {reason}", data)


def _cancel(instance: DagsterInstance, run: DagsterRun, reason: str) -> None:
    instance.report_run_canceled(run, f"The run was canceled. {reason}")
