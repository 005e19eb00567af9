"""A failed run is launched again also if the first attempt to do so comes to nothing."""

from unittest.mock import Mock

import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._daemon.auto_run_reexecution import auto_run_reexecution
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon

from control_plane import retries

FAILURE = DagsterRunStatus.FAILURE


@pytest.fixture
def instance():
    with instance_for_test({"run_retries": {"enabled": True, "max_retries": 2}}) as made:
        yield made


@pytest.fixture
def attempts(monkeypatch):
    """The runs that were tried to be launched again; each attempt before the third fails."""
    made = []

    def retry(run, _):
        made.append(run.run_id)
        if len(made) < 3:
            raise RuntimeError("the code server is away")

    monkeypatch.setattr(auto_run_reexecution, "retry_run", retry)
    iterate = EventLogConsumerDaemon.run_iteration
    monkeypatch.setattr(EventLogConsumerDaemon, "run_iteration", iterate)
    monkeypatch.setattr(retries, "AGAIN_SECONDS", 0)
    retries.retry_until_launched()
    return made


def test_the_daemon_tries_again_until_it_works_and_says_so_once(instance, attempts):
    run = create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    daemon, context = EventLogConsumerDaemon(), Mock(instance=instance)
    for _ in range(3):
        list(daemon.run_iteration(context))
    assert attempts == [run.run_id] * 3
    assert instance.get_run_by_id(run.run_id).tags["dagster/will_retry"] == "true"
    said = [entry.user_message + (entry.message or "") for entry in instance.all_logs(run.run_id)]
    (line,) = [one for one in said if "Not launched again yet" in one]
    assert "the code server is away" in line


def test_a_run_whose_job_is_gone_is_tried_once(instance, attempts):
    """Dagster then says so, and returns."""
    run = create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    daemon = EventLogConsumerDaemon()
    for _ in range(9):
        list(daemon.run_iteration(Mock(instance=instance)))
    assert attempts == [run.run_id] * 3


@pytest.mark.parametrize(
    ("status", "tags"),
    [
        (FAILURE, {}),
        (FAILURE, {"dagster/will_retry": "false"}),
        (FAILURE, {"dagster/will_retry": "true", "dagster/auto_retry_run_id": "b"}),
        (DagsterRunStatus.SUCCESS, {}),
        (DagsterRunStatus.STARTED, {}),
    ],
)
def test_other_runs_are_left_alone(instance, status, tags):
    create_run_for_test(instance, status=status, tags=tags)
    assert retries.left_behind(instance) == []


def test_a_run_that_failed_long_ago_is_left_alone(instance, monkeypatch):
    create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    assert len(retries.left_behind(instance)) == 1
    monkeypatch.setattr(retries, "FOR", -retries.FOR)
    assert retries.left_behind(instance) == []
