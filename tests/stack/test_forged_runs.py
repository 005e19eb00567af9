"""Nothing that the database or a request says can widen what a run container may be."""

import json
import uuid

import pytest
from harness import docker, wait_until
from test_instance import sql

HOSTILE = {
    "another image": {"container_image": "dagster-test-postgres:current"},
    "privileged": {"privileged": True},
    "the host's processes": {"pid_mode": "host"},
    "the host's files": {"volumes": ["/:/host"]},
    "another command": {"entrypoint": ["sh", "-c", "id"]},
    "root": {"user": "0"},
    "a network of the control plane": {"networks": ["dagster-test_guard-launch"]},
    "the daemon's environment": {"env_vars": ["DAGSTER_HOME"]},
}


def forge(stack, model, hostile):
    """Puts a run like another into the queue, as who holds the control plane's password could."""
    (row,) = sql(stack, f"SELECT run_body FROM runs WHERE run_id = '{model}'")  # noqa: S608
    body = json.loads(row)
    run = str(uuid.uuid4())
    body |= {"run_id": run, "status": {"__enum__": "PipelineRunStatus.QUEUED"}, "tags": {}}
    origin = body["pipeline_code_origin"]["repository_origin"]
    origin["container_image"] = hostile.get("container_image", origin["container_image"])
    above = {key: hostile[key] for key in ("networks", "env_vars") if key in hostile}
    kwargs = {k: v for k, v in hostile.items() if k not in {*above, "container_image"}}
    origin["container_context"] = {"docker": {**above, "container_kwargs": kwargs}}
    insert = (
        "INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body) SELECT"  # noqa: S608
        f" '{run}', snapshot_id, pipeline_name, 'QUEUED', $body${json.dumps(body)}$body$"
        f" FROM runs WHERE run_id = '{model}'"
    )
    assert stack.as_role("dagster_control", [insert]) == [[]]
    return run


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_forged_run_fails_with_the_guard_s_reason_and_nothing_runs(stack, hostile):
    model = stack.run("process_numbers")
    run = forge(stack, model, HOSTILE[hostile])
    assert stack.finished(run) == "FAILURE"
    said = json.dumps(
        stack.graphql(
            """query Said($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
                 ... on EngineEvent { message error { message } }
                 ... on RunFailureEvent { message error { message } } } } } }""",
            id=run,
        )
    )
    assert "guard: refused" in said
    made = stack.run_containers().get(run)
    if hostile == "a network of the control plane":
        # A second network is asked for after the container was made: it is never started.
        state = stack.inspect(made)
        assert state["State"]["Status"] == "created"
        assert list(state["NetworkSettings"]["Networks"]) == [f"{stack.name}_runs"]
    else:
        assert made is None


def test_every_decision_is_one_line_of_the_guard_s_log(stack):
    stack.run("process_numbers")
    log = docker("logs", stack.container_of("guard")).splitlines()
    decisions = [json.loads(line) for line in log if line.startswith("{")]
    allowed = [d for d in decisions if d["decision"] == "allowed" and d["path"].endswith("create")]
    assert allowed
    assert {d["door"] for d in allowed} == {"daemon"}


def test_the_guard_cannot_be_reached_from_runs_and_code_locations(stack):
    guard = stack.inspect(stack.container_of("guard"))["NetworkSettings"]["Networks"]
    address = {name.removeprefix(f"{stack.name}_"): n["IPAddress"] for name, n in guard.items()}
    assert set(address) == {"guard-launch", "guard-stop"}
    # By address: a name that does not resolve says nothing about the way there.
    program = (
        "import socket, sys\n"
        "for where in sys.argv[1:]:\n"
        "    try: socket.create_connection((where, 2375), 3)\n"
        "    except OSError: print('no way')\n"
        "    else: print('open')\n"
    )
    ask = "python", "-c", program, address["guard-launch"], address["guard-stop"]
    image = stack.config["services"]["code_location"]["image"]
    seen = {
        service: docker("exec", stack.container_of(service), *ask).split("\n")[:2]
        for service in ("code_location", "daemon", "webserver")
    }
    seen["run"] = docker("run", "--rm", f"--network={stack.name}_runs", image, *ask).split("\n")[:2]
    assert seen == {
        "code_location": ["no way", "no way"],
        "run": ["no way", "no way"],
        # Each through its own door, which also shows that an open one would be seen.
        "daemon": ["open", "no way"],
        "webserver": ["no way", "open"],
    }


def test_the_webserver_can_stop_a_run_and_cannot_launch_one(stack):
    program = (
        "import urllib.request as r, urllib.error, sys\n"
        "try: r.urlopen(r.Request('http://guard-stop:2375/v1.45/containers/create', data=b'{}'))\n"
        "except urllib.error.HTTPError as e: sys.exit(0 if e.code == 403 else f'{e.code}')\n"
        "sys.exit('created')\n"
    )
    docker("exec", stack.container_of("webserver"), "python", "-c", program)
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the run")
    stack.graphql("mutation Stop($id: String!) { terminateRun(runId: $id) { __typename } }", id=run)
    assert stack.finished(run) == "CANCELED"
