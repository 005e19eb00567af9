#!/usr/bin/env python3
"""Measures a stack with a long history: 100,000 runs, before and after old runs are deleted.

    history.py FILE              100,000 runs, and a quarter of them is deleted
    history.py FILE --million    1,000,000 runs: 40 GB

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
from bench.pages import PAGES, seconds_of_pages
from cli import commands
from cli.errors import StackError
from cli.runs import follow
from cli.stack import OPERATOR, Stack

RUNS, DAYS, KEPT_DAYS = 100_000, 400, 300
MANY, AT_ONCE = 1_000_000, 50_000
ROUNDS, LAUNCHES = 20, 5
JOB = "process_numbers_asset"
# 12 of them are the events of its six assets.
EVENTS = 20
# What the page of runs asks for.
LIST = """{ runsOrError(limit: 25) { ... on Runs { results {
    runId status jobName startTime endTime tags { key value } assetSelection { path } } } } }"""
# Apart, because without indexes each look for it would read the whole table. {0}: the run to copy,
# {1}: the number of its events.
MODEL = """
CREATE TABLE model_run AS SELECT * FROM runs WHERE run_id = '{0}';
CREATE TABLE model_tags AS SELECT * FROM run_tags WHERE run_id = '{0}';
CREATE TABLE model_events AS SELECT * FROM event_logs WHERE run_id = '{0}'
  ORDER BY (asset_key IS NULL), id LIMIT {1};
"""
FORGET = "DROP TABLE IF EXISTS model_run, model_tags, model_events"
# {0}: the run to copy, {1}: the number of copies, {2}: of days, {3} and {4}: which copies. Each
# second copy is the run of a partition, a day, and so are its events of assets.
FILL = """
CREATE TEMP TABLE copies AS SELECT n, gen_random_uuid()::text AS id, at,
  CASE WHEN n % 2 = 0 THEN to_char(at, 'YYYY-MM-DD') END AS day
FROM (SELECT n, now() at time zone 'utc'
  - make_interval(secs => {2} * 86400.0 * (1 - n::float / {1})) AS at
  FROM generate_series({3}, {4}) n) ages;
INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp,
  update_timestamp, start_time, end_time, partition)
SELECT copies.id, snapshot_id, pipeline_name, status, replace(run_body, '{0}', copies.id), at, at,
  extract(epoch FROM at), extract(epoch FROM at) + 4, day
