"""Nothing that the database, a code server or a request says can widen what a run container is."""

import json
import uuid

import pytest

from support.cli import docker
from support.harness import wait_until

# What a container context asks for, and the reason that the run's events give.
HOSTILE = {
    "privileged": (
        {"container_kwargs": {"privileged": True}},
        "guard: refused: HostConfig.Privileged differs from dagster.yaml",
    ),
    "the host's processes": (
        {"container_kwargs": {"pid_mode": "host"}},
        "guard: refused: HostConfig.PidMode differs from dagster.yaml",
    ),
    "the host's files": (
        {"container_kwargs": {"volumes": ["/:/host"]}},
        "guard: refused: HostConfig.Binds differs from dagster.yaml",
    ),
    "another command": (
        {"container_kwargs": {"entrypoint": ["sh", "-c", "id"]}},
        "guard: refused: Entrypoint is not for run containers",
    ),
    "root": (
        {"container_kwargs": {"user": "0"}},
        "guard: refused: User is not for run containers",
    ),
    "more memory": (
        {"container_kwargs": {"mem_limit": "2g"}},
        "guard: refused: HostConfig.Memory: dagster.yaml allows at most 1073741824",
    ),
    "a network of the control plane": (
        {"networks": ["{stack}_code"]},
        "refused: the container context adds the networks {stack}_code;"
        " dagster.yaml has {stack}_runs",
    ),
    "the daemon's environment": (
        {"env_vars": ["DAGSTER_HOME"]},
        "guard: refused: 'DAGSTER_HOME' is not in env_vars of dagster.yaml",
    ),
    "another registry": (
        {"registry": {"url": "http://registry", "username": "u", "password": "p"}},
        "guard: refused: POST /v1.45/auth is not for this listener",
    ),
}
# The same from a code server, which has to be started anew for each.
HOSTILE_SERVER = {
    "privileged and the host's processes": (
        {"container_kwargs": {"privileged": True, "pid_mode": "host"}},
        "guard: refused: HostConfig.P",
    ),
    **{
        name: HOSTILE[name]
        for name in (
            "the host's files",
            "a network of the control plane",
            "the daemon's environment",
        )
    },
}


def for_stack(stack, hostile):
    """Contexts and reasons, with the stack's name in them."""
    return json.loads(json.dumps(hostile).replace("{stack}", stack.name))


def forge(stack, model, context, image=None):
    """Puts a run like another into the queue, as who holds the control plane's password could."""
    (row,) = stack.sql(f"SELECT run_body FROM runs WHERE run_id = '{model}'")
    body = json.loads(row)
    run = str(uuid.uuid4())
    body |= {"run_id": run, "status": {"__enum__": "PipelineRunStatus.QUEUED"}, "tags": {}}
    origin = body["pipeline_code_origin"]["repository_origin"]
    origin["container_image"] = image or origin["container_image"]
    origin["container_context"] = {"docker": context}
    insert = (
        "INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body) SELECT"
        f" '{run}', snapshot_id, pipeline_name, 'QUEUED', $body${json.dumps(body)}$body$"
        f" FROM runs WHERE run_id = '{model}'"
    )
    assert stack.as_role("dagster_control", [insert]) == [[]]
    return run


def assert_refused(stack, run, reason):
    assert stack.finished(run) == "FAILURE"
    assert reason in stack.said_of(run)
    assert run not in stack.run_containers()


@pytest.fixture(scope="module")
def forged(stack, finished_run):
    """The forged runs by what they ask for; all are in the queue at once."""
    contexts = {name: context for name, (context, _) in for_stack(stack, HOSTILE).items()}
    return {name: forge(stack, finished_run, context) for name, context in contexts.items()}


@pytest.fixture
def served_with(stack):
    """Starts the code server anew with a container context; after the test, without."""

    def serve(context):
        environment = {"DAGSTER_CONTAINER_CONTEXT": json.dumps({"docker": context})}
        stack.override({"code_location": {"environment": environment}})
        start()

    def start():
        stack.compose("up", "--detach", "--wait", "code_location")
        stack.graphql(
            """mutation { reloadRepositoryLocation(repositoryLocationName: "code_location") {
                 __typename } }"""
        )
        wait_until(stack.is_healthy, "the code location")

    yield serve
    stack.override()
    start()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_forged_run_fails_with_the_reason_and_nothing_is_made(stack, forged, hostile):
    _, reason = for_stack(stack, HOSTILE[hostile])
    assert_refused(stack, forged[hostile], reason)


def test_a_forged_run_with_another_image_fails_and_nothing_is_made(stack, finished_run):
    run = forge(stack, finished_run, {}, image=f"{stack.name}-postgres:current")
    reason = f"image '{stack.name}-postgres:current' is not one that a code location runs"
    assert_refused(stack, run, reason)


FIRST, *OTHERS = HOSTILE_SERVER


@pytest.mark.parametrize(
    "hostile", [FIRST, *(pytest.param(one, marks=pytest.mark.whole) for one in OTHERS)]
)
def test_a_code_server_s_hostile_context_fails_its_runs_and_nothing_is_made(
    stack, served_with, hostile
):
    context, reason = for_stack(stack, HOSTILE_SERVER[hostile])
    served_with(context)
    assert_refused(stack, stack.launch("process_numbers"), reason)


@pytest.mark.whole
def test_a_code_server_s_runs_may_have_less_than_dagster_yaml_gives(stack, served_with):
    served_with({"container_kwargs": {"mem_limit": "512m", "nano_cpus": 500_000_000}})
    run = stack.run("process_numbers")
    host = stack.inspect(stack.run_containers()[run])["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (2**29, 500_000_000, 512)


@pytest.mark.usefixtures("finished_run")
def test_every_decision_is_one_line_of_the_guard_s_log(stack):
    log = docker("logs", stack.container_of("guard")).splitlines()
    decisions = [json.loads(line) for line in log if line.startswith("{")]
    allowed = [d for d in decisions if d["decision"] == "allowed" and d["path"].endswith("create")]
    assert allowed
    assert {d["listener"] for d in allowed} == {"daemon"}


def test_the_webserver_can_stop_a_run_and_cannot_launch_one(stack):
    program = (
        "import http.client as h, socket, sys\n"
        "guard = h.HTTPConnection('guard')\n"
        "guard.sock = socket.socket(socket.AF_UNIX)\n"
        "guard.sock.connect('/run/guard/docker.sock')\n"
        "guard.request('POST', '/v1.45/containers/create', b'{}')\n"
        "sys.exit(guard.getresponse().status != 403)\n"
    )
    docker("exec", stack.container_of("webserver"), "python", "-c", program)
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the run")
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"
