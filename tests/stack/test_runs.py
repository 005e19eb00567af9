"""Runs, from the launch to what is left of them."""

import re

import pytest

from support.cli import docker
from support.harness import wait_until

JOBS = ["process_numbers", "process_numbers_asset"]


def test_every_object_of_the_seed_is_listed(stack):
    data = stack.graphql("""{ repositoryOrError(repositorySelector: {
        repositoryLocationName: "code_location", repositoryName: "__repository__"}) {
        ... on Repository { jobs { name } schedules { name scheduleState { status } }
          assetNodes { assetKey { path } groupName description kinds } } } }""")[
        "repositoryOrError"
    ]
    assert set(JOBS) <= {job["name"] for job in data["jobs"]}
    schedules = {s["name"]: s["scheduleState"]["status"] for s in data["schedules"]}
    assert {f"{job}_every_minute": "STOPPED" for job in JOBS}.items() <= schedules.items()
    numbers = [node for node in data["assetNodes"] if node["groupName"] == "numbers"]
    assert len(numbers) == 6
    assert all(node["description"] and node["kinds"] == ["python"] for node in numbers)


@pytest.mark.quick
def test_each_job_runs_in_a_container_of_its_own_from_the_code_server_s_image(stack):
    runs = [stack.run(job) for job in JOBS]
    containers = [stack.run_containers()[run] for run in runs]
    assert len(set(containers)) == len(JOBS)
    server = stack.inspect(stack.container_of("code_location"))
    for container in containers:
        run_container = stack.inspect(container)
        assert run_container["Image"] == server["Image"]
        assert stack.ended(container)["ExitCode"] == 0
        assert list(run_container["NetworkSettings"]["Networks"]) == [f"{stack.name}_runs"]


def test_a_job_s_tags_limit_its_run_and_one_that_asks_for_too_much_says_so(stack):
    run = stack.run("small")
    container = stack.inspect(stack.run_containers()[run])
    assert container["Name"] == f"/{stack.name}-small-{run[:8]}"
    host = container["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (512 * 2**20, 500_000_000)
    run = stack.launch("greedy")
    assert stack.finished(run) == "FAILURE"
    said = stack.said_of(run)
    assert "the tag dagster-docker/memory is 64g, and dagster.yaml allows at most 1g" in said
    assert run not in stack.run_containers()


def test_a_run_shows_what_it_used_and_sizes_lists_it_by_job(stack, finished_run):
    tags = stack.tags_of(finished_run)
    used, limit = re.fullmatch(r"(\d+) MiB of (\d+) MiB", tags["docker/memory_peak"]).groups()
    assert 40 < int(used) < 400
    assert limit == "1024"
    cpu, wall = (float(tags[f"docker/{of}_time"].removesuffix(" s")) for of in ("cpu", "wall"))
    # Those of a warm container begin with its run.
    assert 0.05 < cpu < 60
    assert 0.1 < wall < 120
    listed = stack.verb("sizes")
    assert listed.returncode == 0, listed.stderr
    (row,) = re.findall(r"process_numbers +code_location +(.*)", listed.stdout)
    assert re.fullmatch(r"\d+ +\d+ +\d+ +1024 +\d+m( +\d+\.\d s){4}", row), row


def test_a_run_keeps_its_connections_to_postgres_and_asks_for_few(stack):
    count = """SELECT sessions FROM pg_stat_database WHERE datname = 'dagster'"""
    before = int(*stack.sql(count))
    stack.run("talk")
    # Each question of this test is one. Without the kept ones, a run has 35.
    wait_until(lambda: not stack.run_containers(running_only=True), "its container to end")
    assert int(*stack.sql(count)) - before < 15


def test_the_garbage_collector_is_off_for_dagster_s_imports_and_on_for_user_code(stack):
    stack.run("collector")


def test_an_op_that_forks_can_report_from_both_processes(stack):
    run = stack.run("forks")
    said = {event.get("message") for event in stack.events(run)}
    assert {f"{who} {number}" for who in ("parent", "child") for number in range(20)} <= said


@pytest.mark.parametrize(
    ("start", "is_forked", "is_warm"),
    [
        (None, True, True),
        ("forkserver", True, True),
        ("spawn", False, True),
        # Limits of its own: it gets a new container.
        (None, True, False),
        ("forkserver", True, False),
    ],
    ids=["default", "forked", "spawned", "default-cold", "forked-cold"],
)
def test_a_step_of_the_multiprocess_executor_is_forked_or_as_the_run_says(
    stack, start, is_forked, is_warm
):
    """A spawned one is a child of the run's process."""
    config = {"execution": {"config": {"start_method": {start: {}}}}} if start else {}
    tags = {} if is_warm else {"dagster-docker/memory": "700m"}
    run = stack.run("in_processes_of_their_own", config=config, tags=tags)
    said = "\n".join(event.get("message") or "" for event in stack.events(run))
    (of_run,) = re.findall(r"multiprocess executor: parent process \(pid: (\d+)\)", said)
    (of_step,) = re.findall(r"^parent: (\d+)$", said, re.MULTILINE)
    assert (of_step != of_run) == is_forked


def test_stdout_and_stderr_outlive_the_container(stack):
    run = stack.run("talk")
    container = stack.run_containers()[run]
    stack.ended(container)
    docker("rm", container)
    stdout, stderr = stack.captured(run)
    assert "said on stdout" in stdout
    assert "said on stderr" in stderr


def test_a_terminated_run_is_canceled_and_its_container_stops(stack):
    run = stack.launch("hang")
    wait_until(lambda: any(e.get("message") == "waiting" for e in stack.events(run)), "the op")
    container = stack.run_containers(running_only=True)[run]
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"
    stack.ended(container)


def test_a_failing_op_fails_the_run_with_its_traceback_and_is_not_run_again(stack):
    run = stack.launch("fail")
    assert stack.finished(run) == "FAILURE"
    (failure,) = [e for e in stack.events(run) if e["__typename"] == "ExecutionStepFailureEvent"]
    (cause,) = failure["error"]["causes"]
    assert cause["message"] == "RuntimeError: the pump is dry\n"
    assert any("extra_definitions.py" in frame for frame in cause["stack"])
    assert stack.retries_of(run) == []


def test_an_asset_written_by_one_run_is_read_by_the_next_run_s_container(stack):
    stack.run("__ASSET_JOB", assets=["generated_numbers"])
    run = stack.run("__ASSET_JOB", assets=["filtered_even_numbers"])
    loaded = [e for e in stack.events(run) if e["__typename"] == "LoadedInputEvent"]
    assert loaded, stack.events(run)


@pytest.mark.parametrize("argument", ["whole id", "first characters"])
def test_the_log_of_a_run_s_container_can_be_asked_for(stack, finished_run, argument):
    done = stack.verb("logs", finished_run if argument == "whole id" else finished_run[:8])
    assert "RUN_SUCCESS" in done.stdout + done.stderr


def test_asking_for_the_log_of_an_unknown_run_says_where_to_look(stack):
    done = stack.verb("logs", "0000dead")
    assert done.returncode == 1
    assert "no containers on this machine belong to run 0000dead" in done.stderr
    assert f"{stack.ui_url}/runs" in done.stderr
