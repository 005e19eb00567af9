"""What the daemon does about the containers of runs that start or are being canceled."""

import logging
from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import dagster as dg
import pytest
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.events import StepSuccessData
from dagster._core.execution.api import create_execution_plan
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster._daemon.monitoring import run_monitoring
from dagster_docker import DockerRunLauncher

from control_plane import monitoring
from control_plane.launcher import ComposeRunLauncher
from control_plane.launcher.images import _keeps_image, _not_inherited
from control_plane.monitoring import (
    CUT_OFF,
    NEVER_QUEUED,
    _fail,
    _first,
    _is_known_to_the_daemon,
    all_steps_are_done,
)

DEAD = CheckRunHealthResult(WorkerStatus.FAILED, "It was killed.")
ALIVE = CheckRunHealthResult(WorkerStatus.RUNNING)
STARTING = DagsterRunStatus.STARTING


def run_with(tags, status=STARTING, **more):
    return DagsterRun(job_name="job", run_id="a", status=status, tags=tags, **more)


def monitored(
    run,
    health=DEAD,
    now=None,
    lines="the last line",
    *,
    age=5,
    launching=(),
    found=1,
    kind=ComposeRunLauncher,
    polls=1,
    stop=None,
):
    """What is done about a run: the words of its failure, or `upstream` if Dagster decides."""
    done = []
    launcher = Mock(spec=kind, **{
        "check_run_worker_health.side_effect": [health] * polls,
        "get_run_worker_debug_info.side_effect": [lines] * polls,
    })  # fmt: skip
    if kind is ComposeRunLauncher:
        launcher.WORKER_TAG = kind.WORKER_TAG
        launcher.launching = launching
        launcher.do_not_retry.side_effect = lambda _: done.append("not again")
        launcher.stop.side_effect = stop or (lambda _: done.append("stopped"))
    instance = Mock(
        run_launcher=launcher,
        run_monitoring_start_timeout_seconds=180,
        **{"get_run_by_id.return_value": now or run, "get_runs_count.return_value": found},
    )
    instance.report_run_failed.side_effect = lambda _, words, __: done.append(words)
    monitor = _first(_fail, lambda *_: done.append("upstream"))
    then = datetime.now(UTC) - timedelta(seconds=age)
    instance.get_run_stats.return_value.launch_time = then.timestamp()
    record = Mock(dagster_run=run, update_timestamp=then, create_timestamp=then)
    for _ in range(polls):
        monitor(instance, record, logging.getLogger("test"))
    return done


ITS_OWN = {"docker/container_id": "c1"}


def test_a_run_that_starts_fails_when_its_container_has_died():
    words = "The run did not start. It was killed.\nthe last line"
    assert monitored(run_with(ITS_OWN)) == [words]


def test_it_fails_also_when_the_last_lines_cannot_be_read():
    words = "The run did not start. It was killed."
    assert monitored(run_with(ITS_OWN), lines=OSError("no log")) == [words]


def test_when_its_container_cannot_be_inspected_dagster_s_timeout_holds():
    assert monitored(run_with(ITS_OWN), health=OSError("the guard is away")) == ["upstream"]


def test_a_run_that_starts_late_has_one_poll_more_and_its_container_ends_before_it_fails():
    assert monitored(run_with(ITS_OWN), ALIVE, age=200) == []
    assert monitored(run_with(ITS_OWN), ALIVE, age=200, polls=2) == ["stopped", "upstream"]
    away = OSError("the guard is away")
    assert monitored(run_with(ITS_OWN), away, age=200, polls=4, stop=away) == []
    begun = run_with(ITS_OWN, DagsterRunStatus.STARTED)
    assert monitored(run_with(ITS_OWN), ALIVE, begun, age=200, polls=2) == ["stopped"]
    assert monitored(run_with({}), age=200, polls=4, launching={"a"}) == []


@pytest.mark.parametrize("tags", [{}, {"docker/container_id": ""}])
def test_without_a_container_of_its_own_dagster_decides(tags):
    assert monitored(run_with(tags)) == ["upstream"]


@pytest.mark.parametrize("tags", [{}, {"docker/container_id": ""}])
def test_a_run_whose_launch_was_cut_off_fails_and_one_that_is_being_launched_does_not(tags):
    words = f"The run did not start. {CUT_OFF}"
    assert monitored(run_with(tags), age=20) == [words]
    assert monitored(run_with(tags), age=20, launching={"a"}) == ["upstream"]


def test_a_run_that_never_came_into_the_queue_is_not_launched_again():
    run = run_with({}, DagsterRunStatus.NOT_STARTED)
    assert monitored(run, age=179) == []
    assert monitored(run, age=180) == ["not again", f"The run did not start. {NEVER_QUEUED}"]
    assert monitored(run, age=180, now=run_with({})) == []  # it starts now


@pytest.mark.parametrize("kind", ["schedule_name", "sensor_name", "backfill", "retry_number"])
def test_one_that_the_daemon_made_is_unless_the_daemon_cannot_find_it(kind):
    run = run_with({f"dagster/{kind}": "nightly"}, DagsterRunStatus.NOT_STARTED)
    words = f"The run did not start. {NEVER_QUEUED}"
    assert monitored(run, age=180) == [words]
    assert monitored(run, age=180, found=0) == ["not again", words]


