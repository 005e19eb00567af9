"""Ticks of schedules that were due while the code server or the daemon was away.

The gap: when several ticks of a schedule are due, Dagster launches the last one and drops the
others, unless the schedule has partitions. Nothing but a line of the daemon's log says so. Here up
to five are launched late, from the oldest to the newest, and a skipped tick counts the others.
This module could be deleted if Dagster's catch-up had a setting for schedules without partitions.

Environment: LOST_TICKS (launch-late, or show: launches the last one only, as Dagster does).
"""

import logging
import os
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from typing import Any, cast

import dagster._daemon.daemon  # noqa: F401 # pyright: ignore[reportUnusedImport] # before _scheduler, which is in a circle with it
from dagster import DagsterInstance
from dagster._core.remote_representation.external import RemoteSchedule
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster._scheduler import scheduler

Launch = Callable[..., Generator[Any, None, None]]


class Watched(RemoteSchedule):
    """A schedule for one evaluation, which says what is due and notes what is dropped."""

    def __init__(
        self,
        schedule: RemoteSchedule,
        instance: DagsterInstance,
        logger: logging.Logger,
        now: float,
        most: int,
    ) -> None:
        """A copy of a schedule.

        Args:
            schedule: The schedule.
            instance: Where its ticks are.
            logger: The daemon's.
            now: The time of the evaluation, in seconds since 1970.
            most: How many ticks may be launched at once.
        """
        vars(self).update(vars(schedule))
        self.instance, self.logger, self.now, self.most = instance, logger, now, most

    @property
    def partition_set_name(self) -> str | None:
        """Anything but None. Otherwise Dagster drops all ticks but the last."""
        return super().partition_set_name or self.name

    def execution_time_iterator(
        self, start_timestamp: float, ascending: bool = True
    ) -> Iterator[datetime]:
        """The times from a start on, without those that are lost."""
        times = super().execution_time_iterator(start_timestamp, ascending)
        due: list[datetime] = []
        for time in times:
            due.append(time)
            if time.timestamp() > self.now:
                break
        # The last one is not due yet.
        *due, following = due
        if len(due) > 1 and self.is_failing(due[0]):
            # The code server still does not answer. The others follow when it does.
            due = due[:1]
        lost = due[: -self.most]
        if lost:
            self.note(lost)
        yield from due[len(lost) :]
        yield following
        yield from times

    def is_failing(self, first: datetime) -> bool:
        """Whether the first of several due ticks is one that has failed and is evaluated again."""
        latest = self.instance.get_ticks(self.get_remote_origin_id(), self.selector_id, limit=1)
        failed = [tick.timestamp for tick in latest if tick.status == TickStatus.FAILURE]
        return first.timestamp() in failed

    def note(self, lost: list[datetime]) -> None:
        """Shows lost ticks on the schedule's page and in the log."""
        first, last = (time.isoformat(" ", "minutes") for time in (lost[0], lost[-1]))
        which = f"{len(lost)} ticks from {first} to {last} are" if len(lost) > 1 else f"{last} is"
        away = "the code server or the daemon was away (LOST_TICKS in .env)"
        reason = f"{which} not launched late: {away}"
        self.logger.warning("%s: %s", self.name, reason)
        self.instance.create_tick(
            TickData(
                instigator_origin_id=self.get_remote_origin_id(),
                instigator_name=self.name,
                instigator_type=InstigatorType.SCHEDULE,
                status=TickStatus.SKIPPED,
                timestamp=lost[-1].timestamp(),
                end_timestamp=self.now,
                skip_reason=reason,
                selector_id=self.selector_id,
            )
        )


def launch_lost_ticks() -> None:
    """Makes the scheduler of this process treat lost ticks by LOST_TICKS."""
    launch = cast("Launch", scheduler.launch_scheduled_runs_for_schedule_iterator)  # pyright: ignore[reportUnknownMemberType] # upstream's
    launches_late = os.environ["LOST_TICKS"] == "launch-late"

    def launch_due(
        context: Any,  # noqa: ANN401 # upstream's
        logger: Any,  # noqa: ANN401
        remote_schedule: RemoteSchedule,
        schedule_state: Any,  # noqa: ANN401
        end_datetime_utc: datetime,
        max_catchup_runs: int,
        *rest: Any,  # noqa: ANN401
        **named: Any,  # noqa: ANN401
    ) -> Generator[Any, None, None]:
        most = max_catchup_runs if launches_late or remote_schedule.partition_set_name else 1
        watched = Watched(
            remote_schedule, context.instance, logger, end_datetime_utc.timestamp(), most
        )
        times = end_datetime_utc, max_catchup_runs
        yield from launch(context, logger, watched, schedule_state, *times, *rest, **named)

    scheduler.launch_scheduled_runs_for_schedule_iterator = launch_due
