"""The services: crash-safe, side by side, and silent about the password."""

import json
import os
import re
import signal
import subprocess

import pytest

from support.cli import COMMAND, basic, docker
from support.edge_client import JSON, ask
from support.harness import wait_until

SERVICES = ["postgres", "guard", "code_location", "webserver", "daemon", "sign_in", "edge"]


def history(stack):
    data = stack.graphql("{ runsOrError { ... on Runs { results { runId status } } } }")
    return {run["runId"]: run["status"] for run in data["runsOrError"]["results"]}


def kill(stack, service):
    """Ends a service's processes, and waits until it is healthy again."""
    container = stack.container_of(service)
    before = stack.inspect(container)["State"]["StartedAt"]
    # From inside: after `docker kill` Docker would take the stop for the operator's wish.
    subprocess.run(["docker", "exec", container, "sh", "-c", "kill -9 -1"], check=False)
    wait_until(lambda: stack.inspect(container)["State"]["StartedAt"] != before, "a restart")
    wait_until(lambda: stack.inspect(container)["State"]["Health"]["Status"] == "healthy", service)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_killed_comes_back_healthy_by_itself(stack, service):
    kill(stack, service)


@pytest.mark.parametrize("user", ["dagster", "viewer"])
def test_after_postgres_has_restarted_a_user_s_first_question_is_answered(stack, user):
    # One question for each of the storages of runs, events, and schedules.
    query = """{ runsOrError(limit: 1) { __typename } assetsOrError(limit: 1) { __typename }
        instigationStatesOrError(repositoryID: "") { __typename } }"""
    headers = {**JSON, "Authorization": basic(user, stack.password_of(user))}
    asked = "POST", "/graphql", headers, json.dumps({"query": query}).encode()
    before = ask(stack, *asked, sign_in=False).text
    kill(stack, "postgres")
    assert ask(stack, *asked, sign_in=False).text == before


def test_after_every_service_was_killed_once_a_job_still_runs(stack):
    wait_until(stack.is_healthy, "the whole stack")
    stack.run("process_numbers")


def test_a_full_disk_makes_the_daemon_unhealthy_and_is_named(stack):
    full = "from control_plane import probe; probe.LEAST_FREE_BYTES = 2**62; print(probe.daemon())"
    said = docker("exec", stack.container_of("daemon"), "python", "-c", full)
    assert "the disk is full, " in said
    assert "are left for /var/lib/dagster/storage and " in said
    assert "are left for /var/lib/dagster/compute-logs: delete what you do not need" in said


def test_migrating_a_database_that_is_up_to_date_is_harmless(stack):
    before = history(stack)
    done = stack.compose("run", "--rm", "migrate")
    assert "migrate: Updating run storage..." in done.stdout
    assert history(stack) == before


def test_no_secret_is_in_a_configuration_environment_command_line_image_or_log(stack, tmp_path):
    kept = stack.compose(
        "exec", "--no-TTY", "postgres", "cat", "/run/postgres-credentials/passwords.sql"
    ).stdout
    of_roles = re.findall("PASSWORD '(.{40,})'", kept)
    of_users = [stack.password_of(user) for user in ("dagster", "viewer")]
    secrets = {*of_roles, *of_users}
    assert len(secrets) == 6
    assert min(map(len, secrets)) >= 40
    run = stack.run("process_numbers")  # launched with the operator's
    containers = [row["ID"] for row in stack.services().values()] + [stack.run_containers()[run]]
    shown = [docker("inspect", container) for container in containers]
    shown += [docker("top", stack.container_of(service)) for service in SERVICES]
    shown += [stack.compose("config").stdout, stack.compose("logs").stdout]
    shown.append(json.dumps(stack.events(run)))
    assert not [text[:200] for text in shown if any(secret in text for secret in secrets)]
    images = {row["Image"] for row in stack.services().values()}
    assert len(images) >= 6
    patterns = tmp_path / "secrets"
    patterns.write_text("\n".join(secrets))
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
        grep = ["grep", "--text", "--fixed-strings", "--count", f"--file={patterns}"]
        found = subprocess.run(grep, stdin=saved.stdout, capture_output=True, check=False)
    assert (found.stdout, saved.returncode) == (b"0\n", 0)


@pytest.mark.whole
@pytest.mark.parametrize(
    "lost",
    [
        ["postgres", "owner", "control", "code", "viewer"],
        pytest.param(["code"], marks=pytest.mark.whole),
        pytest.param([], marks=pytest.mark.whole),
    ],
)
def test_down_and_up_keeps_history_also_without_a_password_volume(stack, lost):
    stack.run("process_numbers_asset")
    before = history(stack)
    assert stack.verb("down").returncode == 0
    assert docker("ps", "--all", "--quiet", "--filter", f"network={stack.name}_runs") == ""
    for name in lost:
        docker("volume", "rm", f"{stack.name}_{name}-credentials")
    up = stack.verb("up")
    assert up.returncode == 0, up.stderr
    assert history(stack) == before
    stack.run("process_numbers")


