"""New code goes live beside the previous code: nothing fails, is missed, or runs twice then."""

import os
import re
import signal
import subprocess
import threading
import time
from itertools import pairwise

import pytest

from support.cli import COMMAND, StackError, docker
from support.harness import wait_until
from support.killed import TIMES, kill, moments

DEFS = "code_location/src/code_location/defs"
# A sensor that ticks each second and requests a run now and then, and a schedule of each minute.
TRIGGERS = """
import dagster as dg

VERSION = "first"


@dg.op
def note_version():
    dg.get_dagster_logger().info(f"the version is {VERSION}")


@dg.job
def versioned():
    note_version()


@dg.sensor(job=versioned, minimum_interval_seconds=1)
def each_second(context):
    number = int(context.cursor or 0) + 1
    context.update_cursor(str(number))
    if number % 20 == 0:
        return dg.RunRequest(run_key=str(number))
    return dg.SkipReason("not yet")


@dg.schedule(job=versioned, cron_schedule="* * * * *")
def each_minute(context):
    return dg.RunRequest()
"""
WHERE = {"repositoryLocationName": "code_location", "repositoryName": "__repository__"}
SENSOR_ON = """mutation On($which: SensorSelector!) { startSensor(sensorSelector: $which) {
  __typename } }"""
SENSOR_OFF = """mutation Off($id: String!) { stopSensor(id: $id) { __typename } }"""
SCHEDULE_ON = """mutation On($which: ScheduleSelector!) {
  startSchedule(scheduleSelector: $which) { __typename } }"""
TICKS = """query Ticks($which: InstigationSelector!) { instigationStateOrError(
  instigationSelector: $which) { ... on InstigationState { ticks(limit: 200) {
    status timestamp cursor error { message } } } } }"""
ASKED = """{ workspaceOrError { ... on Workspace { locationEntries { name
  locationOrLoadError { __typename } } } }
  repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"""


@pytest.fixture(scope="module")
def deployed(stacks):
    """A stack with triggers that are on."""
    made = stacks.make("deploys")
    write(made, TRIGGERS)
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    made.graphql(SENSOR_ON, which={**WHERE, "sensorName": "each_second"})
    made.graphql(SCHEDULE_ON, which={**WHERE, "scheduleName": "each_minute"})
    yield made
    stacks.remove(made)


def write(stack, text):
    (stack.root / DEFS / "triggers_of_deploys.py").write_text(text)


def succeed(stack, *words):
    done = stack.verb(*words)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def image(stack):
    """The image that the code server runs."""
    return stack.inspect(stack.container_of("code_location"))["Image"]


def containers(stack):
    """The containers of the services that run, by service."""
    running = {n: one["ID"] for n, one in stack.services().items() if one["State"] == "running"}
    assert {"edge", "webserver", "daemon", "code_location"} <= running.keys()
    return running


def version_of(stack, run):
    """What a run of `versioned` logged."""
    stack.finished(run)
    (said,) = [e["message"] for e in stack.events(run) if "the version is" in e.get("message", "")]
    return said.split()[-1]


def ticks(stack, name):
    """The ticks of a sensor or schedule, the newest first."""
    which = {**WHERE, "name": name}
    return stack.graphql(TICKS, which=which)["instigationStateOrError"]["ticks"]


class Client(threading.Thread):
    """Asks the web server without a pause, and launches a run now and then."""

    def __init__(self, stack):
        super().__init__()
        self.stack, self.ended = stack, threading.Event()
        self.answers, self.failed, self.runs = 0, [], []

    def run(self):
        while not self.ended.is_set():
            try:
                asked = self.stack.graphql(ASKED)
                (entry,) = asked["workspaceOrError"]["locationEntries"]
                assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation", entry
                jobs = {one["name"] for one in asked["repositoriesOrError"]["nodes"][0]["jobs"]}
                assert "versioned" in jobs
                if self.answers % 200 == 0:
                    self.runs.append(self.stack.launch("versioned"))
            except (StackError, AssertionError) as error:
                self.failed.append(error)
            self.answers += 1


