"""`./stack doctor` names each fault that is planted, and nothing on a healthy stack."""

import os
import shutil
import socket
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cli import docker
from support.harness import wait_until

# Copies a run that has ended: with another ID, status and age.
COPY = """INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp,
  update_timestamp) SELECT '{new}', snapshot_id, pipeline_name, '{status}',
  replace(replace(run_body, '{old}', '{new}'), 'SUCCESS', '{status}'),
  timezone('utc', now()) - interval '1 hour', timezone('utc', now()) - interval '1 hour'
FROM runs WHERE run_id = '{old}'"""


@pytest.fixture(scope="module")
def stack(stacks):
    """A stack of its own: the guard of the shared one has refused much."""
    made = stacks.make("doctor")
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    yield made
    stacks.remove(made)


def findings(stack, *, with_remedy=False, **settings):
    """What doctor finds: a line for each finding."""
    found = stack.findings(**settings)
    assert all(one["remedy"] for one in found)
    assert all(len(one["what"]) <= 300 for one in found)
    names = ("part", "what", "remedy") if with_remedy else ("part", "what")
    return [": ".join(one[name] for name in names) for one in found]


def first(stack, **settings):
    """The finding to begin with."""
    return findings(stack, **settings)[0]


# 11 GiB of 240 are free, of what others do with this machine's disk as well.
SPACE = """#!/bin/sh
case "$*" in
*exec*postgres?stat?-f*) echo 4096 62500000 2900000 6553600 6000000 ;;
*) exec {docker} "$@" ;;
esac
"""


def client_that_answers(folder, script):
    """The PATH of a command whose Docker client is a script."""
    client = folder / "docker"
    client.write_text(script.format(docker=shutil.which("docker")))
    client.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_nothing_is_said_of_a_healthy_stack(stack, finished_run, tmp_path):
    assert wait_until(stack.is_healthy, "the stack to be healthy")
    done = stack.verb("doctor", PATH=client_that_answers(tmp_path, SPACE))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stdout == "Nothing is wrong.\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("HTP_PORT=3000", "did you mean HTTP_PORT"),
        ("KEEP_RUNS=forever\nKEEP_RUNS=90d", ".env sets KEEP_RUNS twice"),
        ("KEEP_RUNS=soon", "KEEP_RUNS='soon' cannot be used"),
        ("PATH=/nowhere", ".env sets PATH"),
        ("COMPOSE_PROFILES=warehuose", "did you mean warehouse"),
        ("CA_BUNDLE=/no/such/file", "CA_BUNDLE=/no/such/file: there is no such file"),
        ("BACKUP_PASSPHRASE=/no/such/file", "BACKUP_PASSPHRASE=/no/such/file: there is no such"),
        ("CODE=no_such_project", "there is no such folder"),
        ("DOCKER_SOCKET=/no/such/socket", "is not the socket of a Docker engine"),
        ("TLS_CERTIFICATE=/etc/hostname", "TLS_CERTIFICATE also needs TLS_KEY"),
    ],
)
def test_a_wrong_setting_is_named(stack, line, said):
    file = stack.root / ".env"
    assert not file.exists()
    file.write_text(f"{line}\n")
    try:
        assert said in first(stack)
    finally:
        file.unlink()


def test_an_engine_that_does_not_answer_is_named(stack):
    assert first(stack, DOCKER_HOST="unix:///no/such/engine.sock").startswith("engine: ")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "there is no docker client"),
        ('[ "$*" = "compose version --short" ] && echo 2.20.1 || exec {docker} "$@"', "too old"),
        ('[ "$1" = compose ] && exit 1 || exec {docker} "$@"', "docker has no `compose`"),
    ],
)
def test_a_client_that_cannot_be_used_is_named(stack, tmp_path, script, said):
    real = subprocess.run(["which", "docker"], capture_output=True, text=True, check=True)
    # A folder with what the command needs besides.
    (tmp_path / "python3").symlink_to(Path(sys.executable).resolve())
    for tool in ("sh", "dirname", "readlink"):
        where = subprocess.run(["which", tool], capture_output=True, text=True, check=True)
        (tmp_path / tool).symlink_to(where.stdout.strip())
    if script:
        (tmp_path / "docker").write_text(
            f"#!/bin/sh\n{script.format(docker=real.stdout.strip())}\n"
        )
        (tmp_path / "docker").chmod(0o755)
    assert said in first(stack, PATH=str(tmp_path))


