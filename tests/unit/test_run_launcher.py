from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock, call

import pytest
from dagster import DagsterInvariantViolationError, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from docker.errors import DockerException
from sqlalchemy.exc import OperationalError

from control_plane import launcher as launcher_module
from control_plane.guard.policy import INSPECTED, Policy
from control_plane.instance_file import Unset, fill
from control_plane.launcher import ComposeRunLauncher
from control_plane.launcher.images import note_images

DATA = ConfigurableClassData("control_plane.launcher", "ComposeRunLauncher", "{}")


def test_variables_are_filled_in_at_every_depth():
    config = {"networks": ["${STACK_NAME}_runs"], "container_kwargs": {"labels": {"a": "$$5"}}}
    assert fill(config, {"STACK_NAME": "blue"}) == {
        "networks": ["blue_runs"],
        "container_kwargs": {"labels": {"a": "$5"}},
    }


def test_what_is_no_string_stays_as_it_is():
    config = {"init": True, "pids_limit": 512, "x": None, "y": [1.5]}
    assert fill(config, {}) == config


def test_a_variable_that_is_not_set_is_refused_by_name():
    with pytest.raises(Unset, match="STACK_NAME is not set"):
        fill(["${STACK_NAME}_runs"], {})


def test_a_dollar_sign_that_begins_no_name_is_refused_with_its_value():
    with pytest.raises(
        Unset, match=r"'5\$ a day' in dagster.yaml .*write .* and \$\$ for a dollar"
    ):
        fill(["5$ a day"], {})


def test_the_instance_page_shows_the_stack_s_name_and_no_value_of_another_variable(monkeypatch):
    monkeypatch.setenv("STACK_NAME", "blue")
    monkeypatch.setenv("TEAM", "a secret")
    config = "container_kwargs: {labels: {stack: '${STACK_NAME}', team: '${TEAM}'}}"
    data = DATA._replace(config_yaml=config)
    launcher = ComposeRunLauncher.from_config_value(data, data.config_dict)
    assert launcher.container_kwargs["labels"] == {"stack": "blue", "team": "a secret"}
    assert launcher.inst_data.config_yaml == config.replace("${STACK_NAME}", "blue")


# Each once broke the guard, which filled in the text of the file, or differed from the launcher.
ODD_VALUES = ['say "hi"', "a\\b", "two\nlines", "${OTHER}", "$$", "é"]


@pytest.mark.parametrize("value", ODD_VALUES)
def test_launcher_and_guard_read_any_value_of_a_variable_the_same(monkeypatch, value):
    monkeypatch.setenv("TEAM", value)
    config = {"networks": ["n"], "container_kwargs": {"labels": {"team": "${TEAM}"}}}
    launcher = ComposeRunLauncher.from_config_value(DATA, config)
    policy = Policy.from_launcher(config, {"TEAM": value})
    assert policy.labels == launcher.container_kwargs["labels"] == {"team": value}


def test_an_env_var_for_runs_that_is_not_set_is_refused_by_name(monkeypatch):
    monkeypatch.delenv("WAREHOUSE_URL", raising=False)
    with pytest.raises(DagsterInvariantViolationError, match="WAREHOUSE_URL is not set"):
        ComposeRunLauncher.from_config_value(DATA, {"env_vars": ["A=1", "WAREHOUSE_URL"]})


def test_an_env_var_for_runs_that_is_set_is_accepted(monkeypatch):
    monkeypatch.setenv("WAREHOUSE_URL", "")
    launcher = ComposeRunLauncher.from_config_value(DATA, {"env_vars": ["WAREHOUSE_URL"]})
    assert launcher.env_vars == ["WAREHOUSE_URL"]


def context_of(networks):
    """What the launcher makes of a run whose code location adds these networks."""
    launcher = ComposeRunLauncher.from_config_value(DATA, {"networks": ["blue_runs"]})
    context = {"docker": {"networks": networks, "container_kwargs": {"mem_limit": "512m"}}}
    pointer = ModuleCodePointer("code", "job")
    repository = RepositoryPythonOrigin("python", pointer, "image", ["dagster"], context)
    run = DagsterRun(job_name="job", job_code_origin=JobPythonOrigin("job", repository))
    return launcher.get_container_context(run)


def test_a_container_context_that_adds_a_network_is_refused_by_name():
    with pytest.raises(DagsterInvariantViolationError, match=r"refused: .* adds the networks host"):
        context_of(["host"])


def test_a_container_context_without_networks_is_merged_as_upstream_does():
    context = context_of([])
    assert context.networks == ["blue_runs"]
    assert context.container_kwargs == {"mem_limit": "512m"}


@pytest.mark.parametrize(
    ("message", "away", "launches"),
    [
        ("Error while fetching server API version: Connection refused", 3, True),
        ("Error while fetching server API version: Connection refused", 99, False),
        ("409 Conflict: the container may have been created", 1, False),
    ],
)
def test_a_launch_waits_half_a_minute_for_the_guard_and_repeats_nothing_that_it_has_begun(
    monkeypatch, message, away, launches
):
    slept, answers = [], [DockerException(message)] * away + [None]
    monkeypatch.setattr(launcher_module.time, "sleep", slept.append)
    monkeypatch.setattr(launcher_module.time, "monotonic", lambda: sum(slept))
    upstream = "_launch_container_with_command"
    monkeypatch.setattr(DockerRunLauncher, upstream, Mock(side_effect=answers))
    launch = ComposeRunLauncher.from_config_value(DATA, {"networks": ["n"]})
    run = DagsterRun(job_name="job", tags={})
    if launches:
        launch._launch_container_with_command(run, "image", [])
    else:
        with pytest.raises(DockerException):
            launch._launch_container_with_command(run, "image", [])
    assert sum(slept) == (away if launches else 31 if away > 30 else 0)
    assert not launch.launching