@pytest.mark.parametrize(
    ("requests", "minutes_of_ticks"), [(300, 1), pytest.param(2000, 3, marks=pytest.mark.release)]
)
def test_deploys_and_a_rollback_under_load_fail_no_request_and_miss_no_tick(
    deployed, requests, minutes_of_ticks
):
    first = image(deployed)
    begun = time.time()
    client = Client(deployed)
    client.start()
    try:
        write(deployed, TRIGGERS.replace('"first"', '"second"'))
        assert "live: code_location" in succeed(deployed, "deploy")
        second = image(deployed)
        assert second != first
        of_second = deployed.launch("versioned")
        succeed(deployed, "rollback")
        assert image(deployed) == first
        of_first = deployed.launch("versioned")
        wait_until(lambda: client.answers >= requests, f"{requests} requests", 240)
    finally:
        client.ended.set()
        client.join()
    assert not client.failed
    assert version_of(deployed, of_second) == "second"
    assert version_of(deployed, of_first) == "first"
    for run in client.runs:
        assert deployed.finished(run) == "SUCCESS"
        assert not deployed.retries_of(run)

    of_sensor = [one for one in ticks(deployed, "each_second") if one["timestamp"] > begun]
    assert not [one["error"] for one in of_sensor if one["status"] == "FAILURE"]
    # Of the time before, during and after both.
    cursors = [int(one["cursor"]) for one in of_sensor if one["cursor"]]
    assert cursors == list(range(cursors[0], cursors[0] - len(cursors), -1)), cursors
    assert len(cursors) > 10

    def of_minutes():
        return [one for one in ticks(deployed, "each_minute") if one["status"] != "STARTED"]

    wait_until(lambda: len(of_minutes()) >= minutes_of_ticks, "the ticks of the minutes", 180)
    minutes = [one["timestamp"] for one in of_minutes()]
    assert {one["status"] for one in of_minutes()} == {"SUCCESS"}
    assert {a - b for a, b in pairwise(minutes)} <= {60}, minutes

    listed = succeed(deployed, "deploys").splitlines()[2:]
    assert [line.split()[-2] for line in listed[:3]] == ["rollback", "deploy", "up"]
    assert first[7:19] in listed[0]
    assert second[7:19] in listed[1]
    assert deployed.findings() == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import no_such_package\n",
            r'does not load: .*no_such_package.* \(File "/opt/code/.*of_deploys.py", line 1\)',
        ),
        pytest.param(
            "import os\nos._exit(3)\n",
            "does not load: the code ended its process with exit status",
            marks=pytest.mark.whole,
        ),
        pytest.param(
            "def broken(:\n",
            r'does not load: SyntaxError: .* \(File ".*/triggers_of_deploys.py", line 1\)',
            marks=pytest.mark.whole,
        ),
        pytest.param(
            TRIGGERS.replace("def each_minute", "def other"),
            "each_minute, which is switched on, is",
            marks=pytest.mark.whole,
        ),
        pytest.param(
            TRIGGERS.replace("@dg.sensor(job=versioned, ", "@dg.sensor("),
            r"each_second, which is switched on, would launch nothing \(now: versioned\)",
            marks=pytest.mark.whole,
        ),
    ],
)
def test_code_that_does_not_load_or_loses_what_is_on_never_becomes_live(deployed, text, reason):
    write(deployed, TRIGGERS)
    succeed(deployed, "deploy")
    before, container = image(deployed), deployed.container_of("code_location")
    write(deployed, text)
    done = deployed.verb("deploy")
    write(deployed, TRIGGERS)
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert "the previous code stays live" in last
    assert "component_tree.py" not in done.stderr  # of Dagster's loader
    assert wait_until(lambda: deployed.is_healthy(), "the stack to be healthy")
    assert re.search(reason, last), last
    assert deployed.container_of("code_location") == container
    # Nor with the next start.
    assert image_named(deployed) == before
    assert not docker("image", "ls", "--quiet", f"--filter=reference={deployed.name}-*:candidate")


# Nothing of the platform is in it, but for the health check that docker-compose.yml calls.
OWN_DOCKERFILE = """FROM {image}
USER 0:0
RUN rm -r /opt/platform /opt/code
COPY --from=project . /opt/code
USER 10001:10001
ENV PYTHONPATH=/opt/code/src
CMD ["/opt/dagster/bin/dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "4000", \\
  "--module-name", "code_location.definitions"]
"""


@pytest.mark.whole
def test_code_in_an_image_of_its_own_is_checked_as_well(deployed):
    write(deployed, TRIGGERS)
    succeed(deployed, "deploy")
    of_ours = image(deployed)
    (deployed.root / "Dockerfile.own").write_text(OWN_DOCKERFILE.format(image=image_name(deployed)))
    write(
        deployed,
        f"{TRIGGERS.replace('def each_minute', 'def other')}\n\n@dg.asset\ndef new(): ...\n",
    )
    refused = deployed.verb("deploy", CODE_DOCKERFILE="Dockerfile.own")
    write(deployed, TRIGGERS)
    assert refused.returncode == 1, refused.stdout
    assert "assets added: new\n" in refused.stdout
    assert "each_minute, which is switched on, is gone" in refused.stderr
    assert image(deployed) == image_named(deployed) == of_ours


