"""A run that waits in the queue says which limit holds it."""

from unittest.mock import Mock

import pytest
from dagster import DagsterEvent, DagsterRunStatus
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from control_plane import waiting

LIMITS = {
    "concurrency": {
        "runs": {
            "max_concurrent_runs": 2,
            "tag_concurrency_limits": [{"key": "database", "limit": 1}],
        }
    }
}


ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "all"), "one")


@pytest.fixture
def queue(monkeypatch):
    """A queue that explains each wait at once, and its instance."""
    name = "_get_runs_to_dequeue"
    monkeypatch.setattr(QueuedRunCoordinatorDaemon, name, getattr(QueuedRunCoordinatorDaemon, name))
    monkeypatch.setattr(waiting, "TELL_AFTER_SECONDS", -1)
    monkeypatch.setattr(waiting, "INTERVAL_SECONDS", 0)
    waiting.tell_waiting_runs()
    with instance_for_test(LIMITS) as instance:
        yield Queue(instance)


class Queue:
    def __init__(self, instance):
        self.instance = instance
        self.daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)

    def add(self, status=DagsterRunStatus.QUEUED, **tags):
        return create_run_for_test(
            self.instance, status=status, tags=tags, remote_job_origin=ORIGIN, job_name="one"
        ).run_id

    def look(self):
        config = self.instance.get_concurrency_config()
        found = self.daemon._get_runs_to_dequeue(self.instance, config, None)
        return [run.run_id for run in found]

    def said(self, run):
        logs = self.instance.all_logs(run)
        return [record.message for record in logs if record.message.startswith("Waiting")]


def test_a_run_that_starts_is_told_nothing(queue):
    run = queue.add()
    assert queue.look() == [run]
    assert queue.said(run) == []


def test_when_enough_runs_are_in_progress_it_names_the_setting_once(queue):
    for _ in range(2):
        queue.add(DagsterRunStatus.STARTED)
    run = queue.add()
    for _ in range(3):
        assert queue.look() == []
    reason = "2 runs are in progress, max_concurrent_runs in dagster.yaml"
    assert queue.said(run) == [f"Waiting in the queue: {reason}"]


def test_when_a_limit_for_tags_is_reached_it_says_so(queue):
    queue.add(DagsterRunStatus.STARTED, database="a")
    held, free = queue.add(database="b"), queue.add()
    assert queue.look() == [free]
    (said,) = queue.said(held)
    assert said.endswith("the limit for its tag database=b is 1, tag_concurrency_limits")
    assert queue.said(free) == []


def test_in_a_long_queue_the_oldest_are_told(queue, monkeypatch):
    monkeypatch.setattr(waiting, "AT_ONCE", 3)
    for _ in range(2):
        queue.add(DagsterRunStatus.STARTED)
    runs = [queue.add() for _ in range(5)]
    queue.look()
    assert [bool(queue.said(run)) for run in runs] == [True] * 3 + [False] * 2


def test_runs_are_launched_also_when_the_reasons_cannot_be_written(queue, monkeypatch):
    held = [queue.add(database="a") for _ in range(2)]
    monkeypatch.setattr(queue.instance, "report_engine_event", Mock(side_effect=OSError("full")))
    assert queue.look() == held[:1]


def test_when_another_limit_holds_it_the_run_is_told_so_some_time_later(queue, monkeypatch):
    other, _ = (queue.add(DagsterRunStatus.STARTED, database="a") for _ in range(2))
    run = queue.add(database="b")
    queue.look()
    end = DagsterEvent("PIPELINE_SUCCESS", "one")
    queue.instance.report_dagster_event(end, run_id=other)
    queue.look()
    assert len(queue.said(run)) == 1
    monkeypatch.setattr(waiting, "AGAIN_SECONDS", 0)
    queue.look()
    queue.look()
    first, second = queue.said(run)
    assert "max_concurrent_runs" in first
    assert "the limit for its tag database=b is 1" in second