# What a machine in trouble would answer: what we do not cause where other stacks run.
TROUBLE = """#!/bin/sh
case "$*" in
*exec*postgres?stat?-f*) echo 4096 26214400 300000 6553600 1200 ;;
*exec*postgres?date*) echo $(($(date +%s) + 3600)).5 ;;
*exec*pg_database_size*) printf 'bytes,size\\n107374182400,100 GB\\n' ;;
*) exec {docker} "$@" ;;
esac
"""


def test_a_full_disk_a_wrong_clock_and_a_large_database_are_named(stack, tmp_path):
    path = client_that_answers(tmp_path, TROUBLE)
    found = "\n".join(findings(stack, of_the_disk=True, PATH=path))
    assert "disk: 1171 MiB (1 %) of the engine's disk are free" in found
    assert "disk: 1200 inodes of 6553600 are free" in found
    assert "clock: the engine's clock is +3600 s from" in found
    assert "database: it has 100 GB" in found


def test_a_machine_without_an_address_for_a_network_is_named(stack, tmp_path):
    error = "Error response from daemon: all predefined address pools have been fully subnetted"
    script = (
        f"#!/bin/sh\n[ \"$1 $2\" != 'network create' ] || {{{{ echo '{error}' >&2; exit 1; }}}}\n"
        'exec {docker} "$@"\n'
    )
    path = client_that_answers(tmp_path, script)
    # A stack of this name has no network yet.
    settings = {"STACK_NAME": f"{stack.name}-new", "HTTP_PORT": "4099"}
    found = findings(stack, PATH=path, **settings)
    assert any("networks: " in one and "fully subnetted" in one for one in found)


@pytest.mark.whole
def test_a_service_close_to_its_memory_limit_is_named(stack):
    container = stack.container_of("code_location")
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
    before = stack.inspect(container)["HostConfig"]["Memory"]

    def limit(size):
        docker("update", f"--memory={size}", f"--memory-swap={size}", container)

    limit(int(float(used.partition("MiB")[0]) * 2**20 / 0.95))
    try:
        found = wait_until(lambda: [one for one in findings(stack) if "memory limit" in one], "it")
        assert found[0].startswith("code_location: it uses 9")
    finally:
        limit(before)