def test_status_is_quiet_when_all_is_well_and_names_what_is_not(stack):
    well = stack.verb("status")
    assert well.returncode == 0, well.stderr
    assert "All well" in well.stdout
    stack.compose("stop", "daemon")
    ill = stack.verb("status")
    assert ill.returncode == 1
    assert ill.stderr.startswith("status: daemon: exited")
    stack.compose("start", "daemon")
    wait_until(stack.is_healthy, "the daemon")


def test_credentials_are_three_lines(stack):
    lines = stack.verb("credentials").stdout.splitlines()
    assert [line.split("=")[0] for line in lines] == [
        "DAGSTER_URL",
        "DAGSTER_USER",
        "DAGSTER_PASSWORD",
    ]
    assert lines[0] == f"DAGSTER_URL={stack.url}"


@pytest.mark.parametrize("user", ["dagster", "viewer"])
def test_make_prints_the_credentials(stack, user):
    """Through make: it has variables of its own that a verb's must not be called like."""
    whose = [] if user == "dagster" else [f"FOR={user}"]
    done = subprocess.run(
        ["make", "--silent", "credentials", *whose],
        cwd=stack.root, env=stack.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"DAGSTER_URL={stack.url}",
        f"DAGSTER_USER={user}",
        f"DAGSTER_PASSWORD={stack.password_of(user)}",
    ]


def test_destroy_asks_before_it_deletes(stack):
    done = stack.verb("destroy")
    assert done.returncode == 1
    assert "FORCE=1 make destroy" in done.stderr
    assert stack.is_healthy()


@pytest.mark.whole
def test_down_can_wait_for_the_runs_in_progress_and_leaves_the_queue_alone(stack):
    first = stack.launch("hang")
    wait_until(lambda: stack.status_of(first) == "STARTED", "the run")
    try:
        with subprocess.Popen(
            [*COMMAND, "down", "--wait"], cwd=stack.root, env=stack.environment,
            stdout=subprocess.PIPE, text=True,
        ) as down:  # fmt: skip
            assert f"waiting for 1 runs: {first[:8]}" in down.stdout.readline()
            assert not stack.inspect(stack.container_of("daemon"))["State"]["Running"]
            second = stack.launch("talk")
            stack.terminate(first)
            assert "stopping" not in down.communicate(timeout=120)[0]
    finally:
        assert stack.verb("up").returncode == 0
    assert stack.status_of(first) == "CANCELED"
    assert stack.finished(second) == "SUCCESS"


@pytest.mark.whole
def test_waiting_can_be_given_up_and_the_stack_stays_up_even_after_a_second_ctrl_c(stack):
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the run")
    with subprocess.Popen(
        [*COMMAND, "down", "--wait"], cwd=stack.root, env=stack.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as down:  # fmt: skip
        for said in ("waiting for 1 runs", "the stack stays up"):
            assert said in down.stdout.readline()
            os.killpg(down.pid, signal.SIGINT)
        rest = down.communicate()[0]
    assert (down.returncode, rest) == (130, "")
    wait_until(stack.is_healthy, "the daemon")
    assert stack.status_of(run) == "STARTED"
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"


@pytest.mark.whole
def test_plain_compose_starts_a_second_stack_beside_the_first(stack, new_stack):
    """`docker compose up` with no .env and no make, where engine and images are there."""
    second = new_stack("plain", addresses="default")
    second.compose("build")
    of_the_machine = second.root / ".machine.env"
    settings = of_the_machine.read_text()
    of_the_machine.unlink()
    plain = second.environment | {"PYTHON_IMAGE": "", "POSTGRES_IMAGE": ""}
    shown = second.root / "shown"
    with shown.open("w") as output:
        client = subprocess.Popen(
            ["docker", "compose", "up"], cwd=second.root, env=plain, stdout=output, stderr=output
        )
    wait_until(lambda: "The password: " in shown.read_text(), "the line about the password", 240)
    wait_until(second.is_healthy, "the second stack")
    # It ends with where to sign in and how; the command it names prints what lets us in.
    *before, where, how = shown.read_text().splitlines()
    assert f"sign in at {second.ui_url} as dagster" in where
    assert not [line for line in before if "| " in line]
    command = how.partition("The password: docker compose ")[2].split()[:4]
    assert second.compose(command[0], "--no-TTY", *command[1:]).stdout.strip() == second.password
    run = second.run("process_numbers")
    assert run not in history(stack)
    assert stack.is_healthy()
    of_the_machine.write_text(settings)
    # What a profile added goes with the stack, also when the profile is off. The client ends too.
    ours = "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={second.name}"
    # One that is replaced has another name for a moment, and the same service.
    services = (
        *(one for one in ours if one != "--quiet"),
        "--format",
        '{{.Label "com.docker.compose.service"}}',
    )
    without = set(docker(*services).split())
    viewer = second.verb("up", COMPOSE_PROFILES="viewer")
    assert viewer.returncode == 0, viewer.stderr
    assert set(docker(*services).split()) == without | {"webserver_viewer"}
    assert second.verb("destroy", "--force").returncode == 0
    assert docker(*ours) == ""
    client.wait(60)
    left = docker("volume", "ls", "--quiet", "--filter", f"name={second.name}_")
    assert left == ""
