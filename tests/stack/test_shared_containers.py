"""A container that executes many runs, one after the other (tag dagster/isolation: disabled)."""

import json
import re

import pytest

from support.cli import docker
from support.harness import wait_until


def container_of(stack, run):
    return stack.tags_of(run)["docker/container_id"]


def starts(stack, run):
    """How often a step of a run has started."""
    query = f"SELECT count(*) FROM event_logs WHERE run_id = '{run}'"
    return int(stack.sql(f"{query} AND dagster_event_type = 'STEP_START'")[0])


def waits_again(stack, container):
    """A run that is launched earlier gets another container that waits."""
    waits = "SELECT 1 FROM warm_containers WHERE run_id IS NULL AND is_waiting(number)"
    wait_until(lambda: stack.sql(f"{waits} AND container_id = '{container}'"), "it to wait again")


@pytest.fixture
def used(stack):
    """A container that has executed a run, and waits for the next one, and that run."""
    for other in stack.run_containers().values():
        docker("rm", "--force", other)
    run = stack.run("shared")
    container = container_of(stack, run)
    # The one with the lowest number is chosen first: one that was made meanwhile could have it.
    for other in {*stack.run_containers().values()} - {container}:
        docker("rm", "--force", other)
    waits_again(stack, container)
    return container, run


def test_each_run_has_a_process_of_its_own_and_finds_nothing_of_the_one_before(stack, used):
    container, first = used
    second = stack.run("shared")
    assert container_of(stack, second) == container
    found = [
        re.search(r"process (\d+) found (.*)", stack.captured(run)[0]) for run in (first, second)
    ]
    assert found[0][1] != found[1][1]
    assert found[0][2] == found[1][2] == "False, [], []"
    assert {run: stack.run_containers()[run] for run in used[1:]} == {first: container}
    assert stack.run_containers()[second] == container
    said = stack.verb("logs", first)
    assert "STEP_OUTPUT" in said.stdout + said.stderr


def test_a_run_that_fails_leaves_the_container_to_the_next_one(stack, used):
    failed = stack.launch("shared_fail")
    assert stack.finished(failed) == "FAILURE"
    assert container_of(stack, failed) == used[0]
    waits_again(stack, used[0])
    assert container_of(stack, stack.run("shared")) == used[0]


def test_a_run_is_terminated_alone_and_its_container_takes_no_other(stack, used):
    container, first = used
    run = stack.launch("shared_hang")
    wait_until(lambda: starts(stack, run), "the op")
    assert container_of(stack, run) == container
    stack.terminate(first)
    assert stack.inspect(container)["State"]["Status"] == "running"
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"
    stack.ended(container)
    assert stack.status_of(first) == "SUCCESS"
    assert container_of(stack, stack.run("shared")) != container


def test_a_run_whose_process_is_killed_says_so_and_ends_its_container(stack, used):
    run = stack.launch("shared_be_killed")
    assert stack.finished(run) == "FAILURE"
    said = stack.said_of(run)
    assert "It was killed from outside (SIGKILL)" in said
    assert "Its last lines:" in said
    assert used[1] not in said, "lines of the run before"
    assert stack.ended(container_of(stack, run))["ExitCode"] == 137


@pytest.mark.whole
def test_a_run_whose_process_ends_without_a_word_fails_though_its_container_goes_on(stack, used):
    run = stack.launch("shared_end_without_a_word")
    assert stack.finished(run) == "FAILURE"
    assert "Its process ended with exit code 0 before it reported the run's end" in stack.said_of(
        run
    )
    assert stack.inspect(used[0])["State"]["Status"] == "running"


@pytest.mark.whole
def test_what_cannot_be_removed_after_a_run_ends_the_container(stack, used):
    """Memory of System V outlives its processes."""
    assert container_of(stack, stack.run("shared_leave_memory")) == used[0]
    assert stack.ended(used[0])["ExitCode"] == 0
    assert container_of(stack, stack.run("shared")) != used[0]


@pytest.mark.whole
def test_of_twenty_runs_at_once_few_need_a_new_container_and_each_executes_once(stack, used):
    runs = [stack.launch("shared") for _ in range(20)]
    assert {stack.finished(run) for run in runs} == {"SUCCESS"}
    assert {starts(stack, run) for run in runs} == {1}
    containers = {container_of(stack, run) for run in runs}
    assert used[0] in containers
    assert len(containers) <= 10, "each has a container of its own"
    # What a burst leaves over ends.
    waiting = "SELECT count(*) FROM warm_containers WHERE run_id IS NULL"
    wait_until(lambda: stack.sql(waiting) == ["1"], "the others to end", 180)


def test_code_in_a_container_for_one_run_can_take_no_second_one(stack):
    stack.run("talk")
    waits = "SELECT 1 FROM warm_containers WHERE runs_left = 1 AND is_waiting(number)"
    wait_until(lambda: stack.sql(waits), "a container that waits for one run")
    run = stack.launch("hang")
    wait_until(lambda: starts(stack, run), "the op")
    command = stack.inspect(container_of(stack, run))["Config"]["Cmd"]
    proof = f"-c warm.proof={json.loads(command[3])['proof']}"
    asked = ["SELECT wait_again()", "SELECT take_run()"]
    assert stack.as_role("dagster_code", asked, options=proof) == [[[False]], [[None]]]
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"
