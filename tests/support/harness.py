"""Real stacks for the tests, each of its own name and port, made from a copy of this checkout."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest
import yaml

from support import ROOT
from support.cli import COMMAND, FINAL, RUN, Stack, StackError, commands, docker, problems
from support.leases import Lease

# Every test stack's name begins with this.
PREFIX = os.environ.get("TEST_STACK_PREFIX", "dagster-test")
EXTRA_DEFINITIONS = ROOT / "tests/support/extra_definitions.py"
# Yours, if there is one: Compose reads it by itself.
OVERRIDE = "docker-compose.override.yml"
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


def checkout(folder):
    """A copy of what git would clone, and of what setup.sh found on this machine."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in [*filter(None, names), ".machine.env"]:
        if (ROOT / name).is_file() and name != OVERRIDE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class TestStack(Stack):
    """A stack with what tests ask of it."""

    __test__ = False

    def __init__(self, root, name, *, addresses="small", **settings):
        """Starts nothing yet.

        Args:
            root: A checkout of its own.
            name: Its STACK_NAME.
            addresses: "default" leaves its networks to Docker, as an operator's stack does.
            settings: Further settings, e.g. COMPOSE_PROFILES.
        """
        self.registered = name
        # For tests that only look at a run: the fixture finished_run.
        self.finished_run = None
        self.lease = Lease()
        settings = {"STACK_NAME": name, "HTTP_PORT": str(self.lease.port), **settings}
        super().__init__(root, settings)
        networks = yaml.safe_load((root / "docker-compose.yml").read_text())["networks"]
        self.networks = self.lease.subnets(networks) if addresses == "small" else {}
        self.override()

    def override(self, services=None, volumes=None):
        """Changes services or volumes, in Compose's own override file, from the next `up` on."""
        parts = "networks", "services", "volumes"
        changes = dict(zip(parts, (self.networks, services, volumes), strict=True))
        changes = {section: content for section, content in changes.items() if content}
        file = self.root / OVERRIDE
        file.unlink(missing_ok=True)
        if changes:
            file.write_text(yaml.safe_dump(changes))

    def verb(self, *arguments, **settings):
        """Runs an operator's command as `make` does; returns the finished process."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.root, env={**self.environment, **settings},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def findings(self, *, of_the_disk=False, **settings):
        """What doctor finds.

        Args:
            of_the_disk: Also how full the engine's disk is, which is not this stack's doing.
            settings: Further environment of the command.
        """
        done = self.verb("doctor", "--json", **settings)
        assert done.returncode in (0, 1), done.stderr
        found = json.loads(done.stdout)["findings"]
        assert done.returncode == bool(found)
        return [one for one in found if of_the_disk or one["part"] != "disk"]

    def runs_marked(self, mark):
        """Runs that the mutation of the fixture `launch` made."""
        query = """query Marked($mark: String!) { runsOrError(filter: {
            tags: [{key: "mark", value: $mark}]}) { ... on Runs { results { runId } } } }"""
        return self.graphql(query, mark=mark)["runsOrError"]["results"]

    def status_of(self, run_id):
        return self.graphql(RUN, id=run_id)["runOrError"]["status"]

    def tags_of(self, run_id):
        tags = self.graphql(RUN, id=run_id)["runOrError"]["tags"]
        return {one["key"]: one["value"] for one in tags}

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

    def said_of(self, run_id):
        """What the launcher and the monitoring say of a run in its event log."""
        query = """query Said($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
            ... on EngineEvent { message error { message } }
            ... on RunFailureEvent { message error { message } } } } } }"""
        events = self.graphql(query, id=run_id)["logsForRun"]["events"]
        return "\n".join(
            f"{event['message']} {(event['error'] or {}).get('message', '')}"
            for event in events
            if event
        )

    def runs_tagged(self, key, value):
        """Id, status and job of the runs with a tag, newest first."""
        query = """query Runs($key: String!, $value: String!) {
            runsOrError(filter: {tags: [{key: $key, value: $value}]}) {
              ... on Runs { results { runId status jobName } } } }"""
        return self.graphql(query, key=key, value=value)["runsOrError"]["results"]

    def retries_of(self, run_id):
        """The runs that repeat a run."""
        return [row["runId"] for row in self.runs_tagged("dagster/parent_run_id", run_id)]

    def terminate(self, run_id):
        """Asks for the end of a run, as the web UI does."""
        mutation = "mutation Stop($id: String!) { terminateRun(runId: $id) { __typename } }"
        return self.graphql(mutation, id=run_id)

    def sql(self, query):
        """Rows of text, asked of Postgres itself as its superuser."""
        client = "psql", "--username=postgres", "--dbname=dagster", "-At"
        return docker(
            "exec", self.container_of("postgres"), *client, "--command", query
        ).splitlines()

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
        """The id of a service's container; asks Docker, which answers sooner than Compose."""
        labels = {"project": self.name, "service": service, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{key}={labels[key]}" for key in labels]
        (container,) = docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()
        return container

    def is_healthy(self):
        try:
            return not problems(self)
        except StackError:  # the webserver does not answer yet
            return False

    def diagnosis(self):
        """State and logs of every container of this stack, for a failed test's report."""
        parts = [self.compose("ps", "--all", check=False).stdout]
        parts.append(self.compose(*commands.logs(self.config["services"], 60), check=False).stdout)
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
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        asked = time.monotonic()
        value = condition()
        if value:
            return value
        # What is slow to answer takes the machine's time from what is waited for.
        time.sleep(0.2 + 2 * (time.monotonic() - asked))
    pytest.fail(f"waited {seconds} s for {what}")
    return None