FROM model_run, copies ORDER BY n;
INSERT INTO run_tags (run_id, key, value)
SELECT copies.id, key, value FROM model_tags, copies;
INSERT INTO event_logs
  (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
SELECT copies.id, replace(event, '{0}', copies.id), dagster_event_type, at, step_key, asset_key,
  CASE WHEN asset_key IS NOT NULL THEN day END
FROM copies, model_events
ORDER BY n, model_events.id;
"""
# An index is quicker to make than to fill.
INDEXES = """SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
AND tablename IN ('runs', 'run_tags', 'event_logs')
AND indexname NOT IN (SELECT conname FROM pg_constraint)"""
DROP = """DO $$ DECLARE one text; BEGIN
FOR one IN SELECT indexname FROM pg_indexes WHERE schemaname = 'public'
  AND tablename IN ('runs', 'run_tags', 'event_logs')
  AND indexname NOT IN (SELECT conname FROM pg_constraint)
LOOP EXECUTE format('DROP INDEX %I', one); END LOOP; END $$"""
SCHEDULE = {
    "repositoryLocationName": "code_location",
    "repositoryName": "__repository__",
    "scheduleName": "process_numbers_every_minute",
}
ON = """mutation On($which: ScheduleSelector!) { startSchedule(scheduleSelector: $which) {
  ... on ScheduleStateResult { scheduleState { id } } } }"""
OFF = "mutation Off($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
TICKS = """SELECT start_time FROM runs
WHERE status = 'SUCCESS' AND create_timestamp > timezone('utc', now()) - interval '10 minutes'
AND run_id IN (SELECT run_id FROM run_tags WHERE key = 'dagster/schedule_name')"""
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


def fill(stack: Stack, model: str, runs: int) -> None:
    """Copies a run so many times."""
    # Without indexes, each of the daemon's questions would read all that has been filled in.
    stack.compose("stop", "daemon", "webserver")
    indexes = sql(stack, INDEXES).splitlines()
    sql(stack, f"{FORGET}; {MODEL.format(model, EVENTS)}")
    sql(stack, DROP)
    begun = time.monotonic()
    for first in range(1, runs + 1, AT_ONCE):
        last = min(first + AT_ONCE - 1, runs)
        sql(stack, FILL.format(model, runs, DAYS, first, last))
        print(f"{last} runs after {time.monotonic() - begun:.0f} s", flush=True)
    for index in indexes:
        sql(stack, f"SET maintenance_work_mem = '200MB'; {index}")
        print(f"{time.monotonic() - begun:.0f} s: {index[:70]}", flush=True)
    sql(stack, f"{FORGET}; ANALYZE")
    stack.compose(*commands.start())


def from_tick_to_start(stack: Stack, count: int) -> float:
    """The median time from the minute of a schedule to the start of its run."""
    on = stack.graphql(ON, which=SCHEDULE)["startSchedule"]["scheduleState"]["id"]
    found: list[float] = []
    try:
        while len(found) < count:
            time.sleep(2)
            found = [float(one) % 60 for one in sql(stack, TICKS).splitlines()]
    finally:
        stack.graphql(OFF, id=on)
    return statistics.median(found[:count])


def measure(stack: Stack, label: str) -> list[str]:
    """A line of the table."""
    times: list[float] = []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        stack.graphql(LIST)
        times.append(1000 * (time.monotonic() - begun))
    waits: list[float] = []
    whole: list[float] = []
    run = ""
    for _ in range(LAUNCHES):
        begun = time.time()
        run = stack.launch(JOB)
        whole.append(follow(stack, JOB, run)["endTime"] - begun)
        between = "dagster_event_type IN ('PIPELINE_ENQUEUED', 'PIPELINE_STARTING')"
        seconds = sql(
            stack,
            "SELECT extract(epoch FROM max(timestamp) - min(timestamp)) FROM event_logs"  # noqa: S608 # ours
            f" WHERE run_id = '{run}' AND {between}",
        )
        waits.append(float(seconds))
    tick = from_tick_to_start(stack, 3)
    day = sql(stack, "SELECT coalesce(max(partition), '2026-01-01') FROM runs")
    pages = seconds_of_pages(stack.ui_url, OPERATOR, stack.password, run=run, day=day)
    slowest = max(pages, key=lambda name: pages[name])
    count, size = (
        sql(stack, query)
        for query in (
            "SELECT count(*) FROM runs",
            "SELECT pg_size_pretty(pg_database_size('dagster'))",
        )
    )
    took = [
        f"{statistics.median(waits):.2f} s",
        f"{statistics.median(whole):.2f} s",
        f"{tick:.2f} s",
    ]
    used = [f"{memory(stack, service):.0f} MiB" for service in ("webserver", "daemon")]
    shown = f"{statistics.median(pages.values()):.1f} s", f"{pages[slowest]:.1f} s: {slowest}"
    return [label, count, size, f"{statistics.median(times):.0f} ms", *shown, *took, *used]


def memory(stack: Stack, service: str) -> float:
    """What a service uses now in MiB, without the page cache."""
    # The two versions of control groups have it in different places.
    read = "cd /sys/fs/cgroup; [ -f memory.stat ] || cd memory; cat memory.stat"
    text = stack.compose("exec", "--no-TTY", service, "sh", "-c", read).stdout
    found = dict(line.split() for line in text.splitlines())
    return int(found.get("total_rss") or found["anon"]) / 2**20


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    stack, is_long = Stack(), "--million" in sys.argv
    runs = MANY if is_long else RUNS
    rows = [
        ["history", "runs", "database", "run list", "a page", "the slowest page", "queue",
         "launch to success", "tick to start", "web server", "daemon"],
    ]  # fmt: skip
    told: list[str] = []
    try:
        model = stack.launch(JOB)
        follow(stack, JOB, model)
        rows.append(measure(stack, "empty"))
        fill(stack, model, runs)
        rows.append(measure(stack, f"{DAYS} days"))
        if not is_long:
            program = "python", "-c", DELETE.format(KEPT_DAYS)
            told = stack.compose("exec", "--no-TTY", "daemon", *program).stdout.split()
            sql(stack, "VACUUM FULL")
            rows.append(measure(stack, f"{KEPT_DAYS} days"))
    except StackError as error:
        sys.exit(f"bench: {error}")
    deleted = ""
    if told:
        deleted = (
            f" Then those older than {KEPT_DAYS} days were deleted, as `KEEP_RUNS={KEPT_DAYS}d`"
            f" does: {told[0]} runs in {float(told[1]):.0f} s, without the pauses that the daemon"
            " makes (100 runs a minute). After that, the database's size is that after VACUUM FULL;"
            " without it, the freed space is used for new runs."
        )
    report.write(
        "A million runs" if is_long else "A long history",
        f"{runs} copies of a run of `{JOB}` with its tags and {EVENTS} of its events, over {DAYS}"
        f" days, each second one with a partition, a day.{deleted}"
        f" Run list: the median of {ROUNDS} requests for 25 runs. A page: in a"
        f" browser on this machine, the median of {len(PAGES)} pages of the web UI until their"
        f" last answer ({', '.join(PAGES)}), each the median of three. Queue: the median time of"
        f" {LAUNCHES} runs from the queue to their launch, and then from the launch to their"
        " success. Tick to start: of three runs of a schedule, after the full minute. Memory is"
        " without the page cache.",
        rows,
        verb="make bench-million" if is_long else "make bench",
    )


if __name__ == "__main__":
    main()
