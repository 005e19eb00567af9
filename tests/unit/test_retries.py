"""A failed run is launched again also if the first attempt to do so comes to nothing."""

from datetime import timedelta
from unittest.mock import Mock

import pytest
from dagster import DagsterRunStatus
from dagster._core.errors import DagsterInvalidSubsetError
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._daemon.auto_run_reexecution import auto_run_reexecution
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._time import get_current_datetime

from control_plane import retries

FAILURE = DagsterRunStatus.FAILURE


def said_of(instance, run):
    return [one.user_message + (one.message or "") for one in instance.all_logs(run.run_id)]


def will_retry(instance, run):
    return instance.get_run_by_id(run.run_id).tags["dagster/will_retry"] == "true"


@pytest.fixture
def instance():
    with instance_for_test({"run_retries": {"enabled": True, "max_retries": 2}}) as made:
        yield made


@pytest.fixture
def attempts(monkeypatch):
    """The runs that were tried to be launched again; each attempt before the third fails."""
    made = []

    def retry(run, context):
        made.append(run.run_id)
        if len(made) < 3:
            raise RuntimeError("the code server is away")
        context.instance.add_run_tags(run.run_id, {"dagster/auto_retry_run_id": "b"})

    monkeypatch.setattr(auto_run_reexecution, "retry_run", retry)
    iterate = EventLogConsumerDaemon.run_iteration
    monkeypatch.setattr(EventLogConsumerDaemon, "run_iteration", iterate)
    monkeypatch.setattr(retries, "AGAIN_SECONDS", 0)
    retries.retry_until_launched()
    return made


def test_the_daemon_tries_again_until_it_works_and_says_so_once(instance, attempts):
    run = create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    daemon, context = EventLogConsumerDaemon(), Mock(instance=instance)
    for _ in range(5):
        list(daemon.run_iteration(context))
    assert attempts == [run.run_id] * 3
    assert will_retry(instance, run)
    (line,) = [one for one in said_of(instance, run) if "Not launched again yet" in one]
    assert "the code server is away" in line


def test_a_run_whose_steps_are_all_done_is_not_tried_for_an_hour(instance, monkeypatch):
    error = DagsterInvalidSubsetError("No steps needed to be retried in the failed run.")
    monkeypatch.setattr(auto_run_reexecution, "retry_run", Mock(side_effect=error))
    monkeypatch.setattr(
        EventLogConsumerDaemon, "run_iteration", EventLogConsumerDaemon.run_iteration
    )
    retries.retry_until_launched()
    run = create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    auto_run_reexecution.retry_run(run, Mock(instance=instance))
    assert not will_retry(instance, run)
    assert "No steps needed to be retried in the failed run." in said_of(instance, run)[-1]


def test_a_run_that_dagster_refuses_to_launch_again_is_asked_for_once(instance, attempts):
    """Its job is gone, for example, or its backfill has ended. Dagster says so, and returns."""
    tags = {"dagster/will_retry": "true", "dagster/backfill": "gone"}
    run = create_run_for_test(instance, status=FAILURE, tags=tags)
    daemon = EventLogConsumerDaemon()
    for _ in range(5):
        list(daemon.run_iteration(Mock(instance=instance)))
    assert attempts == []
    said = said_of(instance, run)
    assert len([one for one in said if "no longer exists" in one]) == 1
    assert len([one for one in said if "Dagster refused the retry" in one]) == 1
    assert not will_retry(instance, run)


def test_a_run_whose_first_attempt_failed_and_whose_backfill_then_ended_is_given_up(
    instance, attempts
):
    tags = {"dagster/will_retry": "true"}
    run = create_run_for_test(instance, status=FAILURE, tags=tags)
    daemon = EventLogConsumerDaemon()
    list(daemon.run_iteration(Mock(instance=instance)))
    instance.add_run_tags(run.run_id, {"dagster/backfill": "gone"})
    for _ in range(5):
        list(daemon.run_iteration(Mock(instance=instance)))
    assert attempts == [run.run_id]
    assert not will_retry(instance, run)
    assert len([one for one in said_of(instance, run) if "no longer exists" in one]) == 1


def test_a_run_of_a_backfill_that_is_being_canceled_is_not_launched_again(instance, attempts):
    backfill = PartitionBackfill(
        backfill_id="b",
        status=BulkActionStatus.CANCELING,
        from_failure=False,
        tags={},
        backfill_timestamp=0.0,
    )
    instance.add_backfill(backfill)
    tags = {"dagster/will_retry": "true", "dagster/backfill": "b"}
    run = create_run_for_test(instance, status=FAILURE, tags=tags)
    list(EventLogConsumerDaemon().run_iteration(Mock(instance=instance)))
    assert attempts == []
    assert not will_retry(instance, run)
    assert any("its backfill is being canceled" in one for one in said_of(instance, run))


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


def test_a_run_whose_retry_was_made_and_not_queued_is_not_forgotten(instance):
    again = create_run_for_test(instance, status=DagsterRunStatus.NOT_STARTED)
    tags = {"dagster/will_retry": "true", "dagster/auto_retry_run_id": again.run_id}
    run = create_run_for_test(instance, status=FAILURE, tags=tags)
    assert [one.dagster_run.run_id for one in retries.left_behind(instance)] == [run.run_id]


def test_a_run_that_a_user_launched_again_is_not_launched_by_the_daemon(instance, attempts):
    run = create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    tags = {"dagster/parent_run_id": run.run_id, "dagster/root_run_id": run.run_id}
    create_run_for_test(instance, tags=tags, parent_run_id=run.run_id, root_run_id=run.run_id)
    list(EventLogConsumerDaemon().run_iteration(Mock(instance=instance)))
    assert attempts == []
    assert not will_retry(instance, run)
    assert any("a user has launched it again" in one for one in said_of(instance, run))


def test_after_an_hour_a_run_is_marked_so_that_no_backfill_waits_for_it(
    instance, attempts, monkeypatch
):
    run = create_run_for_test(instance, status=FAILURE, tags={"dagster/will_retry": "true"})
    now = get_current_datetime() + retries.FOR + timedelta(minutes=1)
    monkeypatch.setattr(retries, "get_current_datetime", lambda: now)
    list(EventLogConsumerDaemon().run_iteration(Mock(instance=instance)))
    assert attempts == []
    assert not will_retry(instance, run)
    assert any("more than an hour ago" in one for one in said_of(instance, run))
