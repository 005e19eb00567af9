#!/usr/bin/env python3
"""Measures a stack with a long history: 100,000 runs, before and after old runs are deleted.

Needs a running stack whose history may be filled: the runs are copies of one run, with its tags and
some of its events, over the last 400 days.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from cli.errors import StackError
from cli.runs import follow
from cli.stack import Stack

RUNS, DAYS, KEPT_DAYS = 100_000, 400, 300
ROUNDS = 20
JOB = "process_numbers_asset"
# 12 of them are the events of its six assets.
EVENTS = 20
# What the page of runs asks for.
LIST = """{ runsOrError(limit: 25) { ... on Runs { results {
    runId status jobName startTime endTime tags { key value } assetSelection { path } } } } }"""
# {0}: the run to copy, {1}: the number of copies, {2}: the number of days. Each second copy is the
# run of a partition, a day, and so are its events of assets.
FILL = """
CREATE TEMP TABLE copies AS SELECT n, gen_random_uuid()::text AS id, at,
  CASE WHEN n % 2 = 0 THEN to_char(at, 'YYYY-MM-DD') END AS day
FROM (SELECT n, now() at time zone 'utc'
  - make_interval(secs => {2} * 86400.0 * (1 - n::float / {1})) AS at
  FROM generate_series(1, {1}) n) ages;
INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp,
  update_timestamp, start_time, end_time, partition)
SELECT copies.id, snapshot_id, pipeline_name, status, replace(run_body, '{0}', copies.id), at, at,
  extract(epoch FROM at), extract(epoch FROM at) + 4, day
FROM runs, copies WHERE run_id = '{0}' ORDER BY n;
INSERT INTO run_tags (run_id, key, value)
SELECT copies.id, key, value FROM run_tags, copies WHERE run_id = '{0}';
INSERT INTO event_logs
  (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT copies.id, replace(event, '{0}', copies.id), dagster_event_type, at, step_key, asset_key,
  CASE WHEN asset_key IS NOT NULL THEN day END
FROM copies, (SELECT * FROM event_logs WHERE run_id = '{0}'
  ORDER BY (asset_key IS NULL), id LIMIT {3}) model
ORDER BY n, model.id;
"""
# Deletes in the daemon's container, as the daemon does, but without its pauses between batches.
DELETE = """
import time
from dagster import DagsterInstance
from control_plane.connections import keep_connections
from control_plane.old_runs import OldRuns
with DagsterInstance.get() as instance:
    keep_connections(instance, 0)
    old, now, begun = OldRuns(instance, {0} * 86400), time.time(), time.monotonic()
    while now >= old.next_pass_at:
        old.tidy(now)
    print(old.deleted, time.monotonic() - begun)
"""


def sql(stack: Stack, query: str) -> str:
    """Asks Postgres as the superuser."""
    client = "psql", "--username=postgres", "--dbname=dagster", "--quiet", "-At"
    return stack.compose("exec", "--no-TTY", "postgres", *client, "--command", query).stdout.strip()


def measure(stack: Stack, label: str) -> list[str]:
    """A line of the table."""
    times: list[float] = []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        stack.graphql(LIST)
        times.append(1000 * (time.monotonic() - begun))
    waits: list[float] = []
    for _ in range(3):
        run = stack.launch(JOB)
        follow(stack, JOB, run)
        between = "dagster_event_type IN ('PIPELINE_ENQUEUED', 'PIPELINE_STARTING')"
        seconds = sql(
            stack,
            "SELECT extract(epoch FROM max(timestamp) - min(timestamp)) FROM event_logs"  # noqa: S608 # ours
            f" WHERE run_id = '{run}' AND {between}",
        )
        waits.append(float(seconds))
    count, size = (
        sql(stack, query)
        for query in (
            "SELECT count(*) FROM runs",
            "SELECT pg_size_pretty(pg_database_size('dagster'))",
        )
    )
    listed = f"{statistics.median(times):.0f} ms"
    used = [f"{memory(stack, service):.0f} MiB" for service in ("webserver", "daemon")]
    return [label, count, size, listed, f"{statistics.median(waits):.1f} s", *used]


def memory(stack: Stack, service: str) -> float:
    """What a service uses now in MiB, without the page cache."""
    # The two versions of control groups have it in different places.
    read = "cd /sys/fs/cgroup; [ -f memory.stat ] || cd memory; cat memory.stat"
    text = stack.compose("exec", "--no-TTY", service, "sh", "-c", read).stdout
    found = dict(line.split() for line in text.splitlines())
    return int(found.get("total_rss") or found["anon"]) / 2**20


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    stack = Stack()
    rows = [["history", "runs", "database", "run list", "queue", "web server", "daemon"]]
    try:
        model = stack.launch(JOB)
        follow(stack, JOB, model)
        rows.append(measure(stack, "empty"))
        sql(stack, FILL.format(model, RUNS, DAYS, EVENTS))
        sql(stack, "ANALYZE")
        rows.append(measure(stack, f"{DAYS} days"))
        program = "python", "-c", DELETE.format(KEPT_DAYS)
        told = stack.compose("exec", "--no-TTY", "daemon", *program).stdout.split()
        sql(stack, "VACUUM FULL")
        rows.append(measure(stack, f"{KEPT_DAYS} days"))
    except StackError as error:
        sys.exit(f"bench: {error}")
    deleted, seconds = int(told[0]), float(told[1])
    report.write(
        "A long history",
        f"{RUNS} copies of a run of `{JOB}` with its tags and {EVENTS} of its events, over {DAYS}"
        " days, each second one with a partition, a day."
        f" Then those older than {KEPT_DAYS} days were deleted, as `KEEP_RUNS={KEPT_DAYS}d` does:"
        f" {deleted} runs in {seconds:.0f} s, without the pauses that the daemon makes (100 runs a"
        " minute). After that, the database's size is that after VACUUM FULL; without it, the freed"
        f" space is used for new runs. Run list: the median of {ROUNDS} requests for 25 runs."
        " Queue: the median time of three runs from the queue to their launch. Memory is without"
        " the page cache.",
        rows,
    )


if __name__ == "__main__":
    main()
