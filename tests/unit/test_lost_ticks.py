"""Which ticks of a schedule are launched that were due while the daemon was away."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from dagster import Definitions, ScheduleDefinition, job, op
from dagster._core.remote_representation.external_data import ScheduleSnap

from control_plane.lost_ticks import Watched

BEGAN = datetime(2026, 11, 25, 0, 0, 30, tzinfo=UTC)


@op
def work():
    pass


@job
def every_minute():
    work()


@pytest.fixture
def due(monkeypatch):
    """The minutes that are launched and those that are noted, and the next one."""
    schedule = ScheduleDefinition(job=every_minute, cron_schedule="* * * * *")
    repository = Definitions(schedules=[schedule]).get_repository_def()
    snap = ScheduleSnap.from_def(schedule, repository)

    def ask(minutes, most, failing=False):
        now = BEGAN + timedelta(minutes=minutes)
        original = SimpleNamespace(_schedule_snap=snap)
        watched = Watched(original, Mock(), Mock(), now.timestamp(), most)
        noted = []
        monkeypatch.setattr(watched, "note", noted.extend)
        monkeypatch.setattr(watched, "is_failing", lambda first: failing)
        times = list(islice(watched.execution_time_iterator(BEGAN.timestamp()), minutes + 2))
        launched = [time.minute for time in times if time <= now]
        assert watched.partition_set_name  # else Dagster drops all but one
        return launched, [time.minute for time in noted], times[len(launched)].minute

    return ask


@pytest.mark.parametrize(
    ("minutes", "most", "launched", "lost"),
    [
        (0, 5, [], []),
        (1, 5, [1], []),
        (2, 5, [1, 2], []),
        (5, 5, [1, 2, 3, 4, 5], []),
        (8, 5, [4, 5, 6, 7, 8], [1, 2, 3]),
        (1, 1, [1], []),
        (3, 1, [3], [1, 2]),
    ],
)
def test_the_newest_are_launched_from_the_oldest_on_and_the_others_are_noted(
    due, minutes, most, launched, lost
):
    assert due(minutes, most) == (launched, lost, minutes + 1)


@pytest.mark.parametrize("minutes", [1, 2, 60])
def test_while_the_first_one_fails_it_is_evaluated_again_alone_and_none_is_lost(due, minutes):
    assert due(minutes, 5, failing=True) == ([1], [], (minutes + 1) % 60)
