"""A run is launched when it comes into the queue, not at the queue's next poll."""

import pytest

from support.harness import wait_until

LIMIT = """mutation Limit($key: String!, $limit: Int!) {
    setConcurrencyLimit(concurrencyKey: $key, limit: $limit) }"""
LISTENERS = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"


@pytest.fixture(scope="module")
def polled_each_hour(stack):
    """The shared stack, whose daemon polls the queue every hour."""
    settings, interval = (stack.root / "dagster.yaml").read_text(), "dequeue_interval_seconds: 5\n"
    assert interval in settings
    file = stack.root / "slow.yaml"
    file.write_text(settings.replace(interval, "dequeue_interval_seconds: 3600\n"))
    stack.override({"daemon": {"volumes": [f"{file}:/opt/stack/dagster.yaml:ro"]}})
    again = "up", "--detach", "--wait", "--no-deps", "daemon"
    try:
        stack.compose(*again)
        yield stack
    finally:
        stack.override()
        stack.compose(*again)


def test_the_queue_needs_no_poll_also_after_postgres_has_ended_its_connection(polled_each_hour):
    stack = polled_each_hour
    wait_until(lambda: stack.sql(f"SELECT count(*) {LISTENERS}") == ["1"], "the listener")
    stack.run("talk")
    assert stack.sql(f"SELECT pg_terminate_backend(pid) {LISTENERS}") == ["t"]
    # Nobody listens now.
    stack.run("talk")


@pytest.mark.whole
def test_a_run_that_waits_for_a_place_is_launched_when_another_ends(polled_each_hour):
    stack = polled_each_hour
    runs = [stack.launch("talk") for _ in range(6)]
    assert {stack.finished(run) for run in runs} == {"SUCCESS"}


@pytest.mark.whole
def test_a_run_that_waits_for_a_pool_is_launched_when_a_step_leaves_it(polled_each_hour):
    stack = polled_each_hour
    stack.graphql(LIMIT, key="one_place", limit=1)
    first = stack.launch("leave_the_pool_and_hang")
    wait_until(
        lambda: any(event.get("message") == "in the pool" for event in stack.events(first)),
        "the first one to be in the pool",
    )
    second = stack.launch("leave_the_pool_and_hang")
    assert stack.status_of(second) == "QUEUED"
    wait_until(lambda: stack.status_of(second) == "STARTED", "the second one")
    assert stack.status_of(first) == "STARTED"
    for run in (first, second):
        stack.terminate(run)
        assert stack.finished(run) == "CANCELED"
