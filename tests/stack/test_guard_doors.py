"""The guard on the real engine: what comes out of accepted requests, and hostile clients."""

import json
import subprocess
from pathlib import Path

import pytest
from create_request import LAUNCHER, RUN, launcher_request, mutated, mutations
from harness import docker, wait_until
from hypothesis import HealthCheck, given, settings
from test_hardening import weaknesses

from control_plane.guard.policy import COMMANDS, RESOURCES

HOSTILE_CLIENTS = Path(__file__).with_name("hostile_clients.py").read_text()
# Sends each line of stdin to the daemon's door; prints status and answer.
SEND = """
import json, sys, urllib.error, urllib.request
for line in sys.stdin:
    url = "http://guard-launch:2375/v1.45/containers/create"
    try: answer = urllib.request.urlopen(urllib.request.Request(url, line.encode()))
    except urllib.error.HTTPError as error: answer = error
    print(json.dumps([answer.status, json.load(answer)]))
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


def test_containers_of_accepted_requests_are_what_dagster_yaml_says(stack, created):
    kwargs = json.loads(
        json.dumps(LAUNCHER["container_kwargs"]).replace("${STACK_NAME}", stack.name)
    )
    run = stack.run("process_numbers")
    model = stack.inspect(stack.run_containers()[run])
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


def test_2000_hostile_and_slow_connections_do_not_stop_a_launch_and_a_termination(stack):
    guard = stack.container_of("guard")
    before = stack.inspect(guard)
    image = stack.config["services"]["code_location"]["image"]
    # Half a core: what is tested is the guard, not how many processes share this machine.
    clients = docker(
        "create", f"--network={stack.name}_guard-launch", "--cpus=0.5", image,
        "python", "-c", HOSTILE_CLIENTS, "2000", "240",
    ).strip()  # fmt: skip
    docker("network", "connect", f"{stack.name}_guard-stop", clients)
    try:
        docker("start", clients)
        wait_until(lambda: "begun" in docker("logs", clients), "2,000 connections")
        stack.run("process_numbers")
        run = stack.launch("hang")
        wait_until(lambda: stack.status_of(run) == "STARTED", "the run")
        stack.graphql(
            "mutation Stop($id: String!) { terminateRun(runId: $id) { __typename } }", id=run
        )
        assert stack.finished(run) == "CANCELED"
        # They are at it still, or it would not have been meanwhile.
        assert stack.inspect(clients)["State"]["Running"]
        docker("kill", "--signal=INT", clients)
        stack.ended(clients)
        seen = json.loads(docker("logs", clients).splitlines()[-1])
    finally:
        docker("rm", "--force", clients)
    assert min(seen["idle"], seen["slow"], seen["hostile"]) > 600
    after = stack.inspect(guard)
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert (after["RestartCount"], after["State"]["OOMKilled"]) == (before["RestartCount"], False)
    assert after["State"]["Health"]["Status"] == "healthy"