def test_a_launch_waits_while_there_are_as_many_containers_as_there_may_be(monkeypatch):
    """The engine may have created it before the guard refused to start it."""
    said = '403 Client Error for http://engine/v1.45/containers/{}: ("25 run containers are alive")'
    refused = [DockerException(said.format("create")), DockerException(said.format("c1/start"))]
    upstream, engine = Mock(side_effect=refused), Mock()
    engine.start.side_effect = [DockerException(said.format("c1/start")), None]
    monkeypatch.setattr(launcher_module.time, "sleep", lambda _: None)
    monkeypatch.setattr(DockerRunLauncher, "_launch_container_with_command", upstream)
    monkeypatch.setattr(launcher_module.docker.client, "from_env", lambda: Mock(api=engine))
    launch = ComposeRunLauncher.from_config_value(DATA, {"networks": ["n"]})
    launch.warm = Mock()
    monkeypatch.setattr(ComposeRunLauncher, "_instance", instance := Mock())
    launch._launch_container_with_command(DagsterRun(job_name="job", tags={}), "image", [])
    assert upstream.call_count == 2
    assert engine.start.call_args_list == [call("c1"), call("c1")]
    # One of those that wait for a run makes room.
    launch.warm.end_waiting.assert_called_once_with()
    (told,) = instance.report_engine_event.call_args_list
    assert "25 run containers are alive" in told.args[0]


def test_a_launch_that_loses_postgres_says_so_in_words(monkeypatch):
    lost = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
    upstream = "_launch_container_with_command"
    monkeypatch.setattr(DockerRunLauncher, upstream, Mock(side_effect=lost))
    launch = ComposeRunLauncher.from_config_value(DATA, {"networks": ["n"]})
    with pytest.raises(DagsterInvariantViolationError, match="The connection to Postgres was lost"):
        launch._launch_container_with_command(DagsterRun(job_name="job", tags={}), "image", [])
    assert not launch.launching


@pytest.mark.parametrize("for_clients", [True, False])
def test_a_run_that_could_not_be_queued_says_so_and_is_not_launched_after_a_client_got_an_error(
    monkeypatch, for_clients
):
    lost = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
    monkeypatch.setattr(QueuedRunCoordinator, "submit_run", Mock(side_effect=lost))
    note_images(for_clients=for_clients)
    instance = Mock(run_retries_max_retries=2)
    run = SimpleNamespace(status=DagsterRunStatus.QUEUED, run_id="run", tags={})
    coordinator = Mock(_instance=instance)
    with pytest.raises(DagsterInvariantViolationError, match="was put into the queue"):
        QueuedRunCoordinator.submit_run(coordinator, Mock(dagster_run=run))
    tags = [call.args[1] for call in instance.add_run_tags.call_args_list]
    assert tags == ([{"dagster/max_retries": "0", "docker/max_retries_before": "2"}] * for_clients)


@pytest.mark.parametrize(
    ("status", "seconds", "is_launching", "health"),
    [
        ("created", 5, False, WorkerStatus.RUNNING),
        ("created", 20, False, WorkerStatus.FAILED),
        ("created", 20, True, WorkerStatus.RUNNING),
        ("running", 9999, False, WorkerStatus.RUNNING),
        ("exited", 1, False, WorkerStatus.FAILED),
    ],
)
def test_a_container_that_was_created_and_not_started_is_dead_when_its_launch_is_over(
    monkeypatch, status, seconds, is_launching, health
):
    launch = ComposeRunLauncher.from_config_value(DATA, {"networks": ["n"]})
    run = DagsterRun(job_name="job", tags={"docker/container_id": "c1"})
    created = datetime.now(UTC) - timedelta(seconds=seconds)
    state = {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": ""}
    # The engine writes nanoseconds.
    attributes = {"State": state, "Created": f"{created:%Y-%m-%dT%H:%M:%S}.123456789Z"}
    assert attributes.keys() <= set(INSPECTED)
    container = SimpleNamespace(status=status, attrs=attributes)
    monkeypatch.setattr(launch, "_container_of", lambda _: container)
    monkeypatch.setattr(launch, "get_container_context", Mock())
    launch.warm = Mock(has_left=Mock(return_value=False))
    if is_launching:
        launch.launching.add(run.run_id)
    try:
        assert launch.check_run_worker_health(run).status == health
    finally:
        launch.launching.discard(run.run_id)


def test_the_labels_of_one_run_s_container_are_not_those_of_the_next():
    """DockerRunLauncher adds the run's ID to the labels that it is given."""
    config = {"networks": ["n"], "container_kwargs": {"labels": {"dagster/stack": "blue"}}}
    launch = ComposeRunLauncher.from_config_value(DATA, config)
    for run in (DagsterRun(job_name="one"), DagsterRun(job_name="other")):
        labels = launch.get_container_context(run).container_kwargs["labels"]
        assert labels == {"dagster/stack": "blue"}
        labels["dagster/run_id"] = run.run_id