def test_a_run_is_found_by_its_tags_unless_postgres_ended_before_they_were_stored():
    with instance_for_test() as instance:
        run = create_run_for_test(instance, tags={"dagster/retry_number": "1"})
        assert _is_known_to_the_daemon(instance, run)
        with instance.run_storage.connect() as connection:
            connection.exec_driver_sql("DELETE FROM run_tags")
        assert not _is_known_to_the_daemon(instance, run)
        assert instance.get_run_by_id(run.run_id).tags == run.tags


@pytest.mark.parametrize("status", [STARTING, DagsterRunStatus.NOT_STARTED])
def test_with_dagster_s_own_launcher_dagster_decides(status):
    assert monitored(run_with({}, status), age=900, kind=DockerRunLauncher) == ["upstream"]


@dg.op
def first():
    return 1


@dg.op
def second(number):
    return number


@dg.job
def two_steps():
    second(first())


@dg.op(out=dg.DynamicOut())
def several():
    yield dg.DynamicOutput(1, mapping_key="one")


@dg.job
def dynamic():
    several().map(second)


@pytest.mark.parametrize(
    ("which", "steps", "done"),
    [
        (two_steps, ["first"], False),
        (two_steps, ["first", "second"], True),
        (dynamic, ["several", "second[one]"], False),  # there may be more
    ],
)
def test_a_run_has_done_its_work_when_each_of_its_steps_has_succeeded(which, steps, done):
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(which, execution_plan=create_execution_plan(which))
        for step in steps:
            event = dg.DagsterEvent(
                "STEP_SUCCESS", which.name, step_key=step,
                event_specific_data=StepSuccessData(duration_ms=1.0),
            )  # fmt: skip
            instance.report_dagster_event(event, run_id=run.run_id)
        assert all_steps_are_done(instance, run) == done


def test_a_run_that_is_not_even_queued_has_its_parent_s_container_at_most():
    assert monitored(run_with(ITS_OWN, DagsterRunStatus.NOT_STARTED)) == []


def test_while_the_container_lives_dagster_decides():
    assert monitored(run_with(ITS_OWN), ALIVE) == ["upstream"]


@pytest.mark.parametrize(
    "now",
    [run_with(ITS_OWN, DagsterRunStatus.STARTED), run_with({"docker/container_id": "c2"})],
)
def test_a_run_that_has_gone_on_meanwhile_is_left_alone(now):
    assert monitored(run_with(ITS_OWN), now=now) == []


def test_a_run_does_not_inherit_the_container_of_the_run_that_it_repeats():
    assert _not_inherited(run_with(ITS_OWN)) == {"docker/container_id": ""}
    assert _not_inherited(run_with({"team": "finance"})) == {}


def test_a_run_in_place_of_one_that_was_not_to_be_retried_is_retried_again():
    tags = {"dagster/max_retries": "0", "docker/max_retries_before": "2"}
    assert _not_inherited(run_with(tags)) == {
        "dagster/max_retries": "2",
        "docker/max_retries_before": "",
    }


@pytest.mark.parametrize(
    ("setting", "image", "parent", "kept"),
    [
        ("old-code", "sha256:1", "b", True),
        ("new-code", "sha256:1", "b", False),
        ("old-code", "dagster-code:current", "b", False),
        ("old-code", "sha256:1", None, False),
    ],
)
def test_a_retry_keeps_the_image_only_if_asked_to_and_if_it_is_known(
    monkeypatch, setting, image, parent, kept
):
    monkeypatch.setenv("RETRY_WITH", setting)
    run = run_with({"dagster/image": image}, parent_run_id=parent, root_run_id=parent)
    assert _keeps_image(run) == kept


@pytest.mark.parametrize(
    ("health", "is_done", "decides"),
    [(DEAD, True, "PIPELINE_SUCCESS"), (DEAD, False, "upstream"), (ALIVE, True, "upstream")],
)
def test_a_run_whose_container_died_after_its_last_step_succeeds_and_says_how_it_ended(
    monkeypatch, health, is_done, decides
):
    decided = []
    for name in ("monitor_starting_run", "monitor_started_run", "monitor_canceling_run"):
        monkeypatch.setattr(run_monitoring, name, lambda *_: decided.append("upstream"))
    monkeypatch.setattr(monitoring, "all_steps_are_done", lambda *_: is_done)
    monitoring.watch_containers()
    run = run_with(ITS_OWN, DagsterRunStatus.STARTED)
    launcher = Mock(spec=ComposeRunLauncher, **{"check_run_worker_health.return_value": health})
    instance = Mock(run_launcher=launcher, **{"get_run_by_id.return_value": run})
    instance.report_dagster_event.side_effect = lambda event, run_id: decided.append(event)
    run_monitoring.monitor_started_run(instance, Mock(), Mock(dagster_run=run), Mock())
    (what,) = decided
    if decides == "upstream":
        assert what == "upstream"
    else:
        assert what.event_type_value == decides
        assert what.message.endswith("It was killed.")
