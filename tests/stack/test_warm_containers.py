"""Run containers that wait for a run: each takes one run, once, or none at all."""

import pytest

from support.chaos import kill
from support.cli import docker
from support.harness import wait_until

# Other tests leave containers for many runs.
WAITS = "run_id IS NULL AND runs_left = 1 AND is_waiting(number)"
STARTS = "SELECT count(*) FROM event_logs WHERE run_id = '{}' AND dagster_event_type = 'STEP_START'"


def waiting(stack, but=()):
    """The ID of a container that waits for a run."""
    found = f"SELECT container_id FROM warm_containers WHERE {WAITS} ORDER BY number"
    return wait_until(
        lambda: [one for one in stack.sql(found) if one not in but], "a container that waits"
    )[0]


@pytest.fixture
def warm(stack):
    """A container that waits for a run."""
    stack.run("talk")  # the first run of a code location has a container of its own
    return waiting(stack)


def container_of(stack, run):
    return stack.tags_of(run)["docker/container_id"]


def starts(stack, run):
    return int(stack.sql(STARTS.format(run))[0])


def test_a_run_is_taken_by_a_container_that_waits_and_another_one_takes_its_place(stack, warm):
    run = stack.run("talk")
    assert container_of(stack, run) == stack.run_containers()[run] == warm
    assert f"Launching run in the warm container {warm}" in stack.said_of(run)
    assert stack.captured(run)[0] == "said on stdout\n"
    assert stack.ended(warm)["ExitCode"] == 0
    assert waiting(stack) != warm
    again = stack.verb("run-step", run, "speak")
    assert "said on stdout" in again.stdout, again.stderr
    said = stack.verb("logs", run)
    assert "STEP_OUTPUT" in said.stdout + said.stderr


def test_one_that_was_killed_costs_the_next_run_nothing(stack, warm):
    docker("kill", warm)
    wait_until(lambda: not stack.sql(f"SELECT 1 FROM warm_containers WHERE {WAITS}"), "its end")
    assert container_of(stack, stack.run("talk")) != warm


@pytest.mark.whole
def test_one_that_is_killed_while_it_loads_its_code_is_made_again_after_the_next_run(stack, warm):
    stack.run("talk")
    loading = "SELECT container_id FROM warm_containers WHERE ready_at IS NULL AND runs_left = 1"
    docker("kill", wait_until(lambda: stack.sql(loading), "one that loads")[0])
    none = "SELECT 1 FROM warm_containers WHERE run_id IS NULL AND runs_left = 1"
    wait_until(lambda: not stack.sql(none), "the daemon to notice it", 30)
    stack.run("talk")
    assert waiting(stack)


def test_one_that_hangs_loses_the_run_to_a_new_container_and_ends_when_it_wakes(stack, warm):
    docker("pause", warm)
    run = stack.run("talk")
    assert container_of(stack, run) != warm
    docker("unpause", warm)
    assert stack.ended(warm)["ExitCode"] == 0
    assert starts(stack, run) == 1


def test_a_run_that_was_handed_over_and_not_taken_when_the_daemon_ended_is_launched_again(
    stack, warm
):
    docker("pause", warm)
    run = stack.launch("talk")
    given = f"SELECT 1 FROM warm_containers WHERE run_id = '{run}' AND given_at IS NOT NULL"
    wait_until(lambda: stack.sql(given), "the hand-over")
    kill(stack, "daemon")
    assert stack.finished(run) == "FAILURE"
    docker("unpause", warm)
    assert stack.ended(warm)["ExitCode"] == 0
    assert starts(stack, run) == 0
    (again,) = wait_until(lambda: stack.retries_of(run), "the second attempt")
    assert stack.finished(again) == "SUCCESS"


def test_a_run_in_one_that_is_killed_says_why_it_ended(stack, warm):
    run = stack.launch("hang")
    wait_until(lambda: starts(stack, run), "the op")
    assert container_of(stack, run) == warm
    docker("kill", warm)
    assert stack.finished(run) == "FAILURE"
    assert "It was killed from outside (SIGKILL)" in stack.said_of(run)
    (again,) = wait_until(lambda: stack.retries_of(run), "the second attempt")
    wait_until(lambda: starts(stack, again), "the op")
    stack.terminate(again)
    assert stack.finished(again) == "CANCELED"


def test_a_run_in_one_can_be_terminated(stack, warm):
    run = stack.launch("hang")
    wait_until(lambda: starts(stack, run), "the op")
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"
    assert container_of(stack, run) == warm
    stack.ended(warm)


def test_a_run_with_a_limit_of_its_own_gets_a_container_of_its_own(stack, warm):
    run = stack.run("small")
    assert container_of(stack, run) != warm
    assert stack.inspect(container_of(stack, run))["HostConfig"]["Memory"] == 512 * 2**20


def test_one_that_has_loaded_other_secrets_takes_no_run(stack, warm):
    volume = f"--volume={stack.name}_code_location-settings:/settings"
    image = stack.config["services"]["code_location"]["image"]

    def write(change):
        docker("run", "--rm", "--network=none", "--user=0", volume, image, "sh", "-c", change)

    write("cp -p /settings/.env /settings/.env.before; echo TOKEN=new >>/settings/.env")
    try:
        assert container_of(stack, stack.run("talk")) != warm
        assert stack.ended(warm)["ExitCode"] == 0
    finally:
        write("mv /settings/.env.before /settings/.env")


def test_they_outlive_a_restart_of_postgres_and_not_one_of_the_daemon(stack, warm):
    stack.compose("restart", "postgres")
    wait_until(stack.is_healthy, "Postgres to be back")
    wait_until(lambda: waiting(stack) == warm, "it to wait again")
    assert container_of(stack, stack.run("talk")) == warm
    other = waiting(stack, but=[warm])
    stack.compose("restart", "daemon")
    assert stack.ended(other)["ExitCode"] == 0


def test_code_can_take_no_run_that_was_not_handed_to_its_container(stack, warm):
    """It has the same role as the container that waits, and not its secret."""
    attempts = [
        "SELECT * FROM warm_containers",
        "UPDATE warm_containers SET run_id = NULL",
        "SELECT is_waiting(1)",
        "SELECT take_run()",
        "SET warm.proof = 'guessed'",
        "SELECT take_run()",
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%take_run()%' AND state = 'idle'",
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%proof%' AND state = 'idle'",
    ]
    refused = "42501"
    assert stack.as_role("dagster_code", attempts) == [
        *[refused] * 3, [[None]], [], [[None]], [[1]], [[0]],
    ]  # fmt: skip
    assert waiting(stack) == warm


@pytest.mark.whole
def test_an_upgrade_adds_what_the_table_of_an_earlier_version_lacks(stack, warm):
    stack.sql("ALTER TABLE warm_containers DROP COLUMN runs_left, DROP COLUMN free_since")
    stack.compose("run", "--rm", "migrate")
    # Two of them wait while one replaces the other.
    assert set(stack.sql("SELECT runs_left FROM warm_containers WHERE run_id IS NULL")) == {"1"}
    assert container_of(stack, stack.run("talk")) == warm
