"""How a run ends whose container does not report the end: soon, and with the reason in words."""

import subprocess

import pytest
import yaml

from support.cli import docker
from support.harness import wait_until


def has_said(stack, run, words):
    return any(words in (event.get("message") or "") for event in stack.events(run))


def test_a_run_whose_container_is_killed_says_so_with_its_last_lines_and_is_launched_again(stack):
    """Crash-only retries: the first attempt fails by itself, Dagster launches another."""
    run = stack.launch("hang")
    wait_until(lambda: has_said(stack, run, "waiting"), "the op")
    docker("kill", stack.run_containers(running_only=True)[run])
    assert stack.finished(run) == "FAILURE"
    said = stack.said_of(run)
    assert "exit code 137. It was killed from outside (SIGKILL), and not for its memory" in said
    assert "Its last lines:" in said
    assert "wait_for_ever - waiting" in said
    (again,) = wait_until(lambda: stack.retries_of(run), "a second attempt")
    wait_until(lambda: stack.status_of(again) == "STARTED", "the second attempt to start")
    stack.terminate(again)
    assert stack.finished(again) == "CANCELED"


@pytest.mark.whole
def test_a_run_that_dies_while_the_code_server_is_away_is_launched_again_when_it_is_back(stack):
    run = stack.launch("hang")
    wait_until(lambda: has_said(stack, run, "waiting"), "the op")
    stack.compose("stop", "code_location")
    try:
        docker("kill", stack.run_containers(running_only=True)[run])
        assert stack.finished(run) == "FAILURE"
        wait_until(lambda: "Not launched again yet" in stack.said_of(run), "the first attempt")
    finally:
        stack.compose("start", "code_location")
        wait_until(stack.is_healthy, "the whole stack")
    (again,) = wait_until(lambda: stack.retries_of(run), "a second attempt")
    wait_until(lambda: stack.status_of(again) == "STARTED", "the second attempt to start")
    stack.terminate(again)
    assert stack.finished(again) == "CANCELED"


def test_a_run_that_needs_too_much_memory_names_the_limit_and_is_not_launched_again(stack):
    run = stack.launch("exceed_the_memory")
    assert stack.finished(run) == "FAILURE"
    said = stack.said_of(run)
    assert "used more memory than its limit of 1g, and was killed" in said
    assert "about to use memory" in said
    assert "{" not in said
    assert stack.tags_of(run)["docker/memory_peak"] == "1024 MiB of 1024 MiB"
    later = stack.run("talk")  # what the retry daemon would have launched came before
    assert stack.status_of(later) == "SUCCESS"
    assert stack.retries_of(run) == []


def test_a_step_in_a_process_of_its_own_that_needs_too_much_memory_names_the_limit_as_well(stack):
    run = stack.launch("exceed_the_memory_in_a_process")
    assert stack.finished(run) == "FAILURE"
    said = stack.said_of(run)
    assert "The run used more memory than its limit of 1024 MiB, and one of its processes" in said
    assert stack.tags_of(run)["dagster/max_retries"] == "0"
    later = stack.run("talk")  # what the retry daemon would have launched came before
    assert stack.status_of(later) == "SUCCESS"
    assert stack.retries_of(run) == []


def test_a_run_that_dies_before_its_start_fails_at_once_with_its_last_lines(stack):
    run = stack.launch("die_before_the_start")
    assert stack.finished(run, seconds=60) == "FAILURE"  # start_timeout_seconds is 180
    said = stack.said_of(run)
    assert "The run did not start. The process of the run ended with exit code 7" in said
    assert "out of luck" in said


@pytest.mark.whole
def test_a_run_whose_container_was_created_and_never_started_fails_and_is_launched_again(stack):
    """As if the daemon had been killed between the two."""
    stack.compose("stop", "daemon")
    try:
        run = stack.launch("talk")
        labels = {"dagster/stack": stack.name, "dagster/run_id": run, "dagster/job_name": "talk"}
        image = stack.config["services"]["code_location"]["image"]
        options = [f"--label={name}={labels[name]}" for name in labels]
        container = docker("create", *options, image, "true").strip()
        tag = f'"docker/container_id": "{container}", '
        stack.sql(
            "UPDATE runs SET status = 'STARTING', run_body = replace(replace(run_body,"
            " 'DagsterRunStatus.QUEUED', 'DagsterRunStatus.STARTING'),"
            f" '\"tags\": {{', '\"tags\": {{{tag}') WHERE run_id = '{run}'"
        )
    finally:
        stack.compose("start", "daemon")
    assert stack.finished(run, seconds=100) == "FAILURE"  # start_timeout_seconds is 180
    assert "The run did not start." in stack.said_of(run)
    (again,) = wait_until(lambda: stack.retries_of(run), "a second attempt")
    assert stack.finished(again) == "SUCCESS"


def test_a_run_waits_while_postgres_is_away_and_succeeds(stack):
    """For longer than Dagster's own six attempts, which take six seconds."""
    run = stack.launch("reports")
    wait_until(lambda: has_said(stack, run, "report 0"), "the op")
    container = stack.run_containers()[run]

    def attempts():
        done = subprocess.run(
            ["docker", "logs", container], capture_output=True, text=True, check=True
        )
        return done.stderr.count("waiting for Postgres")

    stack.compose("stop", "postgres")
    try:
        wait_until(lambda: attempts() >= 12, "the run to wait")
    finally:
        stack.compose("start", "postgres")
        wait_until(stack.is_healthy, "the whole stack")
    assert stack.finished(run) == "SUCCESS"
    assert stack.retries_of(run) == []
    said = [event["message"] for event in stack.events(run) if event.get("message")]
    assert {f"report {number}" for number in range(50)} <= set(said)


@pytest.mark.whole
def test_a_step_that_ignores_signals_is_killed_and_its_run_canceled_within_a_poll(stack):
    run = stack.launch("never_end")
    wait_until(lambda: "ignoring signals" in stack.captured(run)[0], "the op")
    stack.terminate(run)
    assert "After 30 s it is killed (stop_timeout in dagster.yaml)" in stack.said_of(run)
    # 30 s until the signal that cannot be ignored, and one poll. cancel_timeout_seconds is 60.
    assert stack.finished(run, seconds=50) == "CANCELED"


SLOW = """import sys
import time

import dagster as dg

if "execute_run" in sys.orig_argv:
    time.sleep(90)


@dg.op
def nothing(): ...


@dg.job
def slow_to_start():
    nothing()
"""


@pytest.mark.whole
def test_a_run_that_takes_too_long_to_start_has_ended_before_it_is_launched_again(new_stack):
    made = new_stack("late")
    file = made.root / "dagster.yaml"
    instance = yaml.safe_load(file.read_text())
    instance["run_monitoring"]["start_timeout_seconds"] = 15
    instance["run_launcher"]["config"]["warm_containers"] = 0
    file.write_text(yaml.safe_dump(instance))
    (made.root / "code_location/src/code_location/defs/slow.py").write_text(SLOW)
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    run = made.launch("slow_to_start")
    assert made.finished(run) == "FAILURE"
    assert "taking longer than 15 seconds to start" in made.said_of(run)
    (again,) = wait_until(lambda: made.retries_of(run), "a second attempt")
    wait_until(lambda: again in made.run_containers(), "its container")
    first, second = (made.inspect(made.run_containers()[one])["State"] for one in (run, again))
    assert not first["Running"]
    assert first["FinishedAt"] < second["StartedAt"]
    made.terminate(again)