def image_name(stack):
    """The tag that the code server's image has."""
    return stack.config["services"]["code_location"]["image"]


def image_named(stack):
    """The image that the next start of the code server would take."""
    return docker("image", "inspect", "--format", "{{.Id}}", image_name(stack)).strip()


@pytest.mark.whole
def test_code_that_loads_in_the_check_only_is_refused_all_the_same(deployed):
    before = image(deployed)
    # The second import, which is the live server's, finds the note of the first one.
    only = (
        "from pathlib import Path\nnote = Path('/var/lib/dagster/data/asked')\n"
        "if note.exists():\n    note.unlink()\n    raise OSError('in the server')\nnote.touch()"
    )
    write(deployed, f"{only}\n{TRIGGERS}")
    done = deployed.verb("deploy")
    write(deployed, TRIGGERS)
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert "deploy: refused, the previous code stays live" in last
    assert "in the server" in last
    assert wait_until(lambda: deployed.is_healthy(), "the stack to be healthy")
    assert image(deployed) == image_named(deployed) == before


def servers(stack, *, one_off):
    """The filters for the containers of the code server, or of the one that a deploy asks."""
    labels = ("project", stack.name), ("service", "code_location"), ("oneoff", one_off)
    return [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels]


def kill_deploy_when(stack, condition, what):
    """Ends a deploy with SIGKILL as soon as a condition holds."""
    verb = subprocess.Popen(
        [*COMMAND, "deploy"], cwd=stack.root, env=stack.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_until(condition, what)
    os.killpg(verb.pid, signal.SIGKILL)
    verb.wait()


@pytest.mark.whole
def test_a_deploy_that_is_killed_while_it_checks_leaves_the_code_before_to_the_next_start(deployed):
    before = image(deployed)
    write(deployed, "import time\ntime.sleep(20)\nraise ValueError\n")
    filters = servers(deployed, one_off=True)
    kill_deploy_when(deployed, lambda: docker("ps", "--quiet", *filters).split(), "the check")
    assert image_named(deployed) == before
    write(deployed, TRIGGERS)
    succeed(deployed, "deploy")
    assert not docker("ps", "--all", "--quiet", *filters)


@pytest.mark.whole
def test_a_rollback_does_not_go_to_code_whose_deploy_was_killed_while_it_went_live(deployed):
    before = image(deployed)
    write(deployed, TRIGGERS.replace('"first"', '"killed"'))
    healthy = "ps", "--quiet", "--filter=health=healthy", *servers(deployed, one_off=False)
    kill_deploy_when(deployed, lambda: len(docker(*healthy).split()) == 2, "both servers")
    write(deployed, TRIGGERS.replace('"first"', '"after"'))
    succeed(deployed, "deploy")
    succeed(deployed, "rollback")
    assert image(deployed) == before
    write(deployed, TRIGGERS)
    succeed(deployed, "deploy")


@pytest.mark.whole
def test_a_deploy_says_what_is_added_and_removed(deployed):
    text = TRIGGERS.replace(
        "@dg.job\n", "@dg.job(name='other')\ndef other_job():\n    note_version()\n\n\n@dg.job\n"
    )
    write(deployed, text)
    assert "jobs added: other" in succeed(deployed, "deploy")
    write(deployed, TRIGGERS)
    assert "jobs removed: other" in succeed(deployed, "deploy")
    # A schedule and a sensor that are on, and their job has another name.
    write(deployed, TRIGGERS.replace("versioned", "renamed"))
    said = succeed(deployed, "deploy")
    for name in ("each_minute", "each_second"):
        assert f"  {name}, which is switched on, launches renamed instead of versioned" in said
    write(deployed, TRIGGERS)
    succeed(deployed, "deploy")
    # Nothing of the stack has changed since, for Compose either.
    before = containers(deployed)
    succeed(deployed, "up")
    assert containers(deployed) == before


@TIMES
def test_a_deploy_that_is_killed_is_named_if_it_matters_and_the_next_one_is_whole(deployed, times):
    for number, moment in enumerate(moments(times, 15)):
        write(deployed, TRIGGERS.replace('"first"', f'"number {number}"'))
        kill(deployed, moment, "deploy")
        labels = ("project", deployed.name), ("service", "code_location"), ("oneoff", "False")
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels]
        if len(docker("ps", "--quiet", *filters).split()) > 1:
            assert "two run: a deploy goes on, or was interrupted" in deployed.verb("status").stderr
        succeed(deployed, "deploy")
        assert version_of(deployed, deployed.launch("versioned")) == str(number)
        assert wait_until(lambda: deployed.is_healthy(), "the stack to be healthy")
    write(deployed, TRIGGERS)
    succeed(deployed, "deploy")
