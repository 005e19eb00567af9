"""User code cannot make the web servers read their own files by way of the step logs.

As a run container could, a container writes the volume of the step logs: links to the database
password in place of a log, swapped in while the log is read.
"""

import asyncio
import json

import aiohttp
import pytest

from support.cli import OPERATOR
from support.harness import wait_until
from support.hostile_logs import KEY, attacker

AT_ONCE = 16


def read(stack, times, user=OPERATOR):
    """What is seen of the log, by download and over GraphQL in turn: statuses and texts."""
    query = "query Logs($key: [String!]!) { capturedLogs(logKey: $key) { stdout } }"
    question = json.dumps({"query": query, "variables": {"key": KEY}})
    seen = set()

    async def reader(session, count):
        for number in range(count):
            if number % 4:
                asked = session.get(f"{stack.url}/logs/{'/'.join(KEY)}/out")
            else:
                asked = session.post(f"{stack.url}/graphql", data=question)
            async with asked as answer:
                text = (await answer.content.read(1000)).decode()
                seen.add((answer.status, text))

    async def readers():
        headers = {"Content-Type": "application/json"}
        auth = aiohttp.BasicAuth(user, stack.password_of(user))
        connector = aiohttp.TCPConnector(limit=AT_ONCE)
        async with aiohttp.ClientSession(
            auth=auth, headers=headers, connector=connector
        ) as session:
            await asyncio.gather(*(reader(session, times // AT_ONCE) for _ in range(AT_ONCE)))

    asyncio.run(readers())
    return seen


GONE = {(404, "there is no such log"), (200, '{"data":{"capturedLogs":{"stdout":null}}}')}
SAID = {(200, "said\n"), (200, '{"data":{"capturedLogs":{"stdout":"said\\n"}}}')}


@pytest.mark.parametrize(
    ("reads", "user"),
    [
        (1000, OPERATOR),
        *(pytest.param(10_000, user, marks=pytest.mark.release) for user in (OPERATOR, "viewer")),
    ],
)
def test_no_read_shows_a_file_that_is_swapped_in_while_it_reads(stack, user, reads):
    with attacker(stack, "swap") as swapper:
        wait_until(lambda: read(stack, AT_ONCE, user) & SAID, "the log")
        seen = read(stack, reads, user)
        assert stack.inspect(swapper)["State"]["Running"]
    assert seen == GONE | SAID


@pytest.mark.parametrize("kind", ["link", "process", "fifo", "folder"])
def test_a_log_that_is_not_a_regular_file_is_reported_missing(stack, kind):
    with attacker(stack, kind):
        assert read(stack, 8 * AT_ONCE) == GONE


@pytest.mark.parametrize("kind", ["sparse", "endless"])
def test_a_log_without_end_takes_no_memory(stack, kind):
    service = stack.container_of("webserver")
    before = stack.inspect(service)["State"]["StartedAt"]
    with attacker(stack, kind):
        wait_until(lambda: any(status == 200 for status, _ in read(stack, AT_ONCE)), "the log")
        read(stack, 4 * AT_ONCE)
    state = stack.inspect(service)["State"]
    assert (state["StartedAt"], state["OOMKilled"]) == (before, False)
    assert stack.graphql("{ version }")["version"]
