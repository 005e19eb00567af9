"""The viewer sees everything and changes nothing, whatever way it asks."""

import asyncio
import json

import aiohttp
import pytest

from support.cli import basic
from support.edge_client import JSON, ask
from support.harness import wait_until

CHANGES = {
    "launching a run": None,
    "deleting a run": 'mutation { deletePipelineRun(runId: "%s") { __typename } }',
    "wiping an asset": """mutation { wipeAssets(assetPartitionRanges: [
        {assetKey: {path: ["summed_two_sums"]}}]) { __typename } }""",
    "switching a schedule on": """mutation { startSchedule(scheduleSelector: {
        repositoryLocationName: "code_location", repositoryName: "__repository__",
        scheduleName: "process_numbers_every_minute"}) { __typename } }""",
    "reloading code": """mutation { reloadRepositoryLocation(
        repositoryLocationName: "code_location") { __typename } }""",
}


@pytest.fixture
def viewer(stack):
    return {"Authorization": basic("viewer", stack.password_of("viewer"))}


def test_a_viewer_sees_runs_and_their_output(stack, viewer):
    run = stack.run("talk")
    question = json.dumps(
        {"query": f'{{ runOrError(runId: "{run}") {{ ... on Run {{ status }} }} }}'}
    )
    answer = ask(stack, "POST", "/graphql", {**JSON, **viewer}, question.encode(), sign_in=False)
    assert json.loads(answer.text)["data"]["runOrError"]["status"] == "SUCCESS"
    (key,) = [
        event["fileKey"]
        for event in stack.events(run)
        if event["__typename"] == "LogsCapturedEvent"
    ]
    log = ask(stack, "GET", f"/logs/{run}/compute_logs/{key}/out", viewer, sign_in=False)
    assert "said on stdout" in log.text


@pytest.mark.parametrize("change", CHANGES)
def test_a_viewer_cannot_change_anything(stack, viewer, launch, finished_run, change):
    body, _, mark = launch
    run = finished_run
    if CHANGES[change]:
        body = json.dumps({"query": CHANGES[change].replace("%s", run)})
    answer = ask(stack, "POST", "/graphql", {**JSON, **viewer}, body.encode(), sign_in=False)
    (kind,) = [value["__typename"] for value in json.loads(answer.text)["data"].values()]
    assert kind == "UnauthorizedError"
    assert not stack.runs_marked(mark)
    assert stack.status_of(run) == "SUCCESS"


def test_a_viewer_cannot_terminate_a_run(stack, viewer):
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the run")
    query = """mutation Stop($run: String!) { terminateRun(runId: $run) {
        __typename ... on TerminateRunFailure { message } } }"""
    stop = json.dumps({"query": query, "variables": {"run": run}}).encode()
    answer = ask(stack, "POST", "/graphql", {**JSON, **viewer}, stop, sign_in=False)
    assert "You do not have permission to terminate this run" in answer.text
    assert stack.status_of(run) == "STARTED"
    ask(stack, "POST", "/graphql", JSON, stop)
    assert stack.finished(run) == "CANCELED"


def test_the_edge_refuses_a_mutation_that_a_viewer_sends_by_get(stack, viewer, launch):
    _, in_url, mark = launch
    answer = ask(stack, "GET", f"/graphql?{in_url}", viewer, sign_in=False)
    assert answer.status == 400
    assert not stack.runs_marked(mark)


def test_a_viewer_s_websocket_shows_events_and_cannot_launch_a_run(
    stack, viewer, launch, finished_run
):
    body, _, mark = launch

    async def say(query):
        """What the server says to a query over a WebSocket, until it has said enough."""
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"{stack.url}/graphql", protocols=["graphql-ws"], headers=viewer
            ) as socket,
        ):
            await socket.send_json({"type": "connection_init", "payload": {}})
            await socket.send_json({"id": "1", "type": "start", "payload": query})
            async for message in socket:
                answer = json.loads(message.data)
                if answer["type"] in ("data", "error", "complete"):
                    return answer
        return {}

    events = """subscription { pipelineRunLogs(runId: "%s") { ... on
        PipelineRunLogsSubscriptionSuccess { messages { __typename } } } }"""
    heard = asyncio.run(say({"query": events.replace("%s", finished_run)}))
    assert "RunSuccessEvent" in json.dumps(heard)
    refused = asyncio.run(say(json.loads(body)))
    assert "LaunchRunSuccess" not in json.dumps(refused)
    assert not stack.runs_marked(mark)
