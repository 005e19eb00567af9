"""Everything that can start a run, on the real stack; and that a broken one stops no other."""

import json
import subprocess
import time

import pytest
from dagster_graphql import DagsterGraphQLClient
from requests.auth import HTTPBasicAuth

from support.cli import OPERATOR, docker
from support.harness import wait_until
from support.triggers import instigator, selector_of, switched_on

# A webhook that says on its stdout what was posted.
WEBHOOK = """
import http.server, sys, time
class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(204); self.end_headers()
http.server.ThreadingHTTPServer(("", 8080), Webhook).serve_forever()
"""
SELECTOR = selector_of("code_location")


def materializations(stack, asset):
    query = """query Asset($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations { runId partition } } } }"""
    data = stack.graphql(query, key={"path": [asset]})["assetOrError"]
    return data.get("assetMaterializations", [])


@pytest.fixture
def webhook(stack):
    """Starts the webhook in the run containers' network; returns what was posted to it, so far."""
    image = stack.config["services"]["code_location"]["image"]
    where = f"--network={stack.name}_runs", "--network-alias=webhook"
    container = docker("run", "--detach", *where, image, "python", "-c", WEBHOOK).strip()
    yield lambda: [json.loads(line) for line in docker("logs", container).splitlines()]
    docker("rm", "--force", container)


def test_the_python_graphql_client_launches_a_run(stack):
    host, port = stack.address
    client = DagsterGraphQLClient(
        host, port_number=port, auth=HTTPBasicAuth(OPERATOR, stack.password)
    )
    run = client.submit_job_execution("process_numbers", "code_location", "__repository__")
    assert stack.finished(run) == "SUCCESS"


def test_the_command_line_in_the_control_plane_launches_a_run(stack):
    before = stack.runs_tagged("by", "shell")
    assert not before
    stack.compose(
        "exec", "--no-TTY", "daemon", "dagster", "job", "launch", "--tags", '{"by": "shell"}',
        "--workspace", "workspace.yaml", "--location", "code_location", "--job", "process_numbers",
    )  # fmt: skip
    (run,) = stack.runs_tagged("by", "shell")
    assert stack.finished(run["runId"]) == "SUCCESS"


def test_a_schedule_that_is_on_makes_runs_while_a_broken_one_beside_it_shows_its_error(stack):
    with (
        switched_on(stack, "Schedule", "broken_schedule"),
        switched_on(stack, "Schedule", "process_numbers_every_minute"),
    ):
        runs = wait_until(
            lambda: stack.runs_tagged("dagster/schedule_name", "process_numbers_every_minute"),
            "a tick of the schedule",
        )
        ticks = wait_until(
            lambda: [
                tick
                for tick in instigator(stack, "Schedule", "broken_schedule")["ticks"]
                if tick["status"] == "FAILURE"
            ],
            "a failed tick of the broken schedule",
        )
    assert "the calendar is torn" in json.dumps(ticks[0]["error"])
    assert stack.finished(runs[-1]["runId"]) == "SUCCESS"


def test_the_partitioned_schedule_is_for_the_day_that_has_ended(stack):
    query = """query Next($selector: ScheduleSelector!) {
        scheduleOrError(scheduleSelector: $selector) { ... on Schedule { cronSchedule
          futureTicks(limit: 1) { results { timestamp evaluationResult {
            runRequests { tags { key value } } } } } } } }"""
    selector = {**SELECTOR, "scheduleName": "process_day_every_night"}
    schedule = stack.graphql(query, selector=selector)["scheduleOrError"]
    assert schedule["cronSchedule"] == "0 1 * * *"
    (tick,) = schedule["futureTicks"]["results"]
    ((tags,),) = [[request["tags"] for request in tick["evaluationResult"]["runRequests"]]]
    the_day_before = time.strftime("%Y-%m-%d", time.gmtime(tick["timestamp"] - 86400))
    assert {"key": "dagster/partition", "value": the_day_before} in tags


def test_a_backfill_makes_a_run_for_each_partition(stack):
    mutation = """mutation Backfill($params: LaunchBackfillParams!) {
        launchPartitionBackfill(backfillParams: $params) {
          __typename ... on LaunchBackfillSuccess { backfillId } } }"""
    days = ["2026-01-01", "2026-01-02", "2026-01-10"]
    params = {
        "assetSelection": [{"path": ["numbers_of_the_day"]}, {"path": ["sum_of_the_day"]}],
        "partitionNames": days,
    }
    backfill = stack.graphql(mutation, params=params)["launchPartitionBackfill"]["backfillId"]
    status = """query Status($id: String!) { partitionBackfillOrError(backfillId: $id) {
        ... on PartitionBackfill { status } } }"""
    wait_until(
        lambda: (
            stack.graphql(status, id=backfill)["partitionBackfillOrError"]["status"]
            == "COMPLETED_SUCCESS"
        ),
        "the backfill",
        180,
    )
    assert len(stack.runs_tagged("dagster/backfill", backfill)) == len(days)
    assert {m["partition"] for m in materializations(stack, "sum_of_the_day")} >= set(days)


@pytest.mark.whole
def test_declarative_automation_materializes_what_depends_on_what_is_new(stack):
    before = len(materializations(stack, "sum_in_words"))
    with switched_on(stack, "Sensor", "default_automation_condition_sensor"):
        stack.run("process_numbers_asset")
        wait_until(
            lambda: len(materializations(stack, "sum_in_words")) > before, "sum_in_words", 180
        )


