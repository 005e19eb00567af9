"""A schedule or sensor that is switched off while the daemon looks at it remains off.

The gap: at the first evaluation of a schedule, and then hourly, Dagster notes when that was, in the
state which it read when the iteration began. A schedule that was switched off in between is then on
again, and nothing says so: seen in `make test`, 2026-11-27. The longer an evaluation takes, the
more likely. The note at a sensor's tick is written in the same way. Here both are written to the
state that is stored at that moment. This module could be deleted if Dagster did so.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import dagster._daemon.daemon  # noqa: F401 # pyright: ignore[reportUnusedImport] # before _scheduler, which is in a circle with it
from dagster import DagsterInstance
from dagster._core.scheduler.instigation import InstigatorState, ScheduleInstigatorData
from dagster._daemon import asset_daemon, sensor
from dagster._scheduler import scheduler

Note = Callable[[DagsterInstance, InstigatorState, ScheduleInstigatorData, float], float]
Mark = Callable[[DagsterInstance, Any, InstigatorState, datetime], None]


def leave_off_what_is_off() -> None:
    """Makes this process write such notes to the state that is stored at that moment."""
    note = cast("Note", scheduler._write_and_get_next_checkpoint_timestamp)  # pyright: ignore[reportPrivateUsage] # upstream has no public name for it
    mark = cast("Mark", sensor.mark_sensor_state_for_tick)

    def note_iteration(
        instance: DagsterInstance,
        schedule_state: InstigatorState,
        instigator_data: ScheduleInstigatorData,
        iteration_timestamp: float,
    ) -> float:
        state = stored(instance, schedule_state)
        data = state.instigator_data
        if not isinstance(data, ScheduleInstigatorData):
            data = instigator_data
        return note(instance, state, data, iteration_timestamp)

    def mark_tick(
        instance: DagsterInstance,
        remote_sensor: Any,  # noqa: ANN401 # upstream's
        sensor_state: InstigatorState,
        now: datetime,
    ) -> None:
        mark(instance, remote_sensor, stored(instance, sensor_state), now)

    scheduler._write_and_get_next_checkpoint_timestamp = note_iteration  # pyright: ignore[reportPrivateUsage]
    sensor.mark_sensor_state_for_tick = mark_tick
    asset_daemon.mark_sensor_state_for_tick = mark_tick  # pyright: ignore[reportPrivateImportUsage] # it imports the name


def stored(instance: DagsterInstance, state: InstigatorState) -> InstigatorState:
    """The state as it is stored now. The given one if none is: Dagster's write then says so."""
    return instance.get_instigator_state(state.instigator_origin_id, state.selector_id) or state
