"""Checks of what the instance does: runs, the queue, ticks, the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from cli import database
from cli.doctor import Finding
from cli.stack import Stack

# A run starts within start_timeout_seconds of dagster.yaml, or is failed.
LONGEST_START, LONGEST_WAIT, LATEST_TICK = 240, 600, 180
MOST_CONNECTIONS, LARGE_DATABASE = 0.8, 50 << 30

STARTING = f"""SELECT run_id, pipeline_name FROM runs WHERE status IN ('STARTING', 'CANCELING')
AND update_timestamp < timezone('utc', now()) - interval '{LONGEST_START} seconds'"""  # noqa: S608 # numbers of ours
QUEUE = f"""SELECT count(*) AS waiting,
  extract(epoch FROM timezone('utc', now()) - min(create_timestamp))::int AS seconds,
  (SELECT count(*) FROM runs WHERE status IN ('STARTING', 'STARTED')) AS going
FROM runs WHERE status = 'QUEUED'
HAVING min(create_timestamp) < timezone('utc', now()) - interval '{LONGEST_WAIT} seconds'"""  # noqa: S608
# A switched-on schedule or sensor writes a tick, or updates its last one, when it is evaluated.
HEARTBEATS = """SELECT daemon_type,
  extract(epoch FROM timezone('utc', now()) - timestamp)::int AS seconds
FROM daemon_heartbeats WHERE daemon_id = (
  SELECT daemon_id FROM daemon_heartbeats ORDER BY timestamp DESC LIMIT 1)"""
SIZE = """SELECT pg_database_size('dagster') AS bytes,
  pg_size_pretty(pg_database_size('dagster')) AS size"""
# The others are for the control plane (docker-compose.yml), so runs fail before all are in use.
CONNECTIONS = """SELECT count(*) AS used, current_setting('max_connections')::int
  - current_setting('reserved_connections')::int
  - current_setting('superuser_reserved_connections')::int AS most
FROM pg_stat_activity WHERE backend_type = 'client backend'"""
INSTIGATORS = """{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name }
  schedules { name scheduleState { status ticks(limit: 1) { status timestamp error { message } } } }
  sensors { name minIntervalSeconds
    sensorState { status ticks(limit: 1) { status timestamp error { message } } } }
} } } }"""
NEXT = """query Next($which: ScheduleSelector!, $after: Float!) {
  scheduleOrError(scheduleSelector: $which) { ... on Schedule {
    futureTicks(cursor: $after, limit: 1) { results { timestamp } } } } }"""


def starting(stack: Stack) -> Iterator[Finding]:
    """No run is in STARTING or CANCELING for too long."""
    for row in database.rows(stack, STARTING):
        what = f"the run {row['run_id'][:8]} of {row['pipeline_name']} neither starts nor ends"
        yield Finding("runs", what, f"make logs RUN={row['run_id'][:8]}; terminate it in the UI")


def queue(stack: Stack) -> Iterator[Finding]:
    """The queue moves."""
    for row in database.rows(stack, QUEUE):
        what = f"{row['waiting']} runs wait, the first for {row['seconds']} s; {row['going']} go on"
        yield Finding("queue", what,
                      "the events of a waiting run say which limit holds it: max_concurrent_runs,"
                      " a pool, a tag (dagster.yaml)")  # fmt: skip


def daemon(stack: Stack) -> Iterator[Finding]:
    """Each thread of the daemon is alive."""
    for row in database.rows(stack, HEARTBEATS):
        if int(row["seconds"]) > LATEST_TICK:
            what = f"its {row['daemon_type']} thread is silent for {row['seconds']} s"
            yield Finding("daemon", what, "docker compose restart daemon; make logs")


def ticks(stack: Stack) -> Iterator[Finding]:
    """The schedules and sensors that are on tick in time, and their last ticks did not fail."""
    where = f"see its page: {stack.ui_url}/automation"
    nodes: list[dict[str, Any]] = stack.graphql(INSTIGATORS)["repositoriesOrError"].get("nodes", [])
    for node in nodes:
        found = [(one, one["scheduleState"]) for one in node["schedules"]]
        found += [(one, one["sensorState"]) for one in node["sensors"]]
        for one, state in found:
            if state["status"] != "RUNNING" or not state["ticks"]:
                continue
            last: dict[str, Any] = state["ticks"][0]
            if last["status"] == "FAILURE":
                said = str(last["error"]["message"] if last["error"] else "").strip()
                what = f"the last tick of {one['name']} failed: {said.partition(chr(10))[0]}"
                yield Finding("ticks", what, where)
            late = time.time() - _due(stack, node["location"]["name"], one, last["timestamp"])
            if late > LATEST_TICK:
                what = (
                    f"{one['name']} is on, and has not ticked for {late:.0f} s when it should have"
                )
                yield Finding("ticks", what, "docker compose restart daemon; make logs")


def _due(stack: Stack, location: str, one: dict[str, Any], last: float) -> float:
    """When a schedule or sensor had to tick after its last tick, in seconds since 1970."""
    if "minIntervalSeconds" in one:
        return last + one["minIntervalSeconds"]
    which = {"repositoryLocationName": location, "repositoryName": "__repository__"}
    asked = stack.graphql(NEXT, which={**which, "scheduleName": one["name"]}, after=int(last) + 1)
    after = asked["scheduleOrError"].get("futureTicks", {}).get("results")
    return after[0]["timestamp"] if after else time.time()


def size(stack: Stack) -> Iterator[Finding]:
    """The database is not very large, and has connections left."""
    (row,) = database.rows(stack, SIZE)
    if int(row["bytes"]) > LARGE_DATABASE:
        yield Finding("database", f"it has {row['size']}", "KEEP_RUNS=90d in .env deletes old runs")
    (row,) = database.rows(stack, CONNECTIONS)
    if int(row["used"]) > MOST_CONNECTIONS * int(row["most"]):
        what = f"{row['used']} connections are in use, of {row['most']} that runs can have"
        yield Finding("database", what, "fewer runs at once, or more max_connections (postgres)")


CHECKS = (daemon, starting, queue, ticks, size)
