"""Requests written in every odd way launch nothing and change nothing, through edge and web server.

To two programs the same bytes can mean different things. So the same requests are sent to both
together, to the edge with Dagster's own web server behind it, and to the web server with no edge
before it: each alone must hold. The requests are in request_fuzz.py.
"""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import http2_client, request_fuzz
from support.cli import OPERATOR, basic, docker
from support.harness import DOMAIN, wait_until

FUZZ = Path(request_fuzz.__file__)
USERS = [OPERATOR, "viewer"]
GOING_ON = """SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')
  OR status = 'FAILURE' AND EXISTS (SELECT FROM run_tags WHERE run_tags.run_id = runs.run_id
    AND (key, value) = ('dagster/will_retry', 'true'))
  AND NOT EXISTS (SELECT FROM run_tags WHERE run_tags.run_id = runs.run_id
    AND key = 'dagster/auto_retry_run_id')"""
# Everything that a request could change, and that does not change by itself.
TABLES = [
    "runs", "run_tags", "event_logs", "asset_keys", "instigators", "job_ticks", "bulk_actions",
    "dynamic_partitions", "concurrency_limits", "asset_check_executions",
]  # fmt: skip
COUNTS = "SELECT " + ", ".join(map("(SELECT count(*) FROM {})".format, TABLES))


@pytest.fixture(scope="module")
def dagster_s_own_web_server(stack):
    """Behind the edge, instead of ours; and no daemon, so that what is launched does not start."""
    names = {"webserver": [], "webserver_viewer": ["--read-only"]}
    services = {
        service: {"command": ["dagster-webserver", "--host", host, "--port", "3000", *options,
                              "--workspace", "workspace.yaml"]}
        for (service, options), host in zip(names.items(), ["webserver.ui", "viewer.ui"],
                                            strict=True)
    }  # fmt: skip
    again = "up", "--detach", "--wait", "--no-deps", *names
    stack.override(services)
    stack.compose("stop", "daemon")
    stack.compose(*again)
    yield
    stack.override()
    stack.compose(*again, "daemon")


def settings_for(stack, launch, user, spellings=1, as_the_ui=True):
    body, in_url, _ = launch
    address, port = stack.address
    return {
        "address": address, "port": port, "scheme": "http", "host": f"{address}:{port}",
        "spellings": spellings, "as_the_ui": as_the_ui,
        "authorization": basic(user, stack.password_of(user)), "mutation": body, "in_url": in_url,
    }  # fmt: skip


def fuzz(settings):
    """Sends the requests from here."""
    command = [sys.executable, str(FUZZ), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fuzz_behind_the_edge(stack, server, settings):
    """Sends the requests to a web server, from its own network."""
    image = stack.config["services"]["code_location"]["image"]
    sent = settings | {"address": server, "port": 3000}
    where = "--rm", f"--network={stack.name}_ui", "--user=10001", image
    return json.loads(
        docker("run", *where, "python", "-c", FUZZ.read_text(), json.dumps(sent)).splitlines()[-1]
    )


@contextmanager
def nothing_changes(stack, launch):
    # Runs of the module before may go on, or be launched again.
    wait_until(lambda: stack.sql(GOING_ON) == ["0"], "the end of earlier runs")
    before = stack.sql(COUNTS)
    yield
    assert not stack.runs_marked(launch[-1])
    assert stack.sql(COUNTS) == before


def assert_held(seen):
    assert not seen["executed"], seen["executed"][:20]
    assert not seen["failed"], seen["failed"][:20]


@pytest.mark.parametrize("user", [OPERATOR, pytest.param("viewer", marks=pytest.mark.whole)])
def test_edge_and_web_server_together_refuse_23_000_odd_requests(stack, launch, user):
    with nothing_changes(stack, launch):
        seen = fuzz(settings_for(stack, launch, user))
    assert seen["sent"] > 23_000
    assert_held(seen)


@pytest.mark.whole
def test_the_edge_refuses_the_odd_requests_over_http2_too(stack, launch, own_certificate):
    certificate, settings = own_certificate
    with nothing_changes(stack, launch), stack.edge_with(DOMAIN=DOMAIN, **settings):
        for user in USERS:
            host = f"{DOMAIN}:{stack.address[1]}"
            asked = settings_for(stack, launch, user, spellings=4) | {
                "host": host,
                "scheme": "https",
            }
            authorization = asked["authorization"].encode()
            seen = http2_client.fuzz(
                stack.address, DOMAIN, certificate, request_fuzz.requests(asked), authorization
            )
            assert seen["statuses"][400] + seen["statuses"][404] > 2000, seen["statuses"]
            assert_held(seen)


@pytest.mark.whole
@pytest.mark.parametrize("server", ["webserver.ui", "viewer.ui"])
def test_the_web_server_alone_refuses_every_odd_request(stack, launch, server):
    """But for those that are written as the web UI writes them: whatever the path, they are its."""
    settings = settings_for(stack, launch, OPERATOR, spellings=4, as_the_ui=False)
    with nothing_changes(stack, launch):
        assert_held(fuzz_behind_the_edge(stack, server, settings))


@pytest.mark.whole
@pytest.mark.usefixtures("dagster_s_own_web_server")
def test_the_edge_alone_refuses_every_odd_request(stack, launch):
    with nothing_changes(stack, launch):
        for user in USERS:
            seen = fuzz(settings_for(stack, launch, user, spellings=4))
            assert not seen["executed"], seen["executed"][:20]


@pytest.mark.whole
@pytest.mark.usefixtures("dagster_s_own_web_server")
def test_dagster_s_own_web_server_alone_accepts_some_odd_requests(stack, launch):
    """Else the tests above would show nothing."""
    settings = settings_for(stack, launch, OPERATOR, spellings=100)
    seen = fuzz_behind_the_edge(stack, "webserver.ui", settings)
    launched = stack.runs_marked(launch[-1])
    for run in launched:
        delete = "mutation Delete($id: String!) { deletePipelineRun(runId: $id) { __typename } }"
        stack.graphql(delete, id=run["runId"])
    assert len(seen["executed"]) > 20
    assert len(launched) > 10
