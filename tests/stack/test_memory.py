"""What user code writes and signed-in clients ask for does not kill the web server or the sign-in.

By memory: each message to the UI can be large, there can be many, and a client need not read them.
"""

import asyncio

import aiohttp
import pytest

from support.cli import OPERATOR, basic
from support.hostile_logs import KEY, attacker

RUN_LOGS = """subscription { pipelineRunLogs(runId: "%s") { ... on
    PipelineRunLogsSubscriptionSuccess { messages { ... on MessageEvent { message } } } } }"""
STEP_LOGS = """subscription { capturedLogs(logKey: ["%s"]) { stdout cursor } }"""


# 1,000 copies of an event, with a text of 40 kB.
LARGE_EVENTS = """
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp)
    SELECT run_id, jsonb_set(
            jsonb_set(event::jsonb, '{user_message}', text), '{dagster_event,message}', text
        )::text, dagster_event_type, timestamp
    FROM event_logs, generate_series(1, 1000), to_jsonb(repeat('x', 40000)) AS text
    WHERE id = (SELECT max(id) FROM event_logs
                WHERE run_id = 'RUN' AND dagster_event_type = 'ENGINE_EVENT')
"""


@pytest.fixture
def nothing_dies(stack):
    services = "webserver", "webserver_viewer", "sign_in", "edge"
    before = {one: stack.inspect(stack.container_of(one))["State"] for one in services}
    yield
    for service, state in before.items():
        now = stack.inspect(stack.container_of(service))["State"]
        assert (now["StartedAt"], now["OOMKilled"]) == (state["StartedAt"], False), service
    assert stack.graphql("{ version }")["version"]


def subscribed(stack, query, users, times, bytes_each):
    """Opens a WebSocket for each user, each with subscriptions; returns the bytes read of each.

    Reads until so many bytes have come, or none do for a while; then still holds all of them open.
    """

    async def one(session, user):
        auth = {"Authorization": basic(user, stack.password_of(user))}
        socket = await session.ws_connect(
            f"{stack.url}/graphql", protocols=["graphql-ws"], headers=auth, max_msg_size=0
        )
        await socket.send_json({"type": "connection_init", "payload": {}})
        for number in range(times):
            await socket.send_json(
                {"id": str(number), "type": "start", "payload": {"query": query}}
            )
        read = 0
        while read < bytes_each:
            try:
                read += len((await socket.receive(timeout=20)).data or "")
            except (TimeoutError, TypeError):
                break
        return socket, read

    async def all_of_them():
        async with aiohttp.ClientSession() as session:
            opened = await asyncio.gather(*(one(session, user) for user in users))
            # What is sent to those that do not read has been sent by now.
            await asyncio.sleep(5)
            assert all(not socket.closed for socket, _ in opened)
            return [read for _, read in opened]

    return asyncio.run(all_of_them())


# They use one web server each, of the same image.
USERS = [OPERATOR, pytest.param("viewer", marks=pytest.mark.whole)]


@pytest.fixture(scope="module")
def large_run(stack):
    """A run with 1,000 events of 40 kB."""
    run = stack.run("process_numbers")
    stack.sql(LARGE_EVENTS.replace("RUN", run))
    return run


@pytest.mark.whole
@pytest.mark.usefixtures("nothing_dies")
def test_many_readers_of_a_run_with_large_events(stack, large_run):
    read = subscribed(stack, RUN_LOGS % large_run, [OPERATOR] * 4, 1, 35_000_000)
    assert min(read) >= 35_000_000


@pytest.mark.whole
@pytest.mark.usefixtures("nothing_dies")
def test_many_who_subscribe_to_a_run_with_large_events_and_do_not_read(stack, large_run):
    subscribed(stack, RUN_LOGS % large_run, [OPERATOR, "viewer"] * 4, 1, 0)


@pytest.mark.whole
@pytest.mark.usefixtures("nothing_dies")
@pytest.mark.parametrize("user", USERS)
def test_many_readers_of_a_sparse_log(stack, user):
    with attacker(stack, "sparse"):
        read = subscribed(stack, STEP_LOGS % '", "'.join(KEY), [user] * 4, 1, 30_000_000)
    # Of NUL bytes, each of which is six in JSON.
    assert min(read) >= 30_000_000


@pytest.mark.whole
@pytest.mark.usefixtures("nothing_dies")
@pytest.mark.parametrize("user", USERS)
def test_many_who_follow_a_sparse_log_and_do_not_read(stack, user):
    with attacker(stack, "sparse"):
        subscribed(stack, STEP_LOGS % '", "'.join(KEY), [user] * 5, 20, 0)