@pytest.mark.whole
def test_an_asset_sensor_asks_for_a_run_when_the_asset_is_new(stack, webhook):
    with switched_on(stack, "Sensor", "summed_numbers"):
        run = stack.run("process_numbers_asset")
        (message,) = wait_until(
            lambda: [m for m in webhook() if m["run"] == run], "the message", 120
        )
    assert message["text"] == "summed_two_sums is new"


def test_a_failed_run_is_told_to_the_webhook_with_its_reason_and_a_link(stack, webhook):
    with switched_on(stack, "Sensor", "failed_runs"):
        run = stack.launch("fail")
        (message,) = wait_until(
            lambda: [m for m in webhook() if m["run"] == run], "the message", 120
        )
    assert message == {
        "text": "fail failed",
        "job": "fail",
        "run": run,
        "error": "RuntimeError: the pump is dry",
        "link": f"{stack.ui_url}/runs/{run}",
    }


@pytest.mark.whole
def test_a_webhook_that_is_down_fails_its_own_run_only_and_holds_up_nobody(stack):
    with switched_on(stack, "Sensor", "failed_runs"):
        failed = stack.launch("fail")
        notification = wait_until(
            lambda: (
                stack.runs_tagged("dagster/sensor_name", "failed_runs")
                and stack.runs_tagged("dagster/run_key", failed)
            ),
            "the notification's run",
        )[0]["runId"]
        wait_until(lambda: stack.status_of(notification) == "STARTED", "its start")
        stack.run("process_numbers")
        assert stack.finished(notification, 180) == "FAILURE"
        tried = [
            e for e in stack.events(notification) if e["__typename"] == "ExecutionStepRestartEvent"
        ]
        assert len(tried) == 3
        # No notification about the notification.
        assert not stack.runs_tagged("dagster/run_key", notification)
    assert stack.is_healthy()


def test_a_broken_sensor_shows_its_error(stack):
    with switched_on(stack, "Sensor", "broken_sensor"):
        ticks = wait_until(
            lambda: [
                tick
                for tick in instigator(stack, "Sensor", "broken_sensor")["ticks"]
                if tick["status"] == "FAILURE"
            ],
            "a failed tick",
        )
    assert "the lens is cracked" in json.dumps(ticks[0]["error"])


def test_re_execution_from_failure_runs_the_failed_part_only_and_reads_what_was_stored(stack):
    first = stack.launch("recover")
    assert stack.finished(first) == "FAILURE"
    mutation = """mutation Again($params: ReexecutionParams!) {
        launchRunReexecution(reexecutionParams: $params) {
          __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    answer = stack.graphql(mutation, params={"parentRunId": first, "strategy": "FROM_FAILURE"})
    again = answer["launchRunReexecution"]["run"]["runId"]
    assert stack.finished(again) == "SUCCESS"
    steps = {
        e["stepKey"] for e in stack.events(again) if e["__typename"] == "ExecutionStepStartEvent"
    }
    assert steps == {"use_data"}


@pytest.mark.whole
@pytest.mark.parametrize("files", [200])
def test_each_file_dropped_while_the_daemon_is_killed_becomes_one_run(stack, files):
    inbox = stack.container_of("code_location")
    # Nothing is to run: what is asked for is what counts, and 200 runs take ten minutes.
    with switched_on(stack, "Sensor", "inbox_files"):
        program = f"for i in $(seq {files}); do echo $i >/var/lib/dagster/inbox/file-$i.txt; done"
        subprocess.run(["docker", "exec", inbox, "sh", "-c", program], check=True)
        count = """{ runsOrError(filter: {pipelineName: "process_inbox_file"}) {
            ... on Runs { count results { runId tags { key value } } } } }"""

        def requested():
            return stack.graphql(count)["runsOrError"]["results"]

        for enough in (files // 20, files // 3, files * 3 // 5):
            wait_until(lambda enough=enough: len(requested()) >= enough, f"{enough} runs", 180)
            daemon = stack.container_of("daemon")
            subprocess.run(["docker", "exec", daemon, "sh", "-c", "kill -9 -1"], check=False)
        wait_until(lambda: len(requested()) >= files, f"{files} runs", 240)
        # Two more looks at the same files.
        seen = len(instigator(stack, "Sensor", "inbox_files")["ticks"])
        wait_until(
            lambda: len(instigator(stack, "Sensor", "inbox_files")["ticks"]) >= min(seen + 2, 20),
            "two more ticks",
        )
    runs = requested()
    cancel = """mutation Cancel($ids: [String!]!) { terminateRuns(
        runIds: $ids, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename } }"""
    for start in range(0, len(runs), 20):  # all at once took more than a minute on a busy machine
        stack.graphql(cancel, ids=[run["runId"] for run in runs[start : start + 20]])
    for container in stack.run_containers(running_only=True).values():
        # Some have ended by now.
        subprocess.run(["docker", "kill", container], capture_output=True, check=False)
    tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in runs]
    # A run whose launch was cut off by the daemon's end is launched again.
    seen = [one["inbox/file"] for one in tags if "dagster/parent_run_id" not in one]
    assert sorted(seen) == sorted(f"file-{i}.txt" for i in range(1, files + 1))
