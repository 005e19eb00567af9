"""What is switched off while the daemon looks at it remains off."""

from datetime import UTC, datetime
from unittest.mock import Mock

import pytest
from dagster import DagsterInstance
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._daemon import asset_daemon, sensor
from dagster._scheduler import scheduler

from control_plane.switched_off import leave_off_what_is_off

NOW = datetime(2026, 11, 27, 21, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _daemon(monkeypatch):
    """Dagster's functions come back afterwards."""
    for module, name in (
        (scheduler, "_write_and_get_next_checkpoint_timestamp"),
        (sensor, "mark_sensor_state_for_tick"),
        (asset_daemon, "mark_sensor_state_for_tick"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    leave_off_what_is_off()


def read_and_switched_off(instance, kind, data):
    """The state as an iteration of the daemon has read it: since then it was switched off."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
    origin = repository.get_instigator_origin("every_minute")
    read = InstigatorState(origin, kind, InstigatorStatus.RUNNING, data)
    instance.add_instigator_state(read)
    instance.update_instigator_state(read.with_status(InstigatorStatus.STOPPED))
    return read


def now_stored(instance, read):
    return instance.get_instigator_state(read.instigator_origin_id, read.selector_id)


def test_a_schedule_whose_iteration_is_noted_after_it_was_switched_off_remains_off(tmp_path):
    data = ScheduleInstigatorData("* * * * *", start_timestamp=NOW.timestamp() - 5)
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        read = read_and_switched_off(instance, InstigatorType.SCHEDULE, data)
        scheduler._write_and_get_next_checkpoint_timestamp(instance, read, data, NOW.timestamp())
        stored = now_stored(instance, read)
    assert stored.status == InstigatorStatus.STOPPED
    assert stored.instigator_data.last_iteration_timestamp == NOW.timestamp()


@pytest.mark.parametrize("module", [sensor, asset_daemon])
def test_a_sensor_whose_tick_is_noted_after_it_was_switched_off_remains_off(tmp_path, module):
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        read = read_and_switched_off(instance, InstigatorType.SENSOR, SensorInstigatorData())
        remote = Mock(min_interval_seconds=30, sensor_type=None)
        module.mark_sensor_state_for_tick(instance, remote, read, NOW)
        stored = now_stored(instance, read)
    assert stored.status == InstigatorStatus.STOPPED
    assert stored.instigator_data.last_tick_start_timestamp == NOW.timestamp()
