"""What the daemon's run monitoring does about runs that start or are being canceled.

The gap: of such runs Dagster looks at the clock only. A run whose container died before it reported
its start, or ended before it reported CANCELED, kept its place in the queue until a timeout (180 s
and 60 s in dagster.yaml). Here the next poll ends it, with the reason. This module could be deleted
if `monitor_starting_run` and `monitor_canceling_run` asked the run launcher, as
`monitor_started_run` does.
"""

import logging
from collections.abc import Callable

from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun, RunRecord
from dagster._daemon.monitoring import run_monitoring
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG

Monitor = Callable[[DagsterInstance, RunRecord, logging.Logger], None]


def watch_containers() -> None:
    """Makes the monitoring of this process look at the containers of such runs first."""
    run_monitoring.monitor_starting_run = _first(_fail, run_monitoring.monitor_starting_run)
    run_monitoring.monitor_canceling_run = _first(_cancel, run_monitoring.monitor_canceling_run)


def _first(end: Callable[[DagsterInstance, DagsterRun, str], None], upstream: Monitor) -> Monitor:
    """Ends a run whose container has ended. For all others, does what Dagster does."""

    def monitor(instance: DagsterInstance, run_record: RunRecord, logger: logging.Logger) -> None:
        run = run_record.dagster_run
        container = run.tags.get(DOCKER_CONTAINER_ID_TAG)
        # A run that has not been started has at most the tag of the run that it repeats.
        if container and run.status != DagsterRunStatus.NOT_STARTED:
            health = instance.run_launcher.check_run_worker_health(run)
            if health.status in (WorkerStatus.FAILED, WorkerStatus.NOT_FOUND):
                now = instance.get_run_by_id(run.run_id)
                # It may have reported its end meanwhile, or its container may be another one.
                is_same = now and now.tags.get(DOCKER_CONTAINER_ID_TAG) == container
                if now and is_same and now.status == run.status:
                    end(instance, run, _reason(instance, run, health, logger))
                return
        upstream(instance, run_record, logger)

    return monitor


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
