"""Real stacks for the tests, each of its own name and port, made from a copy of this checkout."""

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from demo import FINAL, RUN
from stack import Stack, StackError, docker

ROOT = Path(__file__).resolve().parents[1]
EXTRA_DEFINITIONS = ROOT / "tests/stack/extra_definitions.py"
# The public name of a stack that has one.
DOMAIN = "dagster.example"
# What TestStack.as_role runs, in the code location's image.
CLIENT = """
import json, sys, psycopg2
passfile = "/run/dagster-credentials/pgpass"
try:
    connection = psycopg2.connect(host="postgres", passfile=passfile, **json.loads(sys.argv[1]))
except psycopg2.OperationalError as error:
    sys.exit(print(json.dumps(str(error))))
connection.autocommit = True
results = []
for statement in sys.argv[2:]:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        results.append(cursor.fetchall() if cursor.description else [])
    except psycopg2.Error as error:
        results.append(error.pgcode)
print(json.dumps(results, default=str))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def checkout(folder):
    """A copy of what git would clone, and of what setup.sh found on this machine."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in [*filter(None, names), ".machine.env"]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class TestStack(Stack):
    """A stack with what tests ask of it."""

    __test__ = False

    def __init__(self, root, name, **settings):
        port = str(settings.pop("HTTP_PORT", None) or free_port())
        super().__init__(root, {"STACK_NAME": name, "HTTP_PORT": port, **settings})

    def verb(self, *arguments, **settings):
        """Runs an operator's command as `make` does; returns the finished process."""
        return subprocess.run(
            [sys.executable, "cli/stack.py", *arguments],
            cwd=self.root, env={**self.environment, **settings},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def runs_marked(self, mark):
        """Runs that the mutation of the fixture `launch` made."""
        query = """query Marked($mark: String!) { runsOrError(filter: {
            tags: [{key: "mark", value: $mark}]}) { ... on Runs { results { runId } } } }"""
        return self.graphql(query, mark=mark)["runsOrError"]["results"]

    def status_of(self, run_id):
        return self.graphql(RUN, id=run_id)["runOrError"]["status"]

    def finished(self, run_id, seconds=120):
        """Waits until a run has ended; returns its status."""
        return wait_until(
            lambda: (status := self.status_of(run_id)) in FINAL and status,
            f"run {run_id} to end",
            seconds,
        )

    def run(self, job, assets=(), seconds=120, **options):
        """Launches and waits for success; returns the run id."""
        run_id = self.launch(job, assets, **options)
        status = self.finished(run_id, seconds)
        assert status == "SUCCESS", self.events(run_id)
        return run_id

    @contextmanager
    def edge_with(self, **settings):
        """Edge, sign-in and web servers with other settings, for as long as the block lasts."""
        before = self.environment
        services = "sign_in", "webserver", "webserver_viewer", "edge"
        again = "up", "--detach", "--wait", "--no-deps", *services
        self.environment = {**before, **settings}
        try:
            self.compose(*again)
            yield
        finally:
            self.environment = before
            self.compose(*again)

    def events(self, run_id):
        query = """query Events($id: ID!) { logsForRun(runId: $id) { ... on EventConnection {
          events { __typename
            ... on MessageEvent { message stepKey }
            ... on LogsCapturedEvent { fileKey }
            ... on ExecutionStepFailureEvent { error { message stack causes { message stack } } }
            ... on RunFailureEvent { error { message stack causes { message stack } } }
            ... on MaterializationEvent { metadataEntries { label
              ... on IntMetadataEntry { intRepr }
              ... on TextMetadataEntry { text } } }
        } } } }"""
        return self.graphql(query, id=run_id)["logsForRun"]["events"]

    def captured(self, run_id):
        """stdout and stderr of a run's steps, as the UI's stdout and stderr tabs show them."""
        keys = [e["fileKey"] for e in self.events(run_id) if e["__typename"] == "LogsCapturedEvent"]
        query = "query Logs($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"
        logs = [
            self.graphql(query, key=[run_id, "compute_logs", key])["capturedLogs"] for key in keys
        ]
        return tuple("".join(log[end] or "" for log in logs) for end in ("stdout", "stderr"))

    def inspect(self, container):
        return json.loads(docker("inspect", container))[0]

    def ended(self, container):
        """Waits until a container has stopped; returns its state."""
        return wait_until(
            lambda: not (state := self.inspect(container)["State"])["Running"] and state,
            f"container {container[:12]} to stop",
        )

    def as_role(self, role, statements, **connection):
        """Signs in to the database from where run containers are, with a role's own password.

        Returns what came of each statement: rows as lists, or the SQLSTATE it was refused with.
        """
        volume = f"{self.name}_{role.removeprefix('dagster_')}-credentials"
        where = f"--network={self.name}_runs", f"--volume={volume}:/run/dagster-credentials:ro"
        image = self.config["services"]["code_location"]["image"]
        signing_in = json.dumps({"user": role, "dbname": "dagster", **connection})
        client = "python", "-c", CLIENT, signing_in, *statements
        return json.loads(docker("run", "--rm", *where, image, *client))

    def container_of(self, service):
        return self.services()[service]["ID"]

    def is_healthy(self):
        try:
            return not self.problems()
        except StackError:  # the webserver does not answer yet
            return False

    def diagnosis(self):
        """State and logs of every container of this stack, for a failed test's report."""
        parts = [self.compose("ps", "--all", check=False).stdout]
        parts.append(self.compose("logs", "--tail", "60", "--no-color", check=False).stdout)
        try:
            for run, container in self.run_containers().items():
                log = subprocess.run(["docker", "logs", "--tail", "40", container],
                                     capture_output=True, text=True, check=False)  # fmt: skip
                state = docker("inspect", "--format", "{{json .State}}", container)
                parts.append(f"run {run} {container[:12]} {state}\n{log.stdout}{log.stderr}")
        except StackError as error:  # a stack that could not even be named, or a container gone
            parts.append(str(error))
        return "\n".join(parts)


def wait_until(condition, what, seconds=120):
    """Waits for a condition to be true; returns its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    pytest.fail(f"waited {seconds} s for {what}")
    return None
