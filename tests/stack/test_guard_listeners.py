"""The guard on the real engine: what comes out of accepted requests, and hostile clients."""

import json
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings

from control_plane.guard.policy import COMMANDS, RESOURCES
from support.cli import docker
from support.create_request import LAUNCHER, RUN, launcher_request, mutated, mutations
from support.hardening import weaknesses
from support.harness import wait_until

# One request to the listener whose socket a container of the stack mounts.
CALL = """
import http.client, json, socket, sys
def call(method, path, body=None):
    connection = http.client.HTTPConnection("guard")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/run/guard/docker.sock")
    connection.request(method, "/v1.45/containers/" + path, body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read() or b"null")
"""
# Sends each line of stdin; prints status and answer.
SEND = f"""{CALL}
for line in sys.stdin:
    print(json.dumps(call("POST", "create", line.encode())))
"""
# What the engine derives from the limits and the run, and when and as what it made a container.
ITS_OWN = {*RESOURCES, "MemorySwap", "ContainerIDFile"}


def requests(stack):
    """The launcher's own, and 100 mutations of it, the same every time."""
    image = stack.config["services"]["code_location"]["image"]
    request = launcher_request(stack.name, image)
    made = [request]

    @settings(max_examples=100, database=None, derandomize=True, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutations())
    def collect(mutation):
        made.append(mutated(request, mutation))

    collect()
    return made


@pytest.fixture(scope="module")
def created(stack):
    """What was sent, and the containers that the engine made of it, as it describes them."""
    asked = requests(stack)
    done = subprocess.run(
        ["docker", "exec", "--interactive", stack.container_of("daemon"), "python", "-c", SEND],
        input="".join(json.dumps(request) + "\n" for request in asked),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    identifiers = [answer["Id"] for status, answer in answers if status == 201]
    yield answers, json.loads(docker("inspect", *identifiers))
    docker("rm", *identifiers)


def test_some_requests_are_accepted_and_the_launcher_s_own_is(created):
    answers, containers = created
    assert answers[0][0] == 201
    statuses = [status for status, _ in answers]
    assert statuses.count(403) > 20
    assert len(containers) > 20


def test_containers_of_accepted_requests_are_what_dagster_yaml_says(stack, created, finished_run):
    filled = json.dumps(LAUNCHER["container_kwargs"]).replace("${STACK_NAME}", stack.name)
    kwargs = json.loads(filled.replace("${LOCATION}", "code_location"))
    model = stack.inspect(stack.run_containers()[finished_run])
    server = stack.inspect(stack.container_of("code_location"))
    of_the_image = json.loads(docker("inspect", server["Image"]))[0]["Config"]
    variables = {entry.partition("=")[0] for entry in of_the_image["Env"]}
    for container in created[1]:
        config, host = container["Config"], container["HostConfig"]
        assert not weaknesses(container)
        assert {k: v for k, v in host.items() if k not in ITS_OWN} == {
            k: v for k, v in model["HostConfig"].items() if k not in ITS_OWN
        }
        assert sorted(host["Binds"]) == sorted(kwargs["volumes"])
        assert (host["NetworkMode"], host["IpcMode"]) == (f"{stack.name}_runs", "private")
        assert list(container["NetworkSettings"]["Networks"]) == [f"{stack.name}_runs"]
        assert 0 < host["Memory"] <= 2**30
        assert 0 < host["NanoCpus"] <= kwargs["nano_cpus"]
        assert 0 < host["PidsLimit"] <= kwargs["pids_limit"]
        assert container["Image"] == server["Image"]
        assert (config["Entrypoint"], config["User"]) == (None, of_the_image["User"])
        assert config["Cmd"][:3] in COMMANDS
        assert {entry.partition("=")[0] for entry in config["Env"]} <= {
            *variables, *LAUNCHER["env_vars"], "DAGSTER_RUN_JOB_NAME"
        }  # fmt: skip
        of_the_run = {"dagster/run_id": RUN, "dagster/job_name": "process_numbers"}
        assert config["Labels"] == {**of_the_image["Labels"], **kwargs["labels"], **of_the_run}


def test_a_run_is_made_from_the_image_that_its_server_runs_though_the_tag_has_moved(stack):
    tag = stack.config["services"]["code_location"]["image"]
    served = stack.inspect(stack.container_of("code_location"))["Image"]
    docker("tag", stack.config["services"]["postgres"]["image"], tag)
    try:
        run = stack.run("process_numbers")
        assert stack.inspect(stack.run_containers()[run])["Image"] == served
    finally:
        docker("tag", served, tag)


# Holds as many containers as the limit running; prints what the guard says to one more.
START = f"""{CALL}
answers = [call("POST", identifier + "/start") for identifier in json.loads(sys.stdin.read())]
print(json.dumps(answers))
"""


def test_no_more_run_containers_than_the_limit_can_be_started_however_many_were_made(stack):
    """Made by us with the labels of run containers, in states that the guard has to look for."""
    limit = int(stack.config["services"]["guard"]["environment"]["GUARD_MAX_RUNS"])
    image = stack.config["services"]["code_location"]["image"]
    labels = f"--label=dagster/stack={stack.name}", f"--label=dagster/run_id={RUN}"
    wait_until(lambda: not stack.run_containers(running_only=True), "runs to end")
    made = [
        docker("create", "--network=none", *labels, image, "sleep", "600").strip()
        for _ in range(limit + 3)
    ]
    try:
        done = subprocess.run(
            ["docker", "exec", "-i", stack.container_of("daemon"), "python", "-c", START],
            input=json.dumps(made), capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers = json.loads(done.stdout)
        statuses = [status for status, _ in answers]
        # One that waits for a run counts.
        started = statuses.count(204)
        assert statuses == [204] * started + [403] * (limit + 3 - started)
        alive = docker("ps", "--quiet", labels[0].replace("--", "--filter=")).split()
        assert len(alive) == limit
        assert f"{limit} run containers are alive, {limit} may be" in answers[-1][1]["message"]
    finally:
        docker("rm", "--force", *made)
