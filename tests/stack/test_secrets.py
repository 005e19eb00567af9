"""A secret is read by the runs of its code location, and is nowhere else."""

import json
import re
import subprocess

import pytest

from support.cli import COMMAND, commands, docker
from support.harness import wait_until

VALUE, OTHER = "s3cr3t-f0r-th3-t3st", "an0th3r-s3cr3t"
READS = """
import hashlib
import os
from pathlib import Path

import dagster as dg


@dg.op
def read_secret():
    text = Path("/run/dagster-settings/secrets/password").read_text()
    digests = [hashlib.sha256(one.encode()).hexdigest() for one in (text, os.environ["PASSWORD"])]
    dg.get_dagster_logger().info(f"digests: {digests[0]} {digests[1]}")


@dg.job
def reads_secret():
    read_secret()
"""


def store(stack, name, value, *words):
    return subprocess.run(
        [*COMMAND, "secret", name, *words], cwd=stack.root, env=stack.environment,
        input=f"{value}\n".encode(), capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def keeper(stacks):
    made = stacks.make("secrets")
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert store(made, "password", VALUE).returncode == 0
    defs = made.root / "code_location/src/code_location/defs"
    (defs / "reads_secret.py").write_text(READS)
    (made.root / "code_location/.env").write_text("PASSWORD=secret:password\n")
    done = made.verb("deploy")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    yield made
    stacks.remove(made)


def digests(stack, run):
    (said,) = [e["message"] for e in stack.events(run) if "digests: " in e.get("message", "")]
    return said.split()[-2:]


def of(value):
    import hashlib

    return hashlib.sha256(value.encode()).hexdigest()


def test_a_run_reads_a_secret_as_a_file_and_as_a_variable_and_a_new_value_at_once(keeper):
    run = keeper.run("reads_secret")
    assert digests(keeper, run) == [of(VALUE)] * 2
    container = keeper.run_containers()[run]
    # The waiting container has the old value, and takes no run any more.
    assert store(keeper, "password", OTHER).returncode == 0
    assert digests(keeper, keeper.run("reads_secret")) == [of(OTHER)] * 2
    everything = docker("inspect", container, keeper.container_of("code_location"))
    events = json.dumps(keeper.events(run))
    logs = keeper.compose("logs").stdout + docker("logs", container)
    for text in (everything, events, logs):
        assert VALUE not in text
        assert OTHER not in text
    environment = keeper.compose("exec", "-T", "code_location", "cat", "/proc/1/environ").stdout
    assert OTHER not in environment


def test_no_other_service_can_read_it_and_bad_input_is_refused(keeper):
    mounted = "/run/dagster-settings"
    for service, state in keeper.services().items():
        mounts = keeper.inspect(state["ID"])["Mounts"]
        has = any(mount["Destination"] == mounted for mount in mounts)
        assert has == service.startswith("code_location"), service
    for name, value, words, said in (
        ("../.env", "x", (), "a name has"),
        ("empty", "", (), "is empty"),
        ("large", "x" * (1 << 21), (), "longer than"),
        ("fine", "x", ("nowhere",), "there are the code locations"),
    ):
        done = store(keeper, name, value, *words)
        assert done.returncode == 1
        assert said in done.stderr.decode()


@pytest.mark.whole
def test_a_secret_that_is_named_and_not_stored_is_refused_by_name(keeper):
    file = keeper.root / "code_location/.env"
    before = file.read_text()
    file.write_text(before + "OTHER=secret:not_there\n")
    done = keeper.verb("deploy")
    file.write_text(before)
    assert done.returncode == 1
    assert "./stack secret not_there" in done.stderr
    assert keeper.verb("deploy").returncode == 0
    keeper.run("reads_secret")


@pytest.mark.whole
def test_a_server_that_lacked_a_secret_is_replaced_by_a_deploy_once_it_is_stored(keeper):
    file = keeper.root / "code_location/.env"
    before = file.read_text()
    file.write_text(f"{before}LATE=secret:late\n")
    done = keeper.verb("up")
    assert "./stack secret late" in done.stderr
    assert store(keeper, "late", OTHER).returncode == 0
    done = keeper.verb("deploy")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert keeper.is_healthy()

    removed = keeper.verb("secret", "late", "--remove")
    assert removed.returncode == 1
    assert "first take out the line LATE, and make deploy" in removed.stderr
    file.write_text(before)
    assert keeper.verb("deploy").returncode == 0
    assert keeper.verb("secret", "late", "--remove").returncode == 0
    assert keeper.verb("secret", "late", "--remove").stderr == "secret: there is no secret late\n"


@pytest.mark.whole
def test_a_project_s_env_that_was_deleted_is_noticed_by_deploy_and_by_up(keeper):
    file = keeper.root / "code_location/.env"
    before = file.read_text()
    for verb, said in (("deploy", "  variables removed: PASSWORD\n"), ("up", "")):
        container = keeper.container_of("code_location")
        started = keeper.inspect(container)["State"]["StartedAt"]
        file.unlink()
        done = keeper.verb(verb)
        file.write_text(before)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        assert said in done.stdout
        now = keeper.container_of("code_location")
        assert (now, keeper.inspect(now)["State"]["StartedAt"]) != (container, started), verb
        done = keeper.verb("deploy")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        assert "  variables added: PASSWORD\n" in done.stdout


def test_all_passwords_are_replaced_while_runs_go_on_and_none_is_lost(keeper):
    files = "/run/postgres-credentials/passwords.sql", "/run/sign-in-credentials/dagster"

    def passwords():
        found = [keeper.compose("exec", "-T", "postgres", "cat", files[0]).stdout]
        return [*found, keeper.compose("exec", "-T", "sign_in", "cat", files[1]).stdout]

    before = passwords()
    runs = [keeper.launch("process_numbers") for _ in range(6)]
    done = keeper.verb("rotate")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    after = passwords()
    assert all(old != new for old, new in zip(before, after, strict=True))
    for cached in ("client", "password"):
        keeper.__dict__.pop(cached, None)
    for run in runs:
        assert keeper.finished(run) == "SUCCESS"
        assert not keeper.retries_of(run)
    keeper.run("process_numbers_asset")
    # The old ones open nothing.
    role, old = re.search(r"(dagster_code) PASSWORD '(.*)'", before[0]).groups()
    (refused,) = [keeper.as_role(role, ["SELECT 1"], password=old)]
    assert "password authentication failed" in refused
    assert old not in keeper.compose("logs", "postgres").stdout
    assert wait_until(keeper.is_healthy, "the stack to be healthy")


@pytest.mark.whole
def test_runs_wait_out_a_rotation_that_was_interrupted_and_say_what_they_wait_for(keeper):
    runs = [keeper.launch("process_numbers") for _ in range(8)]
    # What a kill leaves that comes between the passwords of the clients and those of the server.
    keeper.compose(*commands.prepare("prepare", "rotate"))

    def said():
        containers = set(keeper.run_containers(running_only=True).values())
        logs = [["docker", "logs", one] for one in containers]
        done = [subprocess.run(one, capture_output=True, text=True, check=False) for one in logs]
        return [one for one in done if "was interrupted: make rotate" in one.stderr]

    try:
        wait_until(said, "a run that waits", 120)
    finally:
        done = keeper.verb("rotate")
        for cached in ("client", "password"):
            keeper.__dict__.pop(cached, None)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    for run in runs:
        assert keeper.finished(run) == "SUCCESS"
        assert not keeper.retries_of(run)