# Opens sessions, and keeps them until its input ends.
SESSIONS = """
import sys, psycopg2
where = dict(host="postgres", user="dagster_code", dbname="dagster")
kept = [psycopg2.connect(passfile="/run/dagster-credentials/pgpass", **where) for _ in range(115)]
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.whole
def test_a_database_with_few_connections_left_is_named(stack):
    volume = f"{stack.name}_code-credentials:/run/dagster-credentials:ro"
    image = stack.config["services"]["code_location"]["image"]
    where = "--rm", "--interactive", f"--network={stack.name}_runs", f"--volume={volume}"
    with subprocess.Popen(
        ["docker", "run", *where, image, "python", "-c", SESSIONS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip
        assert client.stdout.readline() == "open\n"
        found = findings(stack)
        client.stdin.close()
    assert any("connections are in use, of 147 that runs can have" in one for one in found)


def test_a_port_of_somebody_else_is_named(stack):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port} on 127.0.0.1 cannot be used" in first(stack, HTTP_PORT=str(port))


@contextmanager
def stopped(stack, service, how=("stop", "start")):
    container = stack.container_of(service)
    docker(how[0], container)
    try:
        yield container
    finally:
        docker(how[1], container)
        wait_until(stack.is_healthy, "the stack to be healthy again")


LONG = [
    pytest.param(one, marks=pytest.mark.whole)
    for one in ("code_location", "daemon", "guard", "postgres")
]


@pytest.mark.parametrize("service", ["sign_in", *LONG])
def test_a_service_that_has_stopped_is_named(stack, service):
    with stopped(stack, service):
        assert any(one.startswith(f"{service}: exited") for one in findings(stack))


@pytest.mark.whole
def test_a_daemon_that_hangs_is_named_and_so_are_runs_that_wait(stack, finished_run):
    stuck, waiting = (str(uuid.uuid4()) for _ in range(2))
    with stopped(stack, "daemon", ("pause", "unpause")):
        stack.sql("UPDATE daemon_heartbeats SET timestamp = timestamp - interval '1 hour'")
        try:
            for new, status in ((stuck, "STARTING"), (waiting, "QUEUED")):
                stack.sql(COPY.format(new=new, old=finished_run, status=status))
            found = "\n".join(findings(stack))
        finally:
            stack.sql(f"DELETE FROM runs WHERE run_id IN ('{stuck}', '{waiting}')")
    assert "daemon: paused" in found
    assert "daemon: its SENSOR thread is silent for 36" in found
    assert f"runs: the run {stuck[:8]} of process_numbers neither starts nor ends" in found
    assert "queue: 1 runs wait, the first for 36" in found


def test_an_image_that_no_container_runs_yet_is_named(stack):
    name = stack.config["services"]["code_location"]["image"]
    before = docker("image", "inspect", "--format", "{{.Id}}", name).strip()
    docker("tag", stack.config["services"]["guard"]["image"], name)
    try:
        assert "code_location: a newer image is built than it runs" in findings(stack)
    finally:
        docker("tag", before, name)


@pytest.mark.whole
def test_two_code_servers_are_named(stack):
    options = "--no-build", "--no-deps", "--no-recreate", "--scale=code_location=2"
    stack.compose("up", "--detach", "--wait", *options, "code_location")
    try:
        assert any("two run: a deploy goes on" in one for one in findings(stack))
    finally:
        stack.compose("up", "--detach", "--wait", "--no-build", "--no-deps", "code_location")
    assert wait_until(stack.is_healthy, "the stack to be healthy again")


def test_what_a_deploy_that_was_killed_has_left_is_named_and_not_taken_for_the_live_server(stack):
    live = stack.services()["code_location"]
    left = stack.compose("run", "--detach", "--no-deps", "code_location").stdout.strip()
    try:
        interrupted = "code_location: a deploy goes on, or was interrupted"
        assert f"{interrupted}: make deploy" in findings(stack, with_remedy=True)
        assert stack.services()["code_location"]["ID"] == live["ID"]
    finally:
        docker("rm", "--force", left)


def test_a_file_with_keys_that_cannot_be_used_is_named(stack, tmp_path):
    empty = tmp_path / "keys"
    empty.touch()
    said = f"backup: BACKUP_KEYS {empty}: there is no such file, or its first line is empty"
    assert said in findings(stack, BACKUP_KEYS=str(empty))


def test_a_restore_that_was_interrupted_is_named(stack):
    volume = f"{stack.name}_restoring"
    docker("volume", "create", f"--label=com.docker.compose.project={stack.name}", volume)
    try:
        assert "a restore" in first(stack)
        done = stack.verb("backup")
        assert done.returncode == 1
        assert "its data is not complete: ./stack restore FILE again" in done.stderr
    finally:
        docker("volume", "rm", volume)


def test_a_rotation_that_was_interrupted_is_named(stack):
    volume = f"{stack.name}_rotating"
    docker("volume", "create", f"--label=com.docker.compose.project={stack.name}", volume)
    try:
        found = findings(stack, with_remedy=True)
        assert found[0] == "passwords: a rotation goes on, or was interrupted: make rotate"
        assert "a rotation goes on, or was interrupted: make rotate" in stack.verb("status").stderr
    finally:
        docker("volume", "rm", volume)


def test_another_stack_of_this_folder_and_a_foreign_container_with_our_name_are_named(stack):
    image = stack.config["services"]["guard"]["image"]
    folder = f"--label=com.docker.compose.project.working_dir={stack.root}"
    other = f"--label=com.docker.compose.project={stack.name}-mistyped"
    name = f"{stack.name}-daemon-7"
    mine = docker("create", folder, other, image, "true").strip()
    docker("create", f"--name={name}", "--label=com.docker.compose.project=other", image, "true")
    try:
        found = findings(stack)
        assert f"stacks: this folder also has the stack {stack.name}-mistyped" in found
        assert f"daemon: the container {name} is not of this stack" in found
    finally:
        docker("rm", mine, name)


def test_requests_that_the_guard_refuses_are_named(stack):
    program = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/guard/docker.sock');"
        "s.sendall(b'GET /v1.43/images/json HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); s.recv(99)"
    )
    stack.compose("exec", "-T", "webserver", "python", "-c", program)
    assert any("requests refused in the last hour" in one for one in findings(stack))
